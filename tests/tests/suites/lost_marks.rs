//! Marks of trials that cannot be written or removed at once. A mark that stays says that a process died.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{Consumer, pull};
use futures::StreamExt as _;
use headrace_local::poll;
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::config;
use headrace_runtime::settle::trials::{UNANSWERED_MIN, key};
use headrace_runtime::state::StateStore;
use headrace_schemas::time::Timestamp;
use headrace_tests::conformance::{COMPONENT, POLICY};
use headrace_tests::harness::{CEILING, Nats, streams};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::scripted::Bed;

/// What the broker answers when it has stored a value of the bucket `state`.
const STORED: &[u8] = br#""stream":"KV_state""#;
/// The end of a request that leaves no mark.
const NO_MARK: &[u8] = b"\r\n\r\n[]\r\n";
/// So many marks of one message alone would give it up.
const LOST: usize = 2;

/// In place of what the connection is cut, the first times.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The broker's answer to a mark.
    Answers,
    /// The request that removes the last mark.
    Removals,
}

/// Forwards to the server, and cuts the connection in place of the first of what it loses.
struct Lossy {
    address: SocketAddr,
    lost: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Lossy {
    async fn start(server: SocketAddr, loss: Loss) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, lost) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let (mut tasks, seen) = (JoinSet::new(), Arc::clone(&lost));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                connections.spawn(forward(client, server, loss, Arc::clone(&seen)));
            }
        });
        Self { address, lost, _tasks: tasks }
    }

    async fn broker(&self) -> Broker {
        let url = format!("nats://{}", self.address);
        let nats = config::Nats { url, clock_skew_ms: 100, timeout_ms: 1_000, ..config::Nats::default() };
        Broker::connect(&nats, &streams(), "test").await.unwrap()
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, loss: Loss, lost: Arc<AtomicUsize>) {
    let mark = format!("$KV.state.{}", key(COMPONENT));
    let is_lost = || lost.fetch_add(1, Ordering::SeqCst) < LOST;
    let (mut asked, mut answered) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut is_marking = false;
    loop {
        let (to, bytes) = tokio::select! {
            read = client.read(&mut asked) => (&mut server, &asked[..read.unwrap_or_default()]),
            read = server.read(&mut answered) => {
                let answer = &answered[..read.unwrap_or_default()];
                if loss == Loss::Answers && is_marking && holds(answer, STORED) && is_lost() {
                    return;
                }
                (&mut client, answer)
            }
        };
        // Reading a mark also names its key, after a prefix.
        let is_change = holds(bytes, format!("PUB {mark} ").as_bytes());
        is_marking |= is_change;
        if loss == Loss::Removals && is_change && holds(bytes, NO_MARK) && is_lost() {
            return;
        }
        if bytes.is_empty() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Has the message delivered so often without an outcome that processes may have died on it.
async fn make_questionable(nats: &Nats) {
    let stream = nats.jetstream().get_stream(Stream::Events.name()).await.unwrap();
    let consumer: Consumer<pull::Config> = stream.get_consumer(COMPONENT).await.unwrap();
    for _ in 0..UNANSWERED_MIN {
        let mut messages = consumer.messages().await.unwrap();
        messages.next().await.unwrap().unwrap().ack_with(AckKind::Nak(None)).await.unwrap();
    }
}

/// Waits until no mark is there.
async fn no_mark_is_left(nats: &Nats) {
    let store = StateStore::open(&nats.broker().await).await.unwrap();
    let found = async || store.load(&key(COMPONENT)).await.unwrap().unwrap().value;
    let is_empty = async || (found().await == b"[]"[..]).then_some(());
    let waited = poll::until("no mark is left", CEILING, is_empty).await;
    if let Err(error) = waited {
        panic!("{error}; found {:?}", found().await);
    }
}

#[tokio::test]
async fn a_mark_of_which_the_broker_did_not_tell_is_no_death() {
    let bed = Bed::start().await;
    // What is published afterwards is of a known incarnation, so it is not given back first.
    bed.at_work(POLICY).await.stop().await;
    bed.script.received.lock().unwrap().clear();
    bed.publish(0..1).await;
    make_questionable(&bed.nats).await;
    let lossy = Lossy::start(bed.nats.server().address(), Loss::Answers).await;
    let workers = bed.run_on(lossy.broker().await, POLICY);
    bed.settled().await;
    assert_eq!((bed.received(), bed.dead("").await), (bed.ids(0..1), Vec::new()));
    assert!(lossy.lost.load(Ordering::SeqCst) > LOST, "its answers were lost, and one was not");
    no_mark_is_left(&bed.nats).await;
    workers.stop().await;
}

#[tokio::test]
async fn a_mark_that_could_not_be_removed_is_removed_although_no_message_comes() {
    let bed = Bed::start().await;
    bed.at_work(POLICY).await.stop().await;
    bed.script.received.lock().unwrap().clear();
    bed.publish(0..1).await;
    make_questionable(&bed.nats).await;
    let lossy = Lossy::start(bed.nats.server().address(), Loss::Removals).await;
    let workers = bed.run_on(lossy.broker().await, POLICY);
    bed.settled().await;
    no_mark_is_left(&bed.nats).await;
    assert!(lossy.lost.load(Ordering::SeqCst) > LOST, "its removals were lost, and one was not");
    assert_eq!((bed.received(), bed.dead("").await), (bed.ids(0..1), Vec::new()));
    workers.stop().await;
}

#[tokio::test]
async fn with_the_last_message_of_a_group_the_marks_of_the_group_go_too() {
    let bed = Bed::start().await;
    bed.at_work(POLICY).await.stop().await;
    bed.publish(0..1).await;
    make_questionable(&bed.nats).await;
    let message = bed.nats.messages(Stream::Events).await.pop().unwrap();
    let (sequence, stored_at) = (message.sequence, Timestamp::from_unix_nanos(message.time.unix_timestamp_nanos()));
    // Two processes died on it alone, and before them one on a group. The others of the group are settled since.
    let mark = |first: u64, size: usize, trials: u32| json!({ "first": first, "last": sequence, "size": size, "stored_at": stored_at, "trials": trials });
    let marks = json!([mark(sequence, 1, 2), mark(sequence - 1, 2, 1)]);
    let store = StateStore::open(&bed.nats.broker().await).await.unwrap();
    assert!(store.save(&key(COMPONENT), marks.to_string().into(), None).await.unwrap());
    let workers = bed.run(POLICY).await;
    bed.settled().await;
    assert_eq!(bed.dead("crashed").await, bed.ids(0..1));
    no_mark_is_left(&bed.nats).await;
    workers.stop().await;
}
