//! Avro single-object encoding: `C3 01`, the schema's 8-byte CRC-64-AVRO fingerprint, then the record.
//!
//! The `.avsc` files are the source. This module converts between bytes and Rust types directly, without Avro's
//! `Value`. It must still read what older releases wrote: it decodes such a message by its own schema, and fields that
//! were added since take their serde default.

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::alert::Alert;
use crate::event::Event;

/// The two bytes that open a single-object encoding (Avro 1.12 specification).
const MARKER: [u8; 2] = [0xC3, 0x01];
/// The marker and the fingerprint.
const PREFIX_BYTES: usize = 10;
/// Largest record in bytes, written or read. An event takes a few hundred. The stages cut every text, so even a body
/// that was made to be large stays far below. In Rust, a record takes up to fifty times its bytes (a list of empty
/// texts does). So this also bounds how much memory a message can make a reader allocate.
pub const RECORD_MAX_BYTES: usize = 2 << 20;

/// Why bytes could not be turned into a record, or a record into bytes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not single-object encoded.
    #[error("expected an Avro single-object encoding (C3 01 and a fingerprint), found {found}")]
    NotSingleObject {
        /// The first bytes in hex, or that there are too few.
        found: String,
    },
    /// This release does not know the schema.
    #[error(
        "unknown schema fingerprint {fingerprint:016x} for a record of type {record}; this release knows {known:016x}"
    )]
    UnknownSchema {
        /// The record type that was expected.
        record: &'static str,
        /// The fingerprint found.
        fingerprint: u64,
        /// The newest fingerprint of that type.
        known: u64,
    },
    /// The record is larger than [`RECORD_MAX_BYTES`].
    #[error("expected a record of type {record} of at most {RECORD_MAX_BYTES} bytes, found {bytes}")]
    TooLarge {
        /// The record type.
        record: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// The bytes do not follow the schema.
    #[error("cannot decode a record of type {record}")]
    Decode {
        /// The record type that was expected.
        record: &'static str,
        /// What the Avro library says.
        #[source]
        source: Box<apache_avro::Error>,
    },
    /// The record does not follow the schema.
    #[error("cannot encode a record of type {record}")]
    Encode {
        /// The record type.
        record: &'static str,
        /// What the Avro library says.
        #[source]
        source: Box<apache_avro::Error>,
    },
}

/// A record type with its schema.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name of the record, as in its `.avsc` file.
    const NAME: &'static str;
    /// Text of the `.avsc` file.
    const AVSC: &'static str;
    /// The schemas with which earlier releases wrote. What they wrote may still be in a stream.
    const EARLIER: &'static [&'static str];
    /// The prepared schema.
    fn codec() -> &'static Codec;
}

/// A schema that is ready for use: parsed, resolved, with its prefix.
pub struct Codec {
    prefix: [u8; PREFIX_BYTES],
    writer: GenericDatumWriter<'static>,
    reader: GenericDatumReader<'static>,
    /// Readers of what earlier releases wrote, with their prefixes.
    earlier: Vec<([u8; PREFIX_BYTES], GenericDatumReader<'static>)>,
}

/// Parses `avsc`. Leaked once per schema: the prepared reader and writer borrow it for the life of the process.
fn parsed(avsc: &str) -> ([u8; PREFIX_BYTES], &'static Schema) {
    let schema = Schema::parse_str(avsc).expect("a test parses every .avsc file");
    let fingerprint = schema.fingerprint::<Rabin>();
    let mut prefix = [0; PREFIX_BYTES];
    prefix[..2].copy_from_slice(&MARKER);
    prefix[2..].copy_from_slice(&fingerprint.bytes);
    (prefix, Box::leak(Box::new(schema)))
}

fn reader(schema: &'static Schema) -> GenericDatumReader<'static> {
    let reader = GenericDatumReader::builder(schema).human_readable(false).build();
    reader.expect("a test resolves every .avsc file")
}

impl Codec {
    fn new(avsc: &str, earlier: &[&str]) -> Self {
        // By default, the library believes a length of up to 512 MiB and allocates it before it looks for the bytes.
        // The limit is one for the whole process, which is fine: nothing else here decodes Avro.
        apache_avro::util::max_allocation_bytes(RECORD_MAX_BYTES);
        let (prefix, schema) = parsed(avsc);
        let writer = GenericDatumWriter::builder(schema).human_readable(false).build();
        let of_earlier = |avsc: &&str| {
            let (prefix, schema) = parsed(avsc);
            (prefix, reader(schema))
        };
        Self {
            prefix,
            writer: writer.expect("a test resolves every .avsc file"),
            reader: reader(schema),
            earlier: earlier.iter().map(of_earlier).collect(),
        }
    }

    /// The reader of messages that begin with `prefix`.
    fn reader_of(&self, prefix: &[u8]) -> Option<&GenericDatumReader<'static>> {
        if prefix == self.prefix {
            return Some(&self.reader);
        }
        self.earlier.iter().find(|(own, _)| own == prefix).map(|(_, reader)| reader)
    }

    /// The schema's CRC-64-AVRO fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint_of(&self.prefix)
    }
}

impl Record for Event {
    const NAME: &'static str = "headrace.Event";
    const AVSC: &'static str = include_str!("../avro/event.avsc");
    const EARLIER: &'static [&'static str] = &[include_str!("../avro/earlier/event-1.avsc")];
    fn codec() -> &'static Codec {
        static CODEC: LazyLock<Codec> = LazyLock::new(|| Codec::new(Event::AVSC, Event::EARLIER));
        &CODEC
    }
}

impl Record for Alert {
    const NAME: &'static str = "headrace.Alert";
    const AVSC: &'static str = include_str!("../avro/alert.avsc");
    const EARLIER: &'static [&'static str] = &[];
    fn codec() -> &'static Codec {
        static CODEC: LazyLock<Codec> = LazyLock::new(|| Codec::new(Alert::AVSC, Alert::EARLIER));
        &CODEC
    }
}

/// `(name, fingerprint, avsc)` of every record type, for the KV bucket `schemas`.
#[must_use]
pub fn all_schemas() -> [(&'static str, u64, &'static str); 2] {
    [(Event::NAME, Event::codec().fingerprint(), Event::AVSC), (Alert::NAME, Alert::codec().fingerprint(), Alert::AVSC)]
}

/// Encodes `record` as one Avro single object.
///
/// # Errors
/// When the record does not follow its schema, or is larger than [`RECORD_MAX_BYTES`]. For this crate's types, a test
/// excludes the former.
pub fn encode<R: Record>(record: &R) -> Result<Vec<u8>, CodecError> {
    let codec = R::codec();
    let mut bytes = Vec::with_capacity(1024);
    bytes.extend_from_slice(&codec.prefix);
    codec
        .writer
        .write_ser(&mut bytes, record)
        .map_err(|source| CodecError::Encode { record: R::NAME, source: Box::new(source) })?;
    within_limit::<R>(bytes.len())?;
    Ok(bytes)
}

/// Decodes one Avro single object.
///
/// # Errors
/// When `bytes` are not a single object, have an unknown schema, are larger than [`RECORD_MAX_BYTES`], or do not follow
/// their schema.
pub fn decode<R: Record>(bytes: &[u8]) -> Result<R, CodecError> {
    let codec = R::codec();
    within_limit::<R>(bytes.len())?;
    let Some((prefix, mut datum)) =
        bytes.split_at_checked(PREFIX_BYTES).filter(|(prefix, _)| prefix.starts_with(&MARKER))
    else {
        return Err(CodecError::NotSingleObject { found: found(bytes) });
    };
    let Some(reader) = codec.reader_of(prefix) else {
        return Err(CodecError::UnknownSchema {
            record: R::NAME,
            fingerprint: fingerprint_of(prefix),
            known: codec.fingerprint(),
        });
    };
    reader.read_deser(&mut datum).map_err(|source| CodecError::Decode { record: R::NAME, source: Box::new(source) })
}

const fn within_limit<R: Record>(bytes: usize) -> Result<(), CodecError> {
    if bytes > RECORD_MAX_BYTES { Err(CodecError::TooLarge { record: R::NAME, bytes }) } else { Ok(()) }
}

fn fingerprint_of(prefix: &[u8]) -> u64 {
    let bytes: [u8; 8] = prefix[2..PREFIX_BYTES].try_into().expect("a prefix is ten bytes");
    u64::from_le_bytes(bytes)
}

fn found(bytes: &[u8]) -> String {
    if bytes.len() < PREFIX_BYTES {
        return format!("{} bytes", bytes.len());
    }
    bytes[..2].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
