//! The example of the page "Adding a part": a sink that writes lines to a Unix socket, and its receiver. The page shows
//! the first part of this file, and a test compares the two.
#![allow(unreachable_pub, reason = "the page shows what a folder of `sinks/src` has")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use headrace_runtime::component::sink::BoxedSink;
use headrace_sinks::instances::usual_components;
use headrace_sinks::kind::{AnySink, Entry};
use headrace_tests::conformance::receiver::{Case, Promise};
use headrace_tests::sink_conformance;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

const PAGE: &str = include_str!("../../../deploy/docs/adding-a-part.md");

// The example begins here.
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::batch::{Batch, BatchPolicy};
use headrace_runtime::component::sink::{BatchResult, Sink, SinkOptions};
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::Fault;
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use headrace_sinks::kind::{Identity, Kind, Part};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Scored events as lines to a Unix socket.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The socket. Required. Example: `/run/collector.sock`.
    pub socket: String,
}

impl Kind for Config {
    const NAME: &'static str = "lines";
    const COMPONENTS: &'static [(&'static str, Stream)] = &[("", Stream::Events)];

    fn validate(&self, path: &str) -> Vec<Invalid> {
        let message = "expected a path such as `/run/collector.sock`, found nothing";
        let is_missing = self.socket.is_empty();
        is_missing.then(|| Invalid::new(format!("{path}.socket"), message)).into_iter().collect()
    }

    fn parts(&self, _own: &Identity) -> anyhow::Result<Vec<Part>> {
        let call_timeout = Duration::from_secs(5);
        let options = SinkOptions {
            filters: vec![subject::ALL_SCORED.to_owned()],
            batching: BatchPolicy { events_max: 100, bytes_max: 8 << 20, linger: Duration::from_millis(200) },
            call_timeout,
            ack_wait: call_timeout * 2,
            workers: Self::CONCURRENCY,
        };
        Ok(vec![Part::events(Lines { socket: self.socket.clone() }, options)])
    }
}

/// The sink. The receiver answers each line with `ok`, once it keeps it, or `no`.
struct Lines {
    socket: String,
}

#[async_trait]
impl Sink for Lines {
    type Item = Event;

    async fn check(&self) -> Result<(), Fault> {
        self.send(&[]).await
    }

    async fn deliver(&self, batch: &Batch<Event>) -> BatchResult {
        let lines: Vec<String> = batch.items().iter().map(|item| line(&item.value)).collect();
        match self.send(&lines).await {
            Ok(()) => BatchResult::all(lines.len()),
            // Some of the lines may have arrived. The same batch comes again, because this sink promises no more than
            // that each event arrives at least once.
            Err(fault) => BatchResult::Whole(fault),
        }
    }
}

impl Lines {
    /// Sends a greeting and `lines`, and waits for an answer to each.
    async fn send(&self, lines: &[String]) -> Result<(), Fault> {
        let away = |error: std::io::Error| Fault::transient(anyhow!(error).context("the collector does not answer"));
        let (answers, mut sending) = UnixStream::connect(&self.socket).await.map_err(away)?.into_split();
        let text = format!("hello\n{}", lines.concat());
        sending.write_all(text.as_bytes()).await.map_err(away)?;
        let mut answers = BufReader::new(answers).lines();
        for _ in 0..=lines.len() {
            match answers.next_line().await.map_err(away)?.as_deref() {
                Some("ok") => {}
                Some(answer) => return Err(Fault::broken(anyhow!("expected `ok` of the collector, found `{answer}`"))),
                None => return Err(Fault::transient(anyhow!("the collector broke off"))),
            }
        }
        Ok(())
    }
}

fn line(event: &Event) -> String {
    let text = serde_json::to_string(event).context("an event has text keys").expect("it is written to memory");
    format!("{text}\n")
}
// The example ends here.

/// The receiver.
struct Collector {
    dir: TempDir,
    ids: Arc<Mutex<Vec<String>>>,
    is_closed: Arc<AtomicBool>,
    /// Ends with the receiver.
    _tasks: JoinSet<()>,
}

impl Collector {
    fn socket(&self) -> PathBuf {
        self.dir.path().join("collector.sock")
    }

    fn part(&self) -> Part {
        let config = Config { socket: self.socket().display().to_string() };
        assert!(config.validate("sinks.lines").is_empty());
        config.parts(&Identity::alone("lines")).unwrap().remove(0)
    }
}

async fn serve(stream: UnixStream, ids: Arc<Mutex<Vec<String>>>, is_closed: Arc<AtomicBool>) -> Option<()> {
    let (lines, mut answers) = stream.into_split();
    let mut lines = BufReader::new(lines).lines();
    while let Some(line) = lines.next_line().await.ok()? {
        if is_closed.load(Ordering::SeqCst) {
            return answers.write_all(b"no\n").await.ok();
        }
        if line != "hello" {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            ids.lock().unwrap().push(event["id"].as_str().unwrap().to_owned());
        }
        answers.write_all(b"ok\n").await.ok()?;
    }
    Some(())
}

#[async_trait]
impl Case for Collector {
    type Sink = BoxedSink<Event>;
    const PROMISE: Promise = Promise::AtLeastOnce;

    async fn start() -> Self {
        let (dir, ids, is_closed) = (TempDir::new().unwrap(), Arc::default(), Arc::default());
        let listener = UnixListener::bind(dir.path().join("collector.sock")).unwrap();
        let (kept, closed) = (Arc::clone(&ids), Arc::clone(&is_closed));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&kept), Arc::clone(&closed)));
            }
        });
        Self { dir, ids, is_closed, _tasks: tasks }
    }
    fn sink(&self) -> BoxedSink<Event> {
        let AnySink::Events(sink) = self.part().sink else { panic!("it takes events") };
        sink
    }
    fn options(&self) -> SinkOptions {
        self.part().options
    }
    fn received(&self) -> Vec<String> {
        self.ids.lock().unwrap().clone()
    }
    async fn break_access(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }
    async fn mend(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
    }
}

sink_conformance!(Collector: success, unreadable_messages, panics, broken, duplicates);

#[test]
fn the_example_is_a_kind_and_the_page_shows_it() {
    let entry = Entry::of::<Config>();
    assert_eq!((entry.name, entry.components), ("lines", Config::COMPONENTS));
    assert!(usual_components().iter().all(|component| component.kind != entry.name), "a kind of ours has its name");

    let own = include_str!("example.rs");
    let begin = own.find("// The example begins here.\n").unwrap() + "// The example begins here.\n".len();
    let example = own[begin..].split("// The example ends here.\n").next().unwrap().trim();
    let page = PAGE.replace("\r\n", "\n");
    assert!(page.contains(&format!("```rust\n{example}\n```\n")), "write this into adding-a-part.md:\n{example}");
}
