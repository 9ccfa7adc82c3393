//! A few suspects among many first deliveries wait for those of the next batches, and are given back when they may not.

use std::ops::Range;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headrace_runtime::component::sink::BatchResult;
use headrace_schemas::event::Event;
use headrace_schemas::id::EventId;
use headrace_tests::conformance::{POLICY, Workers};
use headrace_tests::harness::samples::{Sample as _, guid};
use headrace_tests::harness::{CEILING, until};
use tokio::task::block_in_place;

use super::scripted::Bed;

/// First deliveries that come with each suspect.
const FIRSTS: u16 = 80;

/// A sink of which each call with first deliveries lasts until the test lets it go on.
struct Stepped {
    bed: Bed,
    workers: Workers,
    go: Sender<()>,
    /// Whether a call had suspects, and how many items.
    calls: Arc<Mutex<Vec<(bool, usize)>>>,
    published: u16,
}

impl Stepped {
    /// It is in a call with one event.
    async fn start(suspects_linger: Duration) -> Self {
        let mut bed = Bed::start().await;
        // Nothing lapses, and what is there is taken at once.
        (bed.ack_wait, bed.linger) = (CEILING * 10, Duration::from_millis(500));
        // As long as a test needs to publish a batch. So long a worker leaves what its predecessor may be calling with.
        bed.call_timeout = Duration::from_secs(4);
        *bed.script.suspects_linger.lock().unwrap() = suspects_linger;
        let workers = bed.at_work(POLICY).await;
        let (go, next) = channel();
        let (calls, next) = (Arc::<Mutex<Vec<_>>>::default(), Mutex::new(next));
        let told = Arc::clone(&calls);
        bed.answers(move |batch| {
            let (is_suspect, count) = (batch.is_suspect(), batch.items().len());
            told.lock().unwrap().push((is_suspect, count));
            if !is_suspect {
                block_in_place(|| next.lock().unwrap().recv_timeout(CEILING).unwrap());
            }
            BatchResult::all(count)
        });
        let stepped = Self { bed, workers, go, calls, published: 1 };
        stepped.publish(0..1).await;
        stepped.until_called(1).await;
        stepped
    }

    /// Publishes events of this moment.
    async fn publish(&self, numbers: Range<u16>) {
        let event = |number| Event { id: EventId::github(&guid(number)), ..Event::sample(number) };
        self.bed.nats.publish_all(numbers.map(|number| event(number).message())).await;
    }

    /// Lets the present call go on, and waits for the next one with first deliveries, of a batch with one suspect.
    async fn step(&mut self) {
        let numbers = self.published..self.published + FIRSTS;
        self.bed.nats.publish_all([Event::sample(self.published).message()]).await;
        self.publish(numbers.clone()).await;
        self.published = numbers.end;
        let firsts = self.calls().iter().filter(|(is_suspect, _)| !is_suspect).count();
        self.go.send(()).unwrap();
        self.until_called(firsts + 1).await;
    }

    /// Waits until there were so many calls with first deliveries.
    async fn until_called(&self, firsts: usize) {
        let called = || self.calls().iter().filter(|(is_suspect, _)| !is_suspect).count() == firsts;
        until("the next call", called).await;
    }

    fn calls(&self) -> Vec<(bool, usize)> {
        self.calls.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_few_suspects_among_many_first_deliveries_wait_for_others() {
    let firsts = (false, usize::from(FIRSTS));
    for (linger, expected) in [
        (Duration::ZERO, vec![firsts, (true, 1), firsts, (true, 1), firsts, (true, 1)]),
        // When the second batch is there, the first suspect has waited long enough, so the second does not wait.
        (Duration::from_millis(1), vec![firsts, firsts, (true, 2), firsts, (true, 1)]),
        // Nothing comes after the third batch.
        (CEILING, vec![firsts, firsts, firsts, (true, 3)]),
    ] {
        let mut stepped = Stepped::start(linger).await;
        for _ in 0..3 {
            stepped.step().await;
        }
        stepped.go.send(()).unwrap();
        stepped.bed.settled().await;
        assert_eq!(stepped.calls()[1..], expected, "{linger:?}");
        assert_eq!(stepped.bed.received().len(), 2 + 3 * (usize::from(FIRSTS) + 1), "and the one with which it began");
        stepped.workers.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn suspects_that_wait_are_given_back_when_the_worker_stops() {
    let mut stepped = Stepped::start(CEILING).await;
    stepped.step().await;
    let Stepped { bed, workers, go, calls, .. } = stepped;
    workers.ask_to_stop();
    go.send(()).unwrap();
    workers.stop().await;
    let suspects = || calls.lock().unwrap().iter().filter(|(is_suspect, _)| *is_suspect).count();
    assert_eq!(suspects(), 0);
    // Another process gets it at once.
    let workers = bed.run(POLICY).await;
    bed.settled().await;
    assert_eq!(suspects(), 1);
    workers.stop().await;
}
