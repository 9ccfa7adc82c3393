//! A sink or a stage that gives fewer or more answers than it was asked for. Nobody knows which answer is whose, so none of
//! them counts: nothing is acknowledged for it, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::sink::BatchResult;
use headrace_runtime::component::stage::{Stage, Verdict};
use headrace_runtime::component::subscription::Subscription;
use headrace_runtime::consume::chain::{ChainLoop, Pace};
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::observe::health::{Health, State};
use headrace_runtime::settle::settler::Settler;
use headrace_schemas::event::Event;
use headrace_tests::conformance::{ACK_WAIT, COMPONENT, POLICY, Workers};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{Nats, until};

use super::scripted::{Bed, Calls};

#[tokio::test]
async fn a_sink_with_too_few_or_too_many_answers_is_given_the_batch_again_as_suspects() {
    for too_many in [0, 2] {
        let bed = Bed::start().await;
        let workers = bed.at_work(POLICY).await;
        let (calls, health) = (Calls::default(), bed.health.clone());
        bed.answers(move |batch| {
            let (call, count) = (calls.next(batch), batch.items().len());
            let found = count + too_many - 1;
            assert_eq!(batch.is_suspect(), call > 0, "call {call} of {count} items");
            if call == 0 {
                return BatchResult::all(found);
            }
            let state = health.snapshot().remove(COMPONENT);
            let told = format!("expected an answer of the sink for each of {count} events, found {found}");
            assert!(matches!(&state, Some(State::Broken(why)) if why.contains(&told)), "{state:?}");
            BatchResult::all(count)
        });
        bed.publish(0..3).await;
        bed.settled().await;
        let calls = bed.script.calls.load(Ordering::SeqCst) - 1;
        assert!(calls >= 2 && calls.is_multiple_of(2), "{calls} calls: the wrong answers settled something");
        assert!(bed.dead("").await.is_empty());
        until("health turns green", || bed.state() == Some(State::Healthy)).await;
        workers.stop().await;
    }
}

/// Answers for several events with one answer too few or too many, and so for one event alone.
struct Miscounting {
    victim: String,
    too_many: usize,
}

#[async_trait]
impl Stage for Miscounting {
    type In = RawDelivery;
    type Out = Event;

    fn handover(&self) -> &'static str {
        "scored"
    }

    async fn process(&self, batch: Vec<RawDelivery>) -> Vec<Verdict<Event>> {
        let wrong = batch.len() > 1 || batch.iter().any(|raw| raw.id.as_str() == self.victim);
        let event = |raw: RawDelivery| Event { id: raw.id, received_at: raw.received_at, ..Event::sample(0) };
        let mut verdicts: Vec<_> = batch.into_iter().map(|raw| Verdict::Forward(vec![event(raw)])).collect();
        if wrong && self.too_many > 0 {
            verdicts.push(Verdict::Forward(Vec::new()));
        } else if wrong {
            verdicts.pop();
        }
        verdicts
    }
}

#[tokio::test]
async fn a_stage_with_too_few_or_too_many_answers_loses_no_event() {
    for too_many in [0, 1] {
        let nats = Nats::start().await;
        let broker = nats.broker().await;
        nats.publish_all((0..6).map(|number| RawDelivery::sample(number).message())).await;
        let subscription = Subscription {
            component: COMPONENT.to_owned(),
            stream: Stream::Raw,
            filters: Vec::new(),
            ack_wait: ACK_WAIT,
            unsettled_max: 64,
            sink: None,
        };
        let settler = Settler::new(COMPONENT, &broker, POLICY, Health::new().register(COMPONENT));
        let victim = RawDelivery::sample(3).id.to_string();
        let stage = Box::new(Miscounting { victim: victim.clone(), too_many });
        let chain = Arc::new(ChainLoop { broker, subscription, pace: Pace::Prompt, stage, settler });
        let workers = Workers::run(1, move |stop| {
            let chain = Arc::clone(&chain);
            async move { chain.run_worker(stop).await }
        });
        nats.settled(Stream::Raw, COMPONENT).await;
        workers.stop().await;
        assert_eq!(nats.messages(Stream::Events).await.len(), 5, "the others are answered for one by one");
        let dead_letters = nats.dead_letters().await;
        let [dead] = &dead_letters[..] else { panic!("expected one dead letter: {dead_letters:#?}") };
        assert_eq!((dead.id.as_str(), dead.reason.as_str()), (victim.as_str(), "exhausted"));
        let told = format!("expected an answer of the stage for each of 1 events, found {}", too_many * 2);
        assert!(dead.detail.contains(&told), "{}", dead.detail);
    }
}
