//! `headrace dead`: the real binary on a real nats-server.

mod interrupted;
mod rows;
mod tool;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::HeaderMap;
use headrace_runtime::broker::Stream;
use headrace_runtime::message::payload::{Outgoing, RawDelivery};
use headrace_schemas::{header, subject};
use headrace_tests::harness::Nats;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::product::process::{command, complained, said};
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace");

/// What a command did.
struct Done {
    code: Option<i32>,
    said: String,
    complained: String,
}

impl Done {
    /// The JSON lines on stdout. Expects exit code 0.
    fn json(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}", self.complained);
        self.said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    /// Expects exit code 0 and this on stdout.
    #[track_caller]
    fn says(&self, text: &str) {
        assert_eq!((self.code, self.said.trim_end()), (Some(0), text), "{}", self.complained);
    }
}

/// Runs `headrace dead` with `arguments`, words without spaces, and with the option `place`.
async fn dead(place: [&str; 2], arguments: &str) -> Done {
    let output = command(PROGRAM, ["dead"].into_iter().chain(arguments.split(' ')).chain(place)).await;
    Done { code: output.status.code(), said: said(&output), complained: complained(&output) }
}

/// A nats-server, and a configuration that names it.
struct Server {
    nats: Nats,
    dir: TempDir,
    config: PathBuf,
}

impl Server {
    async fn start() -> Self {
        let (nats, dir) = (Nats::start().await, TempDir::new().unwrap());
        let config = dir.path().join("headrace.toml");
        let limits = "max_age_hours = 24\nmax_bytes = 268435456\n";
        let streams = ["raw", "events", "alerts", "dead"].map(|name| format!("[streams.{name}]\n{limits}")).concat();
        let admin = "[admin]\nlisten = \"127.0.0.1:0\"\n";
        std::fs::write(&config, format!("[nats]\nurl = \"{}\"\n{streams}{admin}", nats.server().url())).unwrap();
        Self { nats, dir, config }
    }

    async fn dead(&self, arguments: &str) -> Done {
        dead(["--config", self.config.to_str().unwrap()], arguments).await
    }

    /// The numbers of the dead letters that `list` prints with these filters.
    async fn numbers(&self, filters: &str) -> Vec<u64> {
        let listed = self.dead(format!("list --json {filters}").trim_end()).await.json();
        listed.iter().map(|dead_letter| dead_letter["number"].as_u64().unwrap()).collect()
    }

    async fn count(&self, stream: Stream) -> u64 {
        self.nats.jetstream().get_stream(stream.name()).await.unwrap().cached_info().state.messages
    }

    /// Puts `message` into DEAD as the runtime would. Returns its number there.
    async fn bury(&self, message: Outgoing, component: &str, reason: &str) -> u64 {
        bury(self.nats.jetstream(), message, component, reason).await
    }
}

/// Puts `message` into DEAD as if it had been at a sequence of RAW that no other has.
async fn bury(jetstream: &async_nats::jetstream::Context, message: Outgoing, component: &str, reason: &str) -> u64 {
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    let origin = format!("RAW:{}", SEQUENCE.fetch_add(1, Ordering::Relaxed));
    let own = message.headers.iter().filter(|(name, _)| !name.to_string().starts_with("Nats-"));
    let mut headers: HeaderMap = own.map(|(name, values)| (name.clone(), values[0].clone())).collect();
    headers.insert(header::DEAD_COMPONENT, component);
    headers.insert(header::DEAD_REASON, reason);
    headers.insert(header::DEAD_DETAIL, "put there by hand");
    headers.insert(header::DEAD_ATTEMPTS, "3");
    headers.insert(header::DEAD_SUBJECT, message.subject.as_str());
    headers.insert(header::DEAD_ORIGIN, origin.as_str());
    let subject = subject::dead(component, subject::tenant_of(&message.subject));
    let sent = jetstream.publish_with_headers(subject, headers, message.payload).await.unwrap();
    sent.await.unwrap().sequence
}

/// Sample number `number` as the gateway stores it.
fn good(number: u16) -> Outgoing {
    RawDelivery::sample(number).message()
}
