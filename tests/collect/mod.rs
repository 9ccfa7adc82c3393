//! Sources that are asked: the real binary reads a folder, and a bucket of a stand-in. Intervals are a second here, and every wait is for a
//! condition.

mod bucket;
mod commands;
mod crash;
mod up;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use headrace_schemas::time::Timestamp;
use tempfile::TempDir;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace");
/// The folder's name in commands.
const NAME: &str = "ndjson.folder";

/// A folder to read, and a directory for the product.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        Self { dir }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    /// Settings by which the folder is read.
    fn settings(&self) -> String {
        let url = self.path("");
        format!(
            "collect.lease_s = 1\n\
             ingest.ndjson.folder = {{ url = '{}', interval_s = 1, settle_s = 0, last_line_s = 1 }}\n",
            url.display()
        )
    }

    /// Adds a record for each number to a file.
    fn append(&self, name: &str, numbers: std::ops::Range<usize>) {
        let lines: String = numbers.map(record).collect();
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }
}

fn record(number: usize) -> String {
    let now = Timestamp::now();
    format!("{{\"id\":{number},\"time\":\"{now}\",\"kind\":\"login\",\"tenant\":\"acme\",\"actor\":\"mona\"}}\n")
}
