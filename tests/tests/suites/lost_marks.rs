//! A trial whose mark was written while the broker's answer was lost. Nobody worked on its message and nobody died.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{Consumer, pull};
use futures::StreamExt as _;
use headrace_runtime::broker::{Broker, Stream};
use headrace_runtime::config;
use headrace_runtime::settle::trials::{UNANSWERED_MIN, key};
use headrace_runtime::state::StateStore;
use headrace_tests::conformance::{COMPONENT, POLICY};
use headrace_tests::harness::{Nats, streams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::scripted::Bed;

/// What the broker answers when it has stored a value of the bucket `state`.
const STORED: &[u8] = br#""stream":"KV_state""#;
/// So many marks of one message alone would give it up.
const LOST: usize = 2;

/// Forwards to the server, and cuts the connection in place of the answer to each of the first marks.
struct Lossy {
    address: SocketAddr,
    lost: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Lossy {
    async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, lost) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let (mut tasks, seen) = (JoinSet::new(), Arc::clone(&lost));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                connections.spawn(forward(client, server, Arc::clone(&seen)));
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

async fn forward(mut client: TcpStream, mut server: TcpStream, lost: Arc<AtomicUsize>) {
    let mark = format!("$KV.state.{}", key(COMPONENT));
    let (mut asked, mut answered) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut is_marking = false;
    loop {
        let (to, bytes) = tokio::select! {
            read = client.read(&mut asked) => (&mut server, &asked[..read.unwrap_or_default()]),
            read = server.read(&mut answered) => {
                let answer = &answered[..read.unwrap_or_default()];
                if is_marking && holds(answer, STORED) && lost.fetch_add(1, Ordering::SeqCst) < LOST {
                    return;
                }
                (&mut client, answer)
            }
        };
        // Reading a mark also names its key, after a prefix.
        is_marking |= holds(bytes, format!("PUB {mark} ").as_bytes());
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

#[tokio::test]
async fn a_mark_of_which_the_broker_did_not_tell_is_no_death() {
    let bed = Bed::start().await;
    // What is published afterwards is of a known incarnation, so it is not given back first.
    bed.at_work(POLICY).await.stop().await;
    bed.script.received.lock().unwrap().clear();
    bed.publish(0..1).await;
    make_questionable(&bed.nats).await;
    let lossy = Lossy::start(bed.nats.server().address()).await;
    let workers = bed.run_on(lossy.broker().await, POLICY);
    bed.settled().await;
    assert_eq!((bed.received(), bed.dead("").await), (bed.ids(0..1), Vec::new()));
    assert!(lossy.lost.load(Ordering::SeqCst) > LOST, "its answers were lost, and one was not");
    let store = StateStore::open(&bed.nats.broker().await).await.unwrap();
    let left = store.load(&key(COMPONENT)).await.unwrap().unwrap().value;
    assert_eq!(&left[..], b"[]", "no mark is left");
    workers.stop().await;
}
