//! A product that no message can carry is dead-lettered, and the others go on.

use std::sync::Arc;

use async_nats::HeaderMap;
use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::stage::Stage;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::chain::{ChainLoop, Pace};
use headrace_runtime::fault::{DeadReason, Fault, FaultClass};
use headrace_runtime::message::payload::{Outgoing, Product, RawDelivery};
use headrace_runtime::observe::health::Health;
use headrace_runtime::settle::settler::Settler;
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_tests::conformance::{COMPONENT, POLICY, Workers};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats};

struct Bulk {
    number: u64,
    bytes: usize,
}

impl Product for Bulk {
    const TO: Stream = Stream::Events;

    fn write(&self, _: &str) -> Result<Outgoing, Fault> {
        Ok(Outgoing {
            subject: "events.scored.acme.code.none".to_owned(),
            message_id: self.number.to_string(),
            payload: vec![0; self.bytes].into(),
            headers: HeaderMap::new(),
        })
    }
}

/// Makes a product of the first message that is too large.
struct Inflate;

#[async_trait]
impl Stage for Inflate {
    type In = RawDelivery;
    type Out = Bulk;

    fn handover(&self) -> &'static str {
        "scored"
    }

    async fn process(&self, batch: Vec<RawDelivery>) -> Vec<Verdict<Bulk>> {
        let bytes = |number| if number == 1 { 32 << 20 } else { 10 };
        let product = |raw: RawDelivery| Bulk { number: raw.sequence, bytes: bytes(raw.sequence) };
        batch.into_iter().map(|raw| Verdict::Forward(vec![product(raw)])).collect()
    }
}

#[tokio::test]
async fn a_product_that_is_too_large_is_dead_lettered_and_others_go_on() {
    let nats = Nats::start().await;
    let broker = nats.broker().await;
    nats.publish_all((0..3).map(|number| RawDelivery::sample(number).message())).await;
    let subscription = Subscription {
        component: COMPONENT.to_owned(),
        stream: Stream::Raw,
        filters: Vec::new(),
        ack_wait: CEILING,
        unsettled_max: 16,
        sink: None,
    };
    let settler = Settler::new(COMPONENT, &broker, POLICY, Health::new().register(COMPONENT));
    let chain = Arc::new(ChainLoop { broker, subscription, pace: Pace::Prompt, stage: Box::new(Inflate), settler });
    let workers = Workers::run(1, move |stop| {
        let chain = Arc::clone(&chain);
        async move { chain.run_worker(stop).await }
    });
    nats.settled(Stream::Raw, COMPONENT).await;
    workers.stop().await;
    assert_eq!(nats.messages(Stream::Events).await.len(), 2);
    let dead_letters = nats.dead_letters().await;
    let reasons: Vec<&str> = dead_letters.iter().map(|dead_letter| dead_letter.reason.as_str()).collect();
    assert_eq!(reasons, ["rejected"], "{dead_letters:#?}");
}

/// Anybody with access to the broker can write a record with such an id.
#[test]
fn an_id_of_several_lines_is_refused() {
    for id in ["a\nb", "a\r\nNats-Msg-Id: b", "\r"] {
        let event = Event { id: EventId::from_stored(id), ..Event::sample(1) };
        let alert = Alert { id: id.to_owned(), ..Alert::sample(1) };
        for refused in [event.write("scored").err(), alert.write("alerted").err()] {
            assert_eq!(refused.map(|fault| fault.class), Some(FaultClass::Poison(DeadReason::Malformed)), "{id:?}");
        }
    }
}
