//! What this front knows about output formats: their content type, and whether blocks can be joined to one output. The
//! engine formats each block of a stream separately. So every block has the header, and we keep only the first header.
//! A format that is one document (JSON, Parquet) must never be streamed.

/// How to join the blocks of a streamed result to one output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    /// One block follows the other.
    Append,
    /// One block follows the other, and only the first keeps its header.
    Headed(Header),
    /// The blocks cannot be joined, so the engine makes the result in one piece.
    Whole,
}

/// What a header looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// This many line breaks outside double quotes.
    Lines(usize),
    /// A count of columns, then this many lists of strings: names, or names and types. Lengths are LEB128.
    Binary(usize),
}

/// The default format of ClickHouse's HTTP interface.
pub(super) const DEFAULT: &str = "TabSeparated";

/// How to join the blocks of a stream in `format`. A result in an unknown format is made in one piece.
pub(super) fn blocks(format: &str) -> Blocks {
    match format.to_ascii_lowercase().as_str() {
        "tabseparated"
        | "tsv"
        | "tabseparatedraw"
        | "tsvraw"
        | "csv"
        | "jsoneachrow"
        | "jsonlines"
        | "ndjson"
        | "jsoncompacteachrow"
        | "jsonstringseachrow"
        | "jsoncompactstringseachrow"
        | "rowbinary"
        | "native" => Blocks::Append,
        "tabseparatedwithnames" | "tsvwithnames" | "csvwithnames" | "jsoncompacteachrowwithnames" => {
            Blocks::Headed(Header::Lines(1))
        }
        "tabseparatedwithnamesandtypes"
        | "tsvwithnamesandtypes"
        | "csvwithnamesandtypes"
        | "jsoncompacteachrowwithnamesandtypes" => Blocks::Headed(Header::Lines(2)),
        "rowbinarywithnames" => Blocks::Headed(Header::Binary(1)),
        "rowbinarywithnamesandtypes" => Blocks::Headed(Header::Binary(2)),
        _ => Blocks::Whole,
    }
}

impl Header {
    /// The length of the header at the start of `block`. It is the length of `block` if there is nothing else.
    pub(super) fn length(self, block: &[u8]) -> usize {
        match self {
            Self::Lines(lines) => lines_length(block, lines),
            Self::Binary(lists) => binary_length(block, lists).unwrap_or(block.len()),
        }
    }
}

fn lines_length(block: &[u8], lines: usize) -> usize {
    let mut quoted = false;
    let mut seen = 0;
    for (at, &byte) in block.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => seen += 1,
            _ => {}
        }
        if seen == lines {
            return at + 1;
        }
    }
    block.len()
}

fn binary_length(block: &[u8], lists: usize) -> Option<usize> {
    let mut at = 0;
    let columns = leb128(block, &mut at)?;
    for _ in 0..columns.checked_mul(lists)? {
        let length = leb128(block, &mut at)?;
        at = at.checked_add(length).filter(|&end| end <= block.len())?;
    }
    Some(at)
}

fn leb128(block: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0_usize;
    for shift in (0..usize::BITS).step_by(7) {
        let byte = *block.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The content type that ClickHouse's HTTP interface gives to a format.
pub(super) fn content_type(format: &str) -> &'static str {
    let format = format.to_ascii_lowercase();
    match format.as_str() {
        "json"
        | "jsoncompact"
        | "jsonstrings"
        | "jsoncompactstrings"
        | "jsoncolumns"
        | "jsoncompactcolumns"
        | "jsoncolumnswithmetadata"
        | "jsonobjecteachrow" => "application/json; charset=UTF-8",
        _ if format.contains("eachrow") || matches!(format.as_str(), "ndjson" | "jsonlines") => {
            "application/x-ndjson; charset=UTF-8"
        }
        "csv" => "text/csv; charset=UTF-8; header=absent",
        "csvwithnames" | "csvwithnamesandtypes" => "text/csv; charset=UTF-8; header=present",
        "xml" => "application/xml; charset=UTF-8",
        "markdown" => "text/markdown; charset=UTF-8",
        _ if format.starts_with("tsv") || format.starts_with("tabseparated") => {
            "text/tab-separated-values; charset=UTF-8"
        }
        "native"
        | "rowbinary"
        | "rowbinarywithnames"
        | "rowbinarywithnamesandtypes"
        | "parquet"
        | "arrow"
        | "arrowstream"
        | "orc"
        | "avro"
        | "msgpack"
        | "rawblob" => "application/octet-stream",
        _ => "text/plain; charset=UTF-8",
    }
}

#[cfg(test)]
mod tests {
    use super::{Blocks, Header, blocks, content_type};

    #[test]
    fn headers_are_measured() {
        assert_eq!(Header::Lines(1).length(b"a\tb\n1\t2\n"), 4);
        assert_eq!(Header::Lines(2).length(b"a\nUInt8\n1\n"), 8);
        assert_eq!(Header::Lines(1).length(b"\"a\nb\"\n1\n"), 6);
        assert_eq!(Header::Binary(2).length(b"\x01\x01a\x05UInt8\xff"), 9);
        assert_eq!(Header::Binary(1).length(b"\x01\x01a\xff"), 3);
        assert_eq!(Header::Binary(2).length(b"\x01\x05a"), 3, "a cut header is all there is");
    }

    #[test]
    fn documents_are_not_streamed() {
        assert_eq!(blocks("JSON"), Blocks::Whole);
        assert_eq!(blocks("Parquet"), Blocks::Whole);
        assert_eq!(blocks("Null"), Blocks::Whole);
        assert_eq!(blocks("jsoneachrow"), Blocks::Append);
        assert_eq!(content_type("JSONEachRow"), "application/x-ndjson; charset=UTF-8");
    }
}
