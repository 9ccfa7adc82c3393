//! Records that are written line by line, for the role `collect` to read them: to files of a folder, as programs write
//! their logs, half a line at a time and with files that are renamed and packed; or to objects of a bucket.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use headrace_schemas::time::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Objects};
use super::history::History;
use super::scenario::Origin;

/// Lines in a file, before the next one is begun.
const FILE_LINES: u64 = 100;
/// Lines in a second, for each delivery in a second.
const SHARE: f64 = 0.5;
/// The most lines in a second: what is tried here is the cursor, not the speed.
const RATE_MAX: f64 = 200.0;
/// Objects in a second.
const OBJECTS_RATE: f64 = 2.0;

/// Where lines are written and read.
pub(super) enum Place {
    Folder(PathBuf),
    Bucket(Bucket),
}

impl Place {
    /// Makes a folder in `dir`, or a bucket.
    pub(super) async fn make(origin: Origin, dir: &Path) -> anyhow::Result<Self> {
        match origin {
            Origin::Folder => {
                let folder = dir.join("in");
                fs::create_dir(&folder).context("cannot make the folder to read")?;
                Ok(Self::Folder(folder))
            }
            Origin::Bucket => Ok(Self::Bucket(Bucket::start().await?)),
        }
    }

    /// The settings by which it is read.
    pub(super) fn configuration(&self) -> String {
        match self {
            Self::Folder(folder) => format!("url = '{}'", folder.display()),
            Self::Bucket(bucket) => bucket.configuration(),
        }
    }

    /// The bucket, if it is one.
    pub(super) const fn bucket(&self) -> Option<&Bucket> {
        match self {
            Self::Folder(_) => None,
            Self::Bucket(bucket) => Some(bucket),
        }
    }

    fn writer(&self, rate: f64) -> Writer {
        match self {
            Self::Folder(dir) => Writer::Files(Files { dir: dir.clone(), file: None }),
            Self::Bucket(bucket) => Writer::Objects(bucket.objects((rate / OBJECTS_RATE).ceil() as usize)),
        }
    }
}

/// A writer under way.
pub(super) struct Lines {
    stop: CancellationToken,
    writer: JoinSet<io::Result<u64>>,
}

impl Lines {
    /// Writes lines to `place` until [`Lines::finish`] is called, and notes each in `history`.
    pub(super) fn start(place: &Place, rate: u32, history: Arc<History>) -> Self {
        let stop = CancellationToken::new();
        let rate = (f64::from(rate) * SHARE).clamp(1.0, RATE_MAX);
        let (pause, mut own, stopped) = (Duration::from_secs_f64(1.0 / rate), place.writer(rate), stop.clone());
        let mut writer = JoinSet::new();
        writer.spawn(async move {
            let mut lines = 0;
            while tokio::time::timeout(pause, stopped.cancelled()).await.is_err() {
                own.write(lines, &history)?;
                lines += 1;
            }
            own.end(&history);
            Ok(lines)
        });
        Self { stop, writer }
    }

    /// Stops writing. Returns how many lines were written.
    pub(super) async fn finish(mut self) -> anyhow::Result<u64> {
        self.stop.cancel();
        let ended = self.writer.join_next().await.context("the writer was cut off")?;
        ended.context("the writer was cut off")?.context("cannot write the lines")
    }
}

enum Writer {
    Files(Files),
    Objects(Objects),
}

impl Writer {
    fn write(&mut self, number: u64, history: &History) -> io::Result<()> {
        let now = Timestamp::now();
        let line = format!(
            r#"{{"id":"line-{number}","time":"{now}","kind":"login","tenant":"acme","actor":"mona-{}","ip":"192.0.2.1"}}"#,
            number % 10
        );
        match self {
            Self::Files(files) => files.write(number, &line, history),
            Self::Objects(objects) => {
                objects.write(number, line, history);
                Ok(())
            }
        }
    }

    /// Writes what is left.
    fn end(&mut self, history: &History) {
        match self {
            Self::Files(_) => {}
            Self::Objects(objects) => objects.put(history),
        }
    }
}

struct Files {
    dir: PathBuf,
    file: Option<File>,
}

impl Files {
    fn write(&mut self, number: u64, line: &str, history: &History) -> io::Result<()> {
        let current = self.dir.join("current.log");
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::create(&current)?),
        };
        // In two writes, so that whoever reads may find half a line.
        let (begin, end) = line.split_at(line.len() / 2);
        file.write_all(begin.as_bytes())?;
        file.write_all(format!("{end}\n").as_bytes())?;
        history.note_line(number, line.as_bytes());
        let lines = number + 1;
        if lines.is_multiple_of(FILE_LINES) {
            self.file = None;
            self.turn(&current, lines / FILE_LINES)?;
        }
        Ok(())
    }

    /// Sets a full file aside: every third under another name of ours, every third under one that is not, every third
    /// also packed.
    fn turn(&self, current: &Path, number: u64) -> io::Result<()> {
        let aside = self.dir.join(match number % 3 {
            0 => format!("{number}.log"),
            _ => format!("current.log.{number}"),
        });
        fs::rename(current, &aside)?;
        if number % 3 == 2 {
            let packed = self.dir.join(format!("{number}.log.gz"));
            let mut packer = GzEncoder::new(File::create(packed)?, Compression::fast());
            io::copy(&mut File::open(aside)?, &mut packer)?;
            packer.finish()?;
        }
        Ok(())
    }
}
