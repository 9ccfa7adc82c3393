//! Scored events and alerts as JSON lines in files, for machines without a SIEM and for forwarders
//! that tail files.
//!
//! The files may be parted into folders by tenant and day. A batch then holds what belongs into one of them, so that a call
//! writes and syncs one file. A batch counts as delivered once it is on disk (fsync). The file is the delivery log: it
//! holds every record at least once, with its stable id. Every line in it is whole: when a crash leaves half a line, the
//! next start cuts it off. [`writer`] handles the files themselves.

mod config;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::batch::{Batch, BatchPolicy, Key};
use headrace_runtime::component::sink::{BatchResult, Sink, SinkOptions};
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::{Effect, Fault};
use headrace_runtime::message::payload::Payload;
use headrace_schemas::alert::Alert;
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;
use headrace_schemas::{subject, token};
use serde::Serialize;

pub use self::config::{Config, Folder};
use self::writer::{Lock, OpenError, Writer, sync_dir};
use crate::kind::{Identity, Kind, Part};

/// How many records are written to memory before other tasks may run: about 10 µs each.
const SLICE: usize = 32;
/// How many files are kept open, of those in folders. The one that was not written to for the longest is closed first.
const OPEN_MAX: usize = 64;

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
    folders: Vec<Folder>,
    record: std::marker::PhantomData<fn() -> T>,
}

/// The files that are open, and how to open them.
struct State {
    /// By folder, the one that was written to last at the end.
    writers: VecDeque<(Key, Writer)>,
    /// Of the directory above folders, since it was last checked.
    lock: Option<Lock>,
    dir: PathBuf,
    name: &'static str,
    rotation: writer::Rotation,
}

impl Config {
    /// Builds the sink for `T`. Touches no file yet.
    #[must_use]
    pub fn build<T: Line>(&self) -> File<T> {
        let rotation = writer::Rotation { rotate_bytes: self.rotate_bytes_max, keep_files: self.keep_files_max };
        let state = State { writers: VecDeque::new(), lock: None, dir: self.dir.clone(), name: T::NAME, rotation };
        let folders = self.folders.clone();
        File { state: Arc::new(Mutex::new(state)), folders, record: std::marker::PhantomData }
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
            workers: Self::CONCURRENCY,
        }
    }
}

#[async_trait]
impl Kind for Config {
    const NAME: &'static str = "file";
    const COMPONENTS: &'static [(&'static str, Stream)] = &[("-events", Stream::Events), ("-alerts", Stream::Alerts)];
    const ONE_AT_A_TIME: Option<&'static str> = Some("a file is written by one at a time");

    fn validate(&self, path: &str) -> Vec<Invalid> {
        Self::validate(self, path)
    }

    fn place(&self) -> Option<(&'static str, String)> {
        Some(("dir", self.dir.display().to_string()))
    }

    fn parts(&self, _own: &Identity) -> anyhow::Result<Vec<Part>> {
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
        if self.folders.is_empty() {
            return self.with_state(|state| state.run(Key::default(), |_| Ok(()))).await;
        }
        self.with_state(State::lock).await
    }

    /// The path of its folder. A call writes one file.
    fn key(&self, item: &T) -> Key {
        let name = |folder: &Folder| match folder {
            Folder::Tenant => token::escaped(item.identity().tenant),
            Folder::Day => day(item.received_at()),
        };
        Key::new(self.folders.iter().map(name).collect::<Vec<String>>().join("/"))
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
        let folder = batch.items().first().map(|item| self.key(&item.value)).unwrap_or_default();
        match self.with_state(move |state| state.run(folder, |writer| writer.append(&lines))).await {
            Ok(()) => BatchResult::all(batch.items().len()),
            Err(fault) => BatchResult::Whole(fault),
        }
    }
}

/// The date of `at`, by UTC: `2026-01-31`.
fn day(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('T').map_or(text.clone(), |(day, _)| day.to_owned())
}

impl<T> File<T> {
    /// Runs `work` away from the reactor: a sync takes milliseconds.
    async fn with_state<F>(&self, work: F) -> Result<(), Fault>
    where
        F: FnOnce(&mut State) -> Result<(), Fault> + Send + 'static,
    {
        // A disk that hangs keeps a thread for as long as it does. More of them would take those of everybody else.
        if matches!(self.state.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Fault::transient(anyhow!("the last write to the file has not ended; does its disk hang?")));
        }
        let state = Arc::clone(&self.state);
        let task = move || work(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
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
    /// Runs `work` on the file in `folder`.
    fn run(&mut self, folder: Key, work: impl FnOnce(&mut Writer) -> io::Result<()>) -> Result<(), Fault> {
        // Take it out, so that a file that fails is closed and opened anew: after a failed sync the kernel may call
        // pages clean that are not on disk.
        let open = self.writers.iter().position(|(own, _)| *own == folder).and_then(|at| self.writers.remove(at));
        let mut writer = match open.map(|(_, writer)| writer).filter(Writer::is_in_place) {
            Some(writer) => writer,
            None => self.open(&folder).map_err(|failure| self.fault(failure))?,
        };
        work(&mut writer).map_err(|error| self.fault(OpenError::Io(error)).with_effect(Effect::Possible))?;
        self.writers.push_back((folder, writer));
        Ok(())
    }

    fn open(&mut self, folder: &Key) -> Result<Writer, OpenError> {
        while self.writers.len() >= OPEN_MAX {
            self.writers.pop_front();
        }
        let dir = self.dir.join(folder.as_str());
        let writer = Writer::open(&dir, self.name, self.rotation)?;
        // A folder that was made is on disk once the one above it is.
        for above in dir.ancestors().skip(1).take_while(|above| above.starts_with(&self.dir)) {
            sync_dir(above)?;
        }
        Ok(writer)
    }

    /// Makes the directory above the folders, and keeps other processes out.
    fn lock(&mut self) -> Result<(), Fault> {
        self.lock = self.lock.take().filter(|lock| lock.is_in_place(&self.dir));
        if self.lock.is_none() {
            self.lock = Some(Lock::take(&self.dir, self.name).map_err(|failure| self.fault(failure))?);
        }
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
