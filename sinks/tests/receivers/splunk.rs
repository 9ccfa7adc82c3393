//! The Splunk sink against a stand-in that follows Splunk's published protocol.

use std::io::Read as _;
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::{BatchResult, Sink as _, SinkOptions};
use headrace_runtime::fault::{DeadReason, Fault, FaultClass};
use headrace_runtime::message::payload::Payload as _;
use headrace_runtime::secret::Secret;
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;
use headrace_sinks::splunk::{Config, Splunk as Sink};
use headrace_tests::conformance::receiver::{Case, Promise, ServerCase};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::sink_conformance;
use headrace_tests::standin::server::{Failure, Server, When, Which};
use headrace_tests::standin::splunk::{Hec, INDEX, Splunk, TOKEN};

struct SplunkCase(Splunk);

pub(crate) fn config(splunk: &Splunk) -> Config {
    Config {
        url: splunk.url(),
        token: Secret::new(TOKEN),
        index: INDEX.to_owned(),
        host: "test-host".to_owned(),
        linger_ms: 50,
        timeout_ms: 1_000,
        ..Config::default()
    }
}

#[async_trait]
impl Case for SplunkCase {
    type Sink = Sink;
    const PROMISE: Promise = Promise::AtLeastOnce;

    async fn start() -> Self {
        Self(Splunk::start().await)
    }
    fn sink(&self) -> Sink {
        config(&self.0).build().unwrap()
    }
    fn options(&self) -> SinkOptions {
        config(&self.0).options()
    }
    fn received(&self) -> Vec<String> {
        self.0.ids()
    }
    async fn break_access(&self) {
        self.0.index().disabled = true;
    }
    async fn mend(&self) {
        self.0.index().disabled = false;
    }
}

impl ServerCase for SplunkCase {
    type Protocol = Hec;

    fn peer(&self) -> &Server<Hec> {
        &self.0
    }
    fn refuse(&self, id: &str) {
        self.0.index().refused.insert(id.to_owned());
    }
}

sink_conformance!(
    SplunkCase: success,
    unreadable_messages,
    partial_failure,
    poison,
    refuses_all,
    panics,
    transient,
    down,
    timeouts,
    lost_answers,
    broken,
    duplicates,
    shutdown,
    crash,
    busy,
    breaker,
);

fn batch(numbers: std::ops::Range<u16>) -> Batch<Event> {
    let item = |number: u16| Item {
        value: Event::sample(number),
        suspect: false,
        redelivered: false,
        sequence: u64::from(number),
        stored_at: Timestamp::default(),
    };
    Batch::new(numbers.map(item).collect(), Duration::from_secs(60))
}

fn ids(numbers: std::ops::Range<u16>) -> Vec<String> {
    numbers.map(|number| Event::sample(number).id().to_owned()).collect()
}

/// The result of each item as a word.
fn outcomes(result: BatchResult) -> Vec<&'static str> {
    let BatchResult::Each(results) = result else { panic!("expected an answer for each, found {result:?}") };
    let word = |result: Result<(), Fault>| match result.map_err(|fault| fault.class) {
        Ok(()) => "ok",
        Err(FaultClass::Poison(reason)) => reason.code(),
        Err(FaultClass::Transient { .. }) => "transient",
        Err(FaultClass::Broken) => "broken",
    };
    results.into_iter().map(word).collect()
}

fn whole(result: BatchResult) -> Fault {
    match result {
        BatchResult::Whole(fault) | BatchResult::TooMuch(fault) => fault,
        other => panic!("expected one fault for all, found {other:?}"),
    }
}

#[tokio::test]
async fn an_envelope_has_every_field_that_splunk_needs() {
    let splunk = Splunk::start().await;
    let sink = config(&splunk).build().unwrap();
    assert_eq!(outcomes(sink.deliver(&batch(1..2)).await), ["ok"]);
    let envelope = splunk.index().envelopes[0].clone();
    let event = Event::sample(1);
    assert_eq!(envelope["event"]["id"], event.id());
    assert_eq!(envelope["event"]["actor"]["login"], "mona");
    assert_eq!(envelope["host"], "test-host");
    assert_eq!(envelope["source"], "headrace");
    assert_eq!(envelope["sourcetype"], "headrace:event");
    assert_eq!(envelope["index"], INDEX);
    let fields = serde_json::json!({ "event_id": event.id(), "tenant": "acme", "severity": "high", "risk": "85" });
    assert_eq!(envelope["fields"], fields);
    let since = event.occurred_at.as_micros() as f64 / 1e6 - envelope["time"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&since), "{envelope}");
}

#[tokio::test]
async fn requests_are_compressed_unless_configured_otherwise() {
    for compress in [true, false] {
        let splunk = Splunk::start().await;
        let sink = Config { compress, ..config(&splunk) }.build().unwrap();
        sink.deliver(&batch(0..40)).await;
        let request = splunk.recorded().pop().unwrap();
        assert_eq!(request.line, "POST /services/collector/event");
        assert_eq!(request.header("authorization"), Some(format!("Splunk {TOKEN}").as_str()));
        assert_eq!(request.header("content-encoding"), compress.then_some("gzip"));
        let mut plain = Vec::new();
        if compress {
            flate2::read::GzDecoder::new(request.body.as_slice()).read_to_end(&mut plain).unwrap();
            assert!(request.body.len() * 4 < plain.len(), "{} of {}", request.body.len(), plain.len());
        }
        assert_eq!(splunk.ids(), ids(0..40));
    }
}

#[tokio::test]
async fn a_batch_over_the_limit_takes_several_requests() {
    let splunk = Splunk::start().await;
    splunk.index().request_bytes_max = 10_000;
    let sink = Config { batch_bytes_max: 10_000, ..config(&splunk) }.build().unwrap();
    assert_eq!(outcomes(sink.deliver(&batch(0..40)).await), ["ok"; 40]);
    assert_eq!(splunk.ids(), ids(0..40));
    assert!(splunk.recorded().len() > 2);
}

#[tokio::test]
async fn a_receiver_with_a_lower_limit_gets_smaller_requests() {
    let splunk = Splunk::start().await;
    splunk.index().request_bytes_max = 10_000;
    let sink = config(&splunk).build().unwrap();
    assert_eq!(outcomes(sink.deliver(&batch(0..40)).await), ["ok"; 40]);
    assert_eq!(splunk.ids(), ids(0..40));

    splunk.index().request_bytes_max = 10;
    assert_eq!(outcomes(sink.deliver(&batch(40..43)).await), [DeadReason::Rejected.code(); 3]);
}

#[tokio::test]
async fn events_behind_a_bad_one_are_sent_once() {
    let splunk = Splunk::start().await;
    splunk.index().refused.extend([ids(2..3), ids(5..6)].concat());
    let sink = config(&splunk).build().unwrap();
    let want = ["ok", "ok", "rejected", "ok", "ok", "rejected", "ok"];
    assert_eq!(outcomes(sink.deliver(&batch(0..7)).await), want);
    assert_eq!(splunk.ids(), [ids(0..2), ids(3..5), ids(6..7)].concat());
}

#[tokio::test]
async fn a_wrong_index_is_no_events_fault() {
    let splunk = Splunk::start().await;
    let sink = Config { index: "elsewhere".to_owned(), ..config(&splunk) }.build().unwrap();
    let fault = whole(sink.deliver(&batch(0..3)).await);
    assert_eq!(fault.class, FaultClass::Broken);
    assert!(fault.to_string().contains("set `index`"), "{fault}");
}

#[tokio::test]
async fn the_check_reports_a_bad_token_as_broken_and_a_receiver_that_is_down_as_transient() {
    let splunk = Splunk::start().await;
    let good = config(&splunk).build().unwrap();
    good.check().await.unwrap();
    assert!(splunk.ids().is_empty(), "a check indexes nothing");

    let bad = Config { token: Secret::new("unknown"), ..config(&splunk) }.build().unwrap();
    let fault = bad.check().await.unwrap_err();
    assert_eq!(fault.class, FaultClass::Broken);
    assert!(!fault.to_string().contains("unknown"), "no secret in {fault}");

    splunk.index().full = true;
    assert!(matches!(good.check().await.unwrap_err().class, FaultClass::Transient { .. }));
    splunk.index().full = false;
    splunk.down();
    assert!(matches!(good.check().await.unwrap_err().class, FaultClass::Transient { .. }));
    splunk.up().await;
    good.check().await.unwrap();

    let elsewhere = Config { url: format!("{}/nothing", splunk.url()), ..config(&splunk) }.build().unwrap();
    assert_eq!(elsewhere.check().await.unwrap_err().class, FaultClass::Broken);
}

#[tokio::test]
async fn retry_after_reaches_the_loop() {
    let splunk = Splunk::start().await;
    splunk.fail_next(1, Failure::StatusAfter(503, 7), When::Before, Which::Any);
    let sink = config(&splunk).build().unwrap();
    let fault = whole(sink.deliver(&batch(0..3)).await);
    assert_eq!(fault.class, FaultClass::Transient { retry_after: Some(Duration::from_secs(7)) });
}
