//! Files that get the inode of one that was read and removed.

use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use tokio::time::Instant;

use super::*;

/// What the cursor calls a file, and when it was made.
fn identity(path: &Path) -> (String, SystemTime) {
    let metadata = fs::metadata(path).unwrap();
    let made = metadata.created().expect("the file system of the tests tells when a file was made");
    (format!("{:x}", metadata.ino()), made)
}

/// Makes a file later than `made`, as the file system tells the time: its clock may stand still for some milliseconds.
/// Returns what the cursor calls it.
fn make_later(made: SystemTime, path: &Path, make: impl Fn(&Path)) -> String {
    let began = Instant::now();
    loop {
        make(path);
        let (id, own) = identity(path);
        if own > made {
            return id;
        }
        fs::remove_file(path).unwrap();
        assert!(began.elapsed() < Duration::from_secs(60), "the file system's clock stands still");
    }
}

/// Removes `old` and makes `new` with its inode. A file system may give it another one; then the cursor is made to say what
/// it would say of the old one.
fn replace(bed: &mut Bed, old: &str, new: &str, make: impl Fn(&Path)) {
    let (old, new) = (bed.path(old), bed.path(new));
    let (id, made) = identity(&old);
    fs::remove_file(&old).unwrap();
    let new_id = make_later(made, &new, make);
    let files = bed.cursor.as_mut().unwrap()["files"].as_object_mut().unwrap();
    let mark = files.remove(&id).expect("the old file has a mark");
    assert_eq!(files.insert(new_id, mark), None);
}

/// A line of 100 bytes of which the last 64 are the same for all numbers.
fn same_end(number: usize) -> String {
    let line = format!("{{\"id\":{number:>5},\"time\":1700000000,\"x\":\"");
    format!("{line}{}\"}}\n", "x".repeat(97 - line.len()))
}

fn pack_at(path: &Path, text: &str, modified: SystemTime) {
    pack(path, text.as_bytes());
    File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[tokio::test]
async fn a_new_file_is_read_though_it_has_the_inode_and_the_last_bytes_of_one_that_was_read() {
    let mut bed = Bed::new();
    bed.append("a.log", &same_end(1));
    bed.append("b.log", &same_end(2));
    assert_eq!(bed.numbers().await, [1, 2]);
    replace(&mut bed, "a.log", "c.log", |path| fs::write(path, same_end(3)).unwrap());
    // Under the same name, and longer.
    replace(&mut bed, "b.log", "b.log", |path| fs::write(path, same_end(4) + &same_end(5)).unwrap());
    let mut found = bed.numbers().await;
    found.sort_unstable();
    assert_eq!(found, [3, 4, 5]);
    assert_eq!(bed.numbers().await, [0; 0]);
    bed.append("c.log", &same_end(6));
    assert_eq!(bed.numbers().await, [6], "it has the mark now");
}

#[tokio::test]
async fn a_new_packed_file_is_read_though_it_has_the_inode_and_the_time_of_one_that_was_read() {
    let mut bed = Bed::new();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    pack_at(&bed.path("a.ndjson.gz"), &line(1), modified);
    assert_eq!(bed.numbers().await, [1]);
    let size = fs::metadata(bed.path("a.ndjson.gz")).unwrap().len();
    replace(&mut bed, "a.ndjson.gz", "b.ndjson.gz", |path| pack_at(path, &line(2), modified));
    assert_eq!(fs::metadata(bed.path("b.ndjson.gz")).unwrap().len(), size, "the size tells nothing");
    assert_eq!(bed.numbers().await, [2]);
    assert_eq!(bed.numbers().await, [0; 0]);
}

#[tokio::test]
async fn a_packed_file_of_another_size_is_another_where_the_time_of_birth_is_unknown() {
    let mut bed = Bed::new();
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    pack_at(&bed.path("a.ndjson.gz"), &line(1), modified);
    assert_eq!(bed.numbers().await, [1]);
    replace(&mut bed, "a.ndjson.gz", "b.ndjson.gz", |path| pack_at(path, &lines(2..30), modified));
    forget(&mut bed, &["b"]);
    assert_eq!(bed.numbers().await, (2..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_with_another_name_is_not_read_for_its_inode_alone() {
    let mut bed = Bed::new();
    bed.append("a.log", &line(1));
    bed.append("b.log", &line(2)[..10]);
    pack(&bed.path("c.log.gz"), line(3).as_bytes());
    let mut found = bed.numbers().await;
    found.sort_unstable();
    assert_eq!(found, [1, 3]);
    let key = "-----BEGIN PRIVATE KEY-----\n".repeat(9);
    for (number, old) in ["a.log", "b.log", "c.log.gz"].into_iter().enumerate() {
        replace(&mut bed, old, &format!("key{number}.pem"), |path| fs::write(path, &key).unwrap());
    }
    assert_eq!(bed.read().await, [""; 0]);
    // Once it has a name that is read, it is read from its beginning.
    fs::write(bed.path("key0.pem"), lines(4..9)).unwrap();
    fs::rename(bed.path("key0.pem"), bed.path("d.log")).unwrap();
    assert_eq!(bed.numbers().await, [4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn more_new_files_than_the_cursor_holds_are_read_though_they_have_the_inodes_of_others() {
    let mut bed = Bed::new();
    let count = position::FILES_MAX + 200;
    (0..count).for_each(|number| bed.append(&format!("{number:04}.log"), &same_end(number)));
    assert_eq!(bed.numbers().await.len(), count);
    let paths: Vec<_> = (0..count).map(|number| bed.path(&format!("{number:04}.log"))).collect();
    let made = paths.iter().map(|path| identity(path).1).max().unwrap();
    paths.iter().for_each(|path| fs::remove_file(path).unwrap());
    let make = |(number, path): (usize, &PathBuf)| {
        make_later(made, path, |path| fs::write(path, same_end(count + number)).unwrap())
    };
    let ids: Vec<_> = paths.iter().enumerate().map(make).collect();
    // Whatever inodes they got, the youngest of them have those with a mark.
    let files = bed.cursor.as_mut().unwrap()["files"].as_object_mut().unwrap();
    *files = ids.into_iter().rev().zip(std::mem::take(files).into_iter().map(|(_, mark)| mark)).collect();
    assert!(files.len() > position::FILES_MAX / 2, "{}", files.len());
    let mut found = bed.numbers().await;
    found.sort_unstable();
    assert_eq!(found, (count..2 * count).collect::<Vec<_>>());
    assert_eq!(bed.numbers().await, [0; 0]);
}

/// A file that was read and given up has no mark. So one that finds another's mark is new, however old it looks.
#[tokio::test]
async fn a_file_with_the_inode_of_another_is_not_passed_over_for_its_age() {
    let mut bed = Bed::new();
    bed.append("a.log", &line(1));
    assert_eq!(bed.numbers().await, [1]);
    replace(&mut bed, "a.log", "b.log", |path| fs::write(path, line(2)).unwrap());
    bed.cursor.as_mut().unwrap()["floor"] = serde_json::json!({ "changed": i64::MAX, "path": "" });
    assert_eq!(bed.numbers().await, [2]);
}

#[tokio::test]
async fn nothing_is_read_again_with_a_cursor_of_an_earlier_release() {
    let mut bed = Bed::new();
    bed.append("a.log", &line(1));
    bed.append("b.log", &line(2));
    pack(&bed.path("c.log.gz"), line(3).as_bytes());
    assert_eq!(bed.numbers().await.len(), 3);
    let whole = bed.cursor.clone().unwrap();
    forget(&mut bed, &["b", "l"]);
    assert_ne!(bed.cursor.as_ref(), Some(&whole));
    fs::rename(bed.path("b.log"), bed.path("b.log.old")).unwrap();
    assert_eq!(bed.numbers().await, [0; 0]);
    assert_eq!(bed.cursor.as_ref(), Some(&whole), "what the earlier release did not write is filled in");
    bed.append("b.log.old", &line(4));
    assert_eq!(bed.numbers().await, [4]);
}

/// Takes these fields from every mark.
fn forget(bed: &mut Bed, fields: &[&str]) {
    for mark in bed.cursor.as_mut().unwrap()["files"].as_object_mut().unwrap().values_mut() {
        for field in fields {
            mark.as_object_mut().unwrap().remove(*field);
        }
    }
}
