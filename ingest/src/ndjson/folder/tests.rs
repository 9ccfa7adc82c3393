//! A real folder whose files change in every way that a source must bear. Each test reads it as `collect` does: page by
//! page, with the cursor that the last one gave.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use headrace_runtime::fault::FaultClass;
use rustix::fs::{CWD, Mode, mkfifoat};
use tempfile::TempDir;

use super::*;
use crate::lines::Limits;
use crate::ndjson::config::Config as Ndjson;
use crate::ndjson::split::Split;
use crate::source::Common;
use crate::source::pull::CURSOR_BYTES_MAX;
use crate::tenant::Tenants;

/// So long that no test sees it pass.
const NEVER: u64 = 86_400;
const LINE_BYTES_MAX: usize = 1 << 20;

struct Bed {
    dir: TempDir,
    config: Config,
    folder: Folder,
    cursor: Option<Cursor>,
    pages: usize,
}

impl Bed {
    /// An empty folder. A packed file settles at once, and a last line without a line end never.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let url = dir.path().to_str().unwrap().to_owned();
        let config =
            Config { url, settle_s: 0, last_line_s: NEVER, line_bytes_max: LINE_BYTES_MAX, ..Config::default() };
        let folder = folder(&config);
        Self { dir, config, folder, cursor: None, pages: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// As another process would go on, with other settings.
    fn go_on(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.folder = folder(&self.config);
    }

    /// Everything that there is to read, as the bodies of records; of an unreadable line, `!` and its reason.
    async fn read(&mut self) -> Vec<String> {
        let mut bodies = Vec::new();
        loop {
            let page = self.folder.page(self.cursor.as_ref()).await.unwrap();
            self.pages += 1;
            let cursor = page.cursor.unwrap();
            assert!(cursor.to_string().len() <= CURSOR_BYTES_MAX, "{cursor}");
            assert!(!page.has_more || Some(&cursor) != self.cursor.as_ref(), "a page with more moves the cursor");
            assert!(page.records.len() <= 1_000);
            self.cursor = Some(cursor);
            bodies.extend(page.records.into_iter().map(|record| match record.headers.first() {
                Some((_, reason)) => format!("!{reason}"),
                None => String::from_utf8(record.body.to_vec()).unwrap(),
            }));
            if !page.has_more {
                return bodies;
            }
        }
    }

    /// The numbers of the records that there are to read.
    async fn numbers(&mut self) -> Vec<usize> {
        let bodies = self.read().await;
        let number = |body: &String| serde_json::from_str::<serde_json::Value>(body).unwrap()["id"].as_u64().unwrap();
        bodies.iter().map(|body| usize::try_from(number(body)).unwrap()).collect()
    }
}

fn folder(config: &Config) -> Folder {
    let common = Common { tenants: &Tenants::default(), duplicate_window: Duration::from_secs(120) };
    Folder::new(config, Arc::new(Split::new(&Ndjson::default(), common)))
}

fn line(number: usize) -> String {
    format!("{{\"id\":{number},\"time\":1700000000}}\n")
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(line).collect()
}

fn pack(path: &Path, text: &[u8]) {
    let mut packed = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
    packed.write_all(text).unwrap();
    packed.finish().unwrap();
}

#[tokio::test]
async fn a_file_that_grows_is_read_on_by_whole_lines() {
    let mut bed = Bed::new();
    assert_eq!(bed.numbers().await, [0; 0], "nothing is there yet");
    bed.append("a.log", &line(1));
    assert_eq!(bed.numbers().await, [1]);
    assert_eq!(bed.numbers().await, [0; 0]);
    let two = line(2);
    bed.append("a.log", &two[..10]);
    bed.append("b.ndjson", &line(10));
    assert_eq!(bed.numbers().await, [10], "half a line waits");
    bed.append("a.log", &two[10..]);
    assert_eq!(bed.numbers().await, [2]);
    bed.append("a.log", "\n \r\n{\"id\":3,\"time\":1}\r\n{\"id\":4,\"time\":1}");
    assert_eq!(bed.read().await, ["{\"id\":3,\"time\":1}"]);
    // The file has not changed for long enough.
    bed.go_on(|config| config.last_line_s = 0);
    assert_eq!(bed.numbers().await, [4]);
    bed.append("a.log", "\n");
    bed.append("a.log", &line(5));
    assert_eq!(bed.numbers().await, [5]);
}

#[tokio::test]
async fn a_file_that_is_renamed_is_read_on_and_its_successor_from_the_beginning() {
    let mut bed = Bed::new();
    bed.append("a.log", &line(1));
    assert_eq!(bed.numbers().await, [1]);
    bed.append("a.log", &line(2));
    // No suffix of ours, but the file was ours.
    fs::rename(bed.path("a.log"), bed.path("a.log.old")).unwrap();
    bed.append("a.log", &line(3));
    let mut found = bed.numbers().await;
    found.sort_unstable();
    assert_eq!(found, [2, 3]);
    bed.append("a.log.old", &line(4));
    fs::create_dir(bed.path("old")).unwrap();
    fs::rename(bed.path("a.log"), bed.path("old/a.log")).unwrap();
    assert_eq!(bed.numbers().await, [4]);
}

#[tokio::test]
async fn a_file_that_is_set_aside_before_anybody_looks_is_read() {
    let mut bed = Bed::new();
    bed.append("a.log", &line(1));
    fs::rename(bed.path("a.log"), bed.path("a.log.2")).unwrap();
    bed.append("a.log", &line(2));
    fs::rename(bed.path("a.log"), bed.path("a.log-20260131")).unwrap();
    pack(&bed.path("a.log.3.gz"), line(3).as_bytes());
    let mut found = bed.numbers().await;
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3]);
}

#[tokio::test]
async fn a_file_that_shrank_or_was_replaced_is_read_from_its_beginning() {
    let mut bed = Bed::new();
    bed.append("a.log", &lines(0..3));
    assert_eq!(bed.numbers().await, [0, 1, 2]);
    File::create(bed.path("a.log")).unwrap();
    assert_eq!(bed.numbers().await, [0; 0]);
    bed.append("a.log", &line(3));
    assert_eq!(bed.numbers().await, [3]);
    // Cut, and longer than before at the next look.
    File::create(bed.path("a.log")).unwrap();
    bed.append("a.log", &lines(4..7));
    assert_eq!(bed.numbers().await, [4, 5, 6]);
    // Another file under the name, with an old time, as `mv` and `cp -p` leave it.
    fs::write(bed.path("new"), lines(7..9)).unwrap();
    File::options().write(true).open(bed.path("new")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::rename(bed.path("new"), bed.path("a.log")).unwrap();
    assert_eq!(bed.numbers().await, [7, 8]);
}

#[tokio::test]
async fn a_packed_file_is_read_once_it_has_settled() {
    let mut bed = Bed::new();
    bed.go_on(|config| config.settle_s = NEVER);
    pack(&bed.path("a.ndjson.gz"), lines(0..2_500).as_bytes());
    bed.append("b.ndjson", &line(9_000));
    assert_eq!(bed.numbers().await, [9_000]);
    bed.go_on(|config| config.settle_s = 0);
    assert_eq!(bed.numbers().await, (0..2_500).collect::<Vec<_>>());
    assert_eq!(bed.numbers().await, [0; 0]);
    // Its last line needs no line end, and another process goes on in the middle of it.
    pack(&bed.path("b.log.gz"), lines(0..1_500).trim_end().as_bytes());
    let first = bed.folder.page(bed.cursor.as_ref()).await.unwrap();
    assert_eq!((first.records.len(), first.has_more), (1_000, true));
    bed.cursor = first.cursor;
    bed.go_on(|_| ());
    assert_eq!(bed.numbers().await, (1_000..1_500).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_packed_file_that_is_broken_is_read_as_far_as_it_can_be() {
    let mut bed = Bed::new();
    pack(&bed.path("whole"), lines(0..2_000).as_bytes());
    let packed = fs::read(bed.path("whole")).unwrap();
    fs::remove_file(bed.path("whole")).unwrap();
    fs::write(bed.path("short.log.gz"), &packed[..packed.len() / 2]).unwrap();
    fs::write(bed.path("none.log.gz"), "not packed").unwrap();
    let first = bed.read().await;
    let (broken, read): (Vec<_>, Vec<_>) = first.into_iter().partition(|body| body.starts_with('!'));
    let [broken] = &broken[..] else { panic!("one cannot be unpacked: {broken:?}") };
    assert!(broken.starts_with("!none.log.gz at byte 0: cannot unpack"), "{broken}");
    assert!(!read.is_empty() && read.len() < 2_000, "{}", read.len());
    assert_eq!(bed.read().await, [""; 0], "the rest may still come");
    bed.go_on(|config| config.last_line_s = 0);
    let rest = bed.read().await;
    assert!(rest.iter().any(|body| body.starts_with("!short.log.gz at byte")), "{rest:?}");
    assert_eq!(bed.read().await, [""; 0]);
    fs::write(bed.path("short.log.gz"), &packed).unwrap();
    // The file system's clock may stand still for some milliseconds.
    let later = std::time::SystemTime::now() + Duration::from_secs(1);
    File::options().write(true).open(bed.path("short.log.gz")).unwrap().set_modified(later).unwrap();
    assert_eq!(bed.numbers().await, (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_line_that_can_never_be_read_stops_nothing() {
    let mut bed = Bed::new();
    bed.append("a.log", &format!("{}no JSON\n{{\"id\":2}}\n", line(1)));
    fs::write(bed.path("b.log"), [b"\xff\xfe\n".to_vec(), vec![b'x'; LINE_BYTES_MAX + 1], b"\n".to_vec()].concat())
        .unwrap();
    bed.append("b.log", &line(3));
    let found = bed.read().await;
    let begins = [
        line(1).trim_end().to_owned(),
        "!a.log at byte 27: expected one JSON object".to_owned(),
        "!a.log at byte 35: expected the field `time`".to_owned(),
        "!b.log at byte 0: expected one JSON object".to_owned(),
        format!("!b.log at byte 3: expected a line of at most {LINE_BYTES_MAX} bytes, found one of"),
        line(3).trim_end().to_owned(),
    ];
    assert_eq!(found.len(), begins.len(), "{found:?}");
    for (found, begin) in found.iter().zip(&begins) {
        assert!(found.starts_with(begin), "{found} does not begin with {begin}");
    }
    // The same line has the same id, whoever reads it.
    let page = folder(&bed.config).page(None).await.unwrap();
    let again = folder(&bed.config).page(None).await.unwrap();
    assert_eq!(page.records, again.records);
    let unreadable: Vec<_> = page.records.iter().filter(|record| record.kind == "unreadable").collect();
    assert!(unreadable.iter().all(|record| record.id.as_str().starts_with("ndjson:unreadable:")));
    assert!(unreadable.iter().all(|record| record.body.len() <= 64 << 10));
}

#[tokio::test]
async fn links_pipes_and_names_of_any_bytes_are_borne() {
    let mut bed = Bed::new();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("secret.log"), line(666)).unwrap();
    fs::create_dir_all(bed.path("deep/er")).unwrap();
    bed.append("deep/er/a.log", &line(1));
    std::os::unix::fs::symlink(outside.path().join("secret.log"), bed.path("out.log")).unwrap();
    std::os::unix::fs::symlink(outside.path(), bed.path("out")).unwrap();
    std::os::unix::fs::symlink(bed.path("deep"), bed.path("circle")).unwrap();
    std::os::unix::fs::symlink(bed.path("deep/er/a.log"), bed.path("in.log")).unwrap();
    std::os::unix::fs::symlink("nowhere.log", bed.path("dangling.log")).unwrap();
    mkfifoat(CWD, bed.path("pipe.log"), Mode::RUSR).unwrap();
    fs::create_dir(bed.path("folder.log")).unwrap();
    let odd = OsStr::from_bytes(b"\xff\x01%\n.log");
    fs::write(bed.dir.path().join(odd), line(2)).unwrap();
    let mut found = bed.numbers().await;
    found.sort_unstable();
    assert_eq!(found, [1, 2]);
    assert_eq!(bed.numbers().await, [0; 0]);
}

/// Tests may run as root, who may read everything. So the file is only said to be denied.
#[test]
fn a_file_without_the_right_to_read_it_is_left_out_until_its_rights_change() {
    let bed = Bed::new();
    bed.append("a.log", &line(1));
    let look = |denied: &scan::Denied| {
        let now = i64::MAX;
        let warnings = &mut warnings::Warnings::default();
        scan::scan(bed.dir.path(), &bed.config, &Position::default(), now, denied, warnings).unwrap()
    };
    let found = look(&scan::Denied::default()).unread;
    let denied = scan::Denied::from([(found[0].id.clone(), found[0].key.changed)]);
    let left = look(&denied);
    assert!(left.unread.is_empty() && left.least.is_none(), "{left:?}");
    // The file system's clock may stand still for some milliseconds.
    let path = bed.path("a.log");
    let mut mode = 0o600;
    while look(&denied).unread.is_empty() {
        mode ^= 0o044;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    assert_eq!(look(&denied).unread[0].path, Path::new("a.log"));
}

#[tokio::test]
async fn more_files_than_the_cursor_holds_are_each_read_once() {
    let mut bed = Bed::new();
    let count = position::FILES_MAX + 700;
    for number in 0..count {
        bed.append(&format!("{number}.json"), &line(number));
    }
    let mut found = bed.numbers().await;
    found.sort_unstable();
    assert_eq!(found, (0..count).collect::<Vec<_>>());
    assert_eq!(bed.numbers().await, [0; 0], "none again");
    // The youngest grow, and new ones come.
    bed.append(&format!("{}.json", count - 1), &line(count));
    bed.append("another.json", &line(count + 1));
    assert_eq!(bed.numbers().await, [count, count + 1]);
    assert!(bed.pages > 2, "a page has a thousand lines at most");
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let mut bed = Bed::new();
    let long = "x".repeat(900 << 10);
    for number in 0..12 {
        bed.append("a.log", &format!("{{\"id\":{number},\"time\":1700000000,\"text\":\"{long}\"}}\n"));
    }
    let page = bed.folder.page(None).await.unwrap();
    assert_eq!((page.records.len(), page.has_more), (5, true), "4 MiB, and the line that goes beyond");
    assert_eq!(bed.numbers().await, (0..12).collect::<Vec<_>>());
}

/// What is written while the folder is read must come, each line once or more, and no line that was not written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_written_meanwhile_is_read() {
    const LINES: usize = 6_000;
    let mut bed = Bed::new();
    let dir = bed.dir.path().to_owned();
    let writer = tokio::task::spawn_blocking(move || {
        let (mut file, mut files) = (File::create(dir.join("a.log")).unwrap(), 0);
        for number in 0..LINES {
            let line = line(number);
            // In two writes, so that a reader may see half a line.
            file.write_all(&line.as_bytes()[..7]).unwrap();
            file.write_all(&line.as_bytes()[7..]).unwrap();
            if number % 500 == 499 {
                fs::rename(dir.join("a.log"), dir.join(format!("a.{files}"))).unwrap();
                (file, files) = (File::create(dir.join("a.log")).unwrap(), files + 1);
            }
        }
    });
    let mut found: BTreeMap<usize, usize> = BTreeMap::new();
    let mut is_last = false;
    while !is_last {
        is_last = writer.is_finished();
        for number in bed.numbers().await {
            *found.entry(number).or_default() += 1;
        }
        // A file that is made and renamed between two looks has another name by then.
        bed.go_on(|config| {
            config.suffixes = (0..20).map(|file| format!(".{file}")).chain([".log".to_owned()]).collect();
        });
    }
    writer.await.unwrap();
    assert_eq!(found, (0..LINES).map(|number| (number, 1)).collect());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_for_a_person_to_mend() {
    let mut bed = Bed::new();
    let missing = bed.path("missing");
    bed.go_on(|config| config.url = format!("file://{}", missing.display()));
    for fault in [bed.folder.check().await.unwrap_err(), bed.folder.page(None).await.unwrap_err()] {
        assert_eq!(fault.class, FaultClass::Broken);
        assert!(fault.to_string().contains(&format!("at {}; make it", missing.display())), "{fault}");
    }
    let fault = folder(&bed.config).page(Some(&serde_json::json!("of another source"))).await.unwrap_err();
    assert!(fault.class == FaultClass::Broken && fault.to_string().contains("sources rewind"), "{fault}");
    fs::create_dir(&missing).unwrap();
    assert!(bed.folder.check().await.is_ok() && bed.numbers().await.is_empty());
}

mod changes;
mod inodes;
