//! The suite for stages, run on the smallest stage that passes it.

use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::component::stage::{BoxedStage, Stage};
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::Event;
use headrace_tests::conformance::stage::Case;
use headrace_tests::harness::Nats;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::stage_conformance;

struct PassThrough;

#[async_trait]
impl Stage for PassThrough {
    type In = RawDelivery;
    type Out = Event;

    fn handover(&self) -> &'static str {
        "scored"
    }

    async fn process(&self, batch: Vec<RawDelivery>) -> Vec<Verdict<Event>> {
        let event = |raw: RawDelivery| Event { id: raw.id, received_at: raw.received_at, ..Event::sample(0) };
        batch.into_iter().map(|raw| Verdict::Forward(vec![event(raw)])).collect()
    }
}

#[async_trait]
impl Case for PassThrough {
    type In = RawDelivery;
    type Out = Event;
    const TO: Stream = Stream::Events;

    async fn start(_: &Nats) -> Self {
        Self
    }

    fn stage(&self) -> BoxedStage<RawDelivery, Event> {
        Box::new(Self)
    }
}

stage_conformance!(PassThrough: success, poison, panics, transient, exhausted, duplicates, shutdown, crash);
