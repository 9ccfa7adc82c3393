//! What is sent to HEC: one JSON envelope per event, concatenated, compressed on the way.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use headrace_runtime::component::batch::Item;
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Config;

/// How many events are written before other tasks may run: about 30 µs each, compression included.
const SLICE: usize = 16;

/// What is the same in every envelope.
pub(super) struct Frame {
    index: String,
    sourcetype: String,
    source: String,
    host: String,
    /// Whether bodies are compressed.
    pub(super) compress: bool,
}

impl Frame {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            index: config.index.clone(),
            sourcetype: config.sourcetype.clone(),
            source: config.source.clone(),
            host: config.host.clone(),
            compress: config.compress,
        }
    }
}

/// The body of one request.
pub(super) struct Packed {
    pub(super) body: Vec<u8>,
    /// How many events are in it, counted from the first: at least one.
    pub(super) events: usize,
}

#[derive(Serialize)]
struct Envelope<'a> {
    time: Box<RawValue>,
    #[serde(skip_serializing_if = "str::is_empty")]
    host: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sourcetype: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    index: &'a str,
    event: &'a Event,
    fields: Fields<'a>,
}

/// Indexed fields. HEC takes text and lists of text only.
#[derive(Serialize)]
struct Fields<'a> {
    event_id: &'a str,
    tenant: &'a str,
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    risk: Option<String>,
}

enum Body {
    Plain(Vec<u8>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
}

/// Packs as many of `items` as fit into `bytes_max` before compression, but at least the first.
/// `items` is not empty.
pub(super) async fn pack(frame: &Frame, items: &[Item<Event>], bytes_max: usize) -> Packed {
    const IN_MEMORY: &str = "writing an event with text keys to memory cannot fail";
    let mut body = if frame.compress {
        Body::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::fast())))
    } else {
        Body::Plain(Vec::new())
    };
    let mut one = Vec::with_capacity(4_096);
    let (mut bytes, mut events) = (0, 0);
    for item in items {
        one.clear();
        serde_json::to_writer(&mut one, &envelope(frame, &item.value)).expect(IN_MEMORY);
        if events > 0 && bytes + one.len() > bytes_max {
            break;
        }
        match &mut body {
            Body::Plain(body) => body.extend_from_slice(&one),
            Body::Gzip(encoder) => encoder.write_all(&one).expect(IN_MEMORY),
        }
        bytes += one.len();
        events += 1;
        if events % SLICE == 0 {
            tokio::task::yield_now().await;
        }
    }
    let body = match body {
        Body::Plain(body) => body,
        Body::Gzip(encoder) => encoder.finish().expect(IN_MEMORY),
    };
    Packed { body, events }
}

fn envelope<'a>(frame: &'a Frame, event: &'a Event) -> Envelope<'a> {
    Envelope {
        time: epoch_seconds(event.occurred_at),
        host: &frame.host,
        source: &frame.source,
        sourcetype: &frame.sourcetype,
        index: &frame.index,
        event,
        fields: Fields {
            event_id: event.id.as_str(),
            tenant: &event.tenant,
            severity: event.severity().as_str(),
            risk: event.assessment.as_ref().map(|assessment| assessment.risk.to_string()),
        },
    }
}

/// `1769847330.250000`, exactly: a binary float would be off by a fraction of a microsecond.
fn epoch_seconds(at: Timestamp) -> Box<RawValue> {
    let micros = at.as_micros();
    let sign = if micros < 0 { "-" } else { "" };
    let (seconds, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    RawValue::from_string(format!("{sign}{seconds}.{fraction:06}")).expect("a decimal number is JSON")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use headrace_schemas::event::{Change, Target};
    use headrace_schemas::id::EventId;
    use headrace_tests::harness::samples::Sample as _;
    use proptest::prelude::*;
    use serde_json::{Deserializer, Value};

    use super::*;

    fn item([id, tenant, text]: [String; 3], at: i64) -> Item<Event> {
        let mut event = Event::sample(1);
        event.attributes.insert(text.clone(), tenant.clone());
        event.changes = vec![Change { field: text.clone(), before: Some(tenant.clone()), after: None }];
        event.target = Some(Target { kind: tenant.clone(), id: None, name: Some(text), url: None });
        let event = Event { id: EventId::from_stored(id), tenant, occurred_at: Timestamp::from_micros(at), ..event };
        Item { value: event, suspect: false, redelivered: false, sequence: 1, stored_at: Timestamp::default() }
    }

    proptest! {
        /// Whatever is in the events, each is one JSON object with the same event in it.
        #[test]
        fn any_events_are_one_object_each(
            texts in prop::collection::vec((any::<[String; 3]>(), any::<i64>()), 1..6),
            compress in any::<bool>(),
            bytes_max in 1_usize..20_000,
        ) {
            let items: Vec<Item<Event>> = texts.into_iter().map(|(texts, at)| item(texts, at)).collect();
            let frame = Frame::new(&Config { compress, ..Config::default() });
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let packed = runtime.block_on(pack(&frame, &items, bytes_max));
            let mut body = Vec::new();
            if compress {
                GzDecoder::new(packed.body.as_slice()).read_to_end(&mut body).unwrap();
            } else {
                body = packed.body;
            }
            prop_assert!(packed.events >= 1 && (packed.events == 1 || body.len() <= bytes_max));
            let found: Vec<Value> = Deserializer::from_slice(&body).into_iter().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(found.len(), packed.events);
            for (item, found) in items.iter().zip(&found) {
                prop_assert_eq!(&found["event"], &serde_json::to_value(&item.value).unwrap());
                prop_assert_eq!(&found["fields"]["event_id"], item.value.id.as_str());
                prop_assert!(found["time"].is_number());
            }
        }
    }

    #[test]
    fn times_keep_their_microseconds() {
        for (micros, text) in
            [(1_769_847_330_250_001, "1769847330.250001"), (5, "0.000005"), (0, "0.000000"), (-1_500_000, "-1.500000")]
        {
            assert_eq!(epoch_seconds(Timestamp::from_micros(micros)).get(), text);
        }
    }
}
