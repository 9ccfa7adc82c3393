//! The stages in the real loop, on a real nats-server.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use async_nats::jetstream::message::StreamMessage;
use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::stage::{BoxedStage, fuse};
use headrace_runtime::message::payload::{Outgoing, RawDelivery};
use headrace_runtime::state::StateStore;
use headrace_schemas::alert::Alert;
use headrace_schemas::codec;
use headrace_schemas::event::Event;
use headrace_stages::alert::{self, Alerts};
use headrace_stages::enrich::{self, Enrich};
use headrace_stages::normalize::Normalize;
use headrace_stages::score::{self, Score};
use headrace_tests::conformance::stage::Case;
use headrace_tests::harness::Nats;
use headrace_tests::harness::samples::Sample as _;

struct NormalizeCase;

#[async_trait]
impl Case for NormalizeCase {
    type In = RawDelivery;
    type Out = Event;
    const TO: Stream = Stream::Events;

    async fn start(_: &Nats) -> Self {
        Self
    }
    fn stage(&self) -> BoxedStage<RawDelivery, Event> {
        Box::new(Normalize)
    }
    fn poison(&self) -> (Outgoing, &'static str) {
        let raw = RawDelivery { body: "neither JSON nor a form".into(), ..RawDelivery::sample(9_999) };
        (raw.message(), "malformed")
    }
}

/// The chain as it runs by default.
struct FusedCase;

#[async_trait]
impl Case for FusedCase {
    type In = RawDelivery;
    type Out = Event;
    const TO: Stream = Stream::Events;

    async fn start(_: &Nats) -> Self {
        Self
    }
    fn stage(&self) -> BoxedStage<RawDelivery, Event> {
        let enrich: BoxedStage<Event, Event> = Box::new(Enrich::new(&enrich::Config::default()).unwrap());
        let score: BoxedStage<Event, Event> = Box::new(Score::from_config(&score::Config::default()).unwrap());
        fuse(Box::new(Normalize), fuse(enrich, score))
    }
}

struct AlertCase(StateStore);

#[async_trait]
impl Case for AlertCase {
    type In = Event;
    type Out = Alert;
    const TO: Stream = Stream::Alerts;

    async fn start(nats: &Nats) -> Self {
        Self(StateStore::open(&nats.broker().await).await.unwrap())
    }
    fn stage(&self) -> BoxedStage<Event, Alert> {
        // The longest window, so that a sample that comes again falls into the same one.
        let config = alert::Config { window_minutes: 6 * 24 * 60 };
        Box::new(Alerts::new(config, self.0.clone()))
    }
    fn origin(&self, product: &StreamMessage) -> String {
        let alert: Alert = codec::decode(&product.payload).unwrap();
        assert_eq!((alert.count, alert.events.len()), (1, 1), "each sample makes an alert");
        alert.events[0].to_string()
    }
}

mod normalize {
    headrace_tests::stage_conformance!(super::NormalizeCase: success, poison, panics, transient, duplicates, shutdown, crash, lost_confirmations);
}

mod fused {
    headrace_tests::stage_conformance!(super::FusedCase: success, poison, panics, transient, duplicates, shutdown, crash);
}

mod alerts {
    headrace_tests::stage_conformance!(super::AlertCase: success, poison, panics, transient, duplicates, shutdown, crash);
}
