//! Scored events and alerts as JSON lines in files, for machines without a SIEM and for forwarders
//! that tail files.
//!
//! A batch counts as delivered once it is on disk (fsync). The file is the delivery log: it holds every record at least
//! once, with its stable id. Every line in it is whole: when a crash leaves half a line, the next start cuts it off.
//! [`writer`] handles the files themselves.

mod config;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::batch::{Batch, BatchPolicy};
use headrace_runtime::component::sink::{BatchResult, Sink, SinkOptions};
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::{Effect, Fault};
use headrace_runtime::message::payload::Payload;
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use serde::Serialize;

pub use self::config::Config;
use self::writer::{OpenError, Writer};
use crate::kind::{Kind, Part};

/// How many records are written to memory before other tasks may run: about 10 µs each.
const SLICE: usize = 32;

/// What can be written as a line.
pub trait Line: Payload + Serialize {
    /// The file's name without its ending: `events`.
    const NAME: &'static str;
    /// The subjects it is read from.
    const SUBJECTS: &'static str;
}

impl Line for Event {
    const NAME: &'static str = "events";
    const SUBJECTS: &'static str = subject::ALL_SCORED;
}

impl Line for Alert {
    const NAME: &'static str = "alerts";
    const SUBJECTS: &'static str = subject::ALERTS;
}

/// The sink, for one type of record.
pub struct File<T> {
    state: Arc<Mutex<State>>,
    record: std::marker::PhantomData<fn() -> T>,
}

/// The file while it is open, and how to open it.
struct State {
    writer: Option<Writer>,
    dir: PathBuf,
    name: &'static str,
    rotation: writer::Rotation,
}

impl Config {
    /// Builds the sink for `T`. Touches no file yet.
    #[must_use]
    pub fn build<T: Line>(&self) -> File<T> {
        let rotation = writer::Rotation { rotate_bytes: self.rotate_bytes_max, keep_files: self.keep_files_max };
        let state = State { writer: None, dir: self.dir.clone(), name: T::NAME, rotation };
        File { state: Arc::new(Mutex::new(state)), record: std::marker::PhantomData }
    }

    /// The options with which it takes records of type `T`.
    #[must_use]
    pub fn options<T: Line>(&self) -> SinkOptions {
        // A slower disk is a fault.
        let call_timeout = Duration::from_millis(self.timeout_ms);
        SinkOptions {
            filters: vec![T::SUBJECTS.to_owned()],
            batching: BatchPolicy {
                events_max: 1_000,
                bytes_max: crate::MESSAGES_BYTES_MAX,
                linger: Duration::from_millis(200),
            },
            call_timeout,
            ack_wait: call_timeout * 2,
            workers: 1,
        }
    }
}

#[async_trait]
impl Kind for Config {
    const NAME: &'static str = "file";
    const COMPONENTS: &'static [(&'static str, Stream)] = &[("-events", Stream::Events), ("-alerts", Stream::Alerts)];

    fn validate(&self, path: &str) -> Vec<Invalid> {
        Self::validate(self, path)
    }

    fn place(&self) -> Option<(&'static str, String)> {
        Some(("dir", self.dir.display().to_string()))
    }

    fn parts(&self, _name: &str) -> anyhow::Result<Vec<Part>> {
        let events = Part::events(self.build::<Event>(), self.options::<Event>());
        Ok(vec![events, Part::alerts(self.build::<Alert>(), self.options::<Alert>())])
    }

    /// In these files, people can read what would go to a SIEM and to tickets.
    fn of_up(data: &Path, is_alone: bool) -> Option<Self> {
        is_alone.then(|| Self { dir: data.join("out"), ..Self::default() })
    }

    fn told(&self) -> Option<(&'static str, String)> {
        Some(("files", format!("{}   (scored events and alerts, in place of Splunk and Jira)", self.dir.display())))
    }
}

#[async_trait]
impl<T: Line> Sink for File<T> {
    type Item = T;

    async fn check(&self) -> Result<(), Fault> {
        self.with_writer(|_| Ok(())).await
    }

    async fn deliver(&self, batch: &Batch<T>) -> BatchResult {
        let mut lines = Vec::new();
        for (count, item) in batch.items().iter().enumerate() {
            serde_json::to_writer(&mut lines, &item.value).expect("writing text keys to memory cannot fail");
            lines.push(b'\n');
            if count % SLICE == SLICE - 1 {
                tokio::task::yield_now().await;
            }
        }
        match self.with_writer(move |writer| writer.append(&lines)).await {
            Ok(()) => BatchResult::all(batch.items().len()),
            Err(fault) => BatchResult::Whole(fault),
        }
    }
}

impl<T> File<T> {
    /// Runs `work` on the open file, away from the reactor: a sync takes milliseconds.
    async fn with_writer<F>(&self, work: F) -> Result<(), Fault>
    where
        F: FnOnce(&mut Writer) -> io::Result<()> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let task = move || state.lock().unwrap_or_else(PoisonError::into_inner).run(work);
        match tokio::task::spawn_blocking(task).await {
            Ok(done) => done,
            Err(error) => {
                let cut_off = anyhow::Error::new(error).context("writing to the file was cut off");
                Err(Fault::transient(cut_off).with_effect(Effect::Possible))
            }
        }
    }
}

impl State {
    fn run(&mut self, work: impl FnOnce(&mut Writer) -> io::Result<()>) -> Result<(), Fault> {
        // Take it out, so that a file that fails is closed and opened anew: after a failed sync the kernel may call
        // pages clean that are not on disk.
        let mut writer = match self.writer.take().filter(Writer::is_in_place) {
            Some(writer) => writer,
            None => Writer::open(&self.dir, self.name, self.rotation).map_err(|failure| self.fault(failure))?,
        };
        work(&mut writer).map_err(|error| self.fault(OpenError::Io(error)).with_effect(Effect::Possible))?;
        self.writer = Some(writer);
        Ok(())
    }

    fn fault(&self, failure: OpenError) -> Fault {
        let place = self.dir.join(self.name);
        match failure {
            OpenError::InUse => Fault::broken(anyhow!(
                "another process writes to {}.jsonl; stop it or give this one a directory of its own",
                place.display()
            )),
            OpenError::Io(error) => {
                let broken = matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::AlreadyExists
                        | io::ErrorKind::IsADirectory
                        | io::ErrorKind::ReadOnlyFilesystem
                );
                let cause = anyhow::Error::new(error).context(format!("cannot write to {}.jsonl", place.display()));
                if broken { Fault::broken(cause) } else { Fault::transient(cause) }
            }
        }
    }
}
