//! Records that are written to files of a folder, as programs write their logs: half a line at a time, and with files that
//! are renamed and packed. The role `collect` reads them.

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

use super::history::History;

/// Lines in a file, before the next one is begun.
const FILE_LINES: u64 = 100;
/// Lines in a second, for each delivery in a second.
const SHARE: f64 = 0.5;
/// The most lines in a second: what is tried here is the cursor, not the speed.
const RATE_MAX: f64 = 200.0;

/// A writer under way.
pub(super) struct Lines {
    stop: CancellationToken,
    writer: JoinSet<io::Result<u64>>,
}

impl Lines {
    /// Writes lines into `dir` until [`Lines::finish`] is called, and notes each in `history`.
    pub(super) fn start(dir: &Path, rate: u32, history: Arc<History>) -> Self {
        let stop = CancellationToken::new();
        let pause = Duration::from_secs_f64(1.0 / (f64::from(rate) * SHARE).clamp(1.0, RATE_MAX));
        let (dir, stopped) = (dir.to_owned(), stop.clone());
        let mut writer = JoinSet::new();
        writer.spawn(async move {
            let mut files = Files { dir, file: None, lines: 0 };
            while tokio::time::timeout(pause, stopped.cancelled()).await.is_err() {
                files.write(&history)?;
            }
            Ok(files.lines)
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

struct Files {
    dir: PathBuf,
    file: Option<File>,
    lines: u64,
}

impl Files {
    fn write(&mut self, history: &History) -> io::Result<()> {
        let number = self.lines;
        let now = Timestamp::now();
        let line = format!(
            r#"{{"id":"line-{number}","time":"{now}","kind":"login","tenant":"acme","actor":"mona-{}","ip":"192.0.2.1"}}"#,
            number % 10
        );
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
        self.lines += 1;
        if self.lines.is_multiple_of(FILE_LINES) {
            self.file = None;
            self.turn(&current)?;
        }
        Ok(())
    }

    /// Sets a full file aside: every third under another name of ours, every third under one that is not, every third
    /// also packed.
    fn turn(&self, current: &Path) -> io::Result<()> {
        let number = self.lines / FILE_LINES;
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
