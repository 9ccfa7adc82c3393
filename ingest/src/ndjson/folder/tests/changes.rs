//! Folders that are moved, settings that change, files that take long, clocks that differ.

use headrace_local::poll;
use headrace_schemas::time::Timestamp;

use super::*;

/// More files than the cursor holds, all of them read, and a file outside that is older than any of them.
async fn full(old: &str) -> (Bed, TempDir, usize) {
    let mut bed = Bed::new();
    let outside = TempDir::new().unwrap();
    fs::create_dir_all(outside.path().join("a/b")).unwrap();
    fs::write(outside.path().join("a/b/old.log"), line(1_000_000)).unwrap();
    bed.append(old, &line(1_000_001));
    let count = position::FILES_MAX + 300;
    for number in 0..count {
        bed.append(&format!("{number}.json"), &line(number));
    }
    bed.numbers().await;
    assert_ne!(bed.cursor.as_ref().unwrap()["floor"], serde_json::Value::Null);
    (bed, outside, count)
}

#[tokio::test]
async fn a_folder_that_is_moved_in_with_old_files_is_read() {
    let (mut bed, outside, count) = full("first.log").await;
    fs::rename(outside.path().join("a"), bed.path("moved")).unwrap();
    let found = bed.numbers().await;
    assert!(found.contains(&1_000_000), "{found:?}");
    assert!(found.len() < count, "files that have a mark are not read again");
    assert_eq!(bed.numbers().await, [0; 0]);
    // One that is made here has young files, so nothing is read again for it.
    fs::create_dir(bed.path("new")).unwrap();
    bed.append("new/a.log", &line(1_000_002));
    assert_eq!(bed.numbers().await, [1_000_002]);
}

#[tokio::test]
async fn a_suffix_that_is_added_later_finds_old_files_too() {
    let (mut bed, _outside, count) = full("first.csv").await;
    assert_eq!(bed.numbers().await, [0; 0]);
    bed.go_on(|config| config.suffixes.push(".csv".to_owned()));
    let found = bed.numbers().await;
    assert!(found.contains(&1_000_001) && found.len() < count, "{found:?}");
    bed.go_on(|config| config.suffixes.reverse());
    assert_eq!(bed.numbers().await, [0; 0], "they are the same suffixes");
}

#[tokio::test]
async fn another_folder_is_read_from_its_beginning() {
    let mut bed = Bed::new();
    bed.append("a.log", &line(1));
    fs::create_dir(bed.path("in")).unwrap();
    bed.append("in/b.log", &line(2));
    assert_eq!(bed.numbers().await.len(), 2);
    let url = bed.path("in").to_str().unwrap().to_owned();
    bed.go_on(|config| config.url.clone_from(&url));
    assert_eq!(bed.numbers().await, [2]);
    bed.go_on(|config| config.url = format!("file://{url}/"));
    assert_eq!(bed.numbers().await, [0; 0], "it is the same folder");
    // As a bucket's cursor is.
    bed.cursor = Some(serde_json::json!({ "of": "another", "floor": 7 }));
    assert_eq!(bed.numbers().await, [2]);
}

#[tokio::test]
async fn a_packed_file_is_passed_over_page_by_page_until_its_place_comes() {
    let mut bed = Bed::new();
    let long = "x".repeat(100);
    let text: String =
        (0..200_000).map(|number| format!("{{\"id\":{number},\"time\":1,\"x\":\"{long}\"}}\n")).collect();
    pack(&bed.path("a.log.gz"), text.as_bytes());
    let bound = async |bed: &Bed, limits: Limits| bed.folder.reader.lock().await.limits = limits;
    let most = Limits { lines: 190_000, bytes: usize::MAX, read: u64::MAX, time: Duration::from_secs(60) };
    bound(&bed, most).await;
    let page = bed.folder.page(None).await.unwrap();
    assert_eq!((page.records.len(), page.has_more), (190_000, true));
    bed.cursor = page.cursor;
    // Another process unpacks it from its beginning, and has no time to come to the place at once.
    bed.go_on(|_| ());
    let mut unpacked = 0;
    for _ in 0..2 {
        bound(&bed, Limits { read: 1, ..most }).await;
        let page = bed.folder.page(bed.cursor.as_ref()).await.unwrap();
        assert!(page.records.is_empty() && page.has_more);
        let now = page.cursor.as_ref().unwrap()["unpacked"].as_u64().unwrap();
        assert!(now > unpacked, "{now} after {unpacked}");
        unpacked = now;
        bed.cursor = page.cursor;
    }
    bound(&bed, Limits::default()).await;
    assert_eq!(bed.numbers().await, (190_000..200_000).collect::<Vec<_>>());
    assert_eq!(bed.cursor.as_ref().unwrap()["unpacked"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_line_that_is_ahead_of_the_clock_is_waited_for() {
    let mut bed = Bed::new();
    let ahead = |number: usize, seconds: i64| {
        let time = Timestamp::now().as_micros() / 1_000_000 + seconds;
        format!("{{\"id\":{number},\"time\":{time}}}\n")
    };
    bed.append("a.log", &[line(1), ahead(2, 33), line(3)].concat());
    pack(&bed.path("b.log.gz"), [line(4), ahead(5, 33)].concat().as_bytes());
    bed.append("c.log", &[ahead(6, 7_200), line(7)].concat());
    let mut found = bed.read().await;
    let bad = found.extract_if(.., |body| body.starts_with('!')).collect::<Vec<_>>();
    assert!(bad.len() == 1 && bad[0].contains("c.log at byte 0") && bad[0].contains("ahead"), "{bad:?}");
    let id = |body: &String| serde_json::from_str::<serde_json::Value>(body).unwrap()["id"].as_u64().unwrap();
    let read = Mutex::new((bed, found.iter().map(id).collect::<Vec<u64>>()));
    let all = async || {
        let (bed, ids) = &mut *read.lock().await;
        ids.extend(bed.read().await.iter().map(id));
        (ids.len() == 6).then(|| ids.clone())
    };
    let mut ids = poll::until("its time has come", Duration::from_secs(60), all).await.unwrap();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5, 7]);
}

#[tokio::test]
async fn a_packed_file_that_settles_after_many_younger_ones_were_read_is_not_passed_over() {
    let mut bed = Bed::new();
    bed.go_on(|config| config.settle_s = NEVER);
    pack(&bed.path("0.log.gz"), line(5_000).as_bytes());
    (0..1_200).for_each(|number| bed.append(&format!("{number:04}.log"), &line(number)));
    let mut found = bed.numbers().await;
    assert_eq!(found.len(), 1_000, "the others wait for the one that has not settled");
    bed.go_on(|config| config.settle_s = 0);
    for _ in 0..3 {
        found.extend(bed.numbers().await);
    }
    assert!((0..1_200).chain([5_000]).all(|number| found.contains(&number)), "{}", found.len());
    assert_eq!(found.len(), 1_202, "the one whose place it took is read again");
}

/// A packed file below a folder whose name can be made too long to open it, and 1,200 younger files. All
/// files that have a place are read, and the packed one has settled too late for one.
async fn late_and_hard_to_open() -> (Bed, [PathBuf; 2]) {
    let mut bed = Bed::new();
    bed.go_on(|config| config.settle_s = NEVER);
    // The look opens folders by paths of up to 4,095 bytes, and files by paths below the folder.
    // Files that changed within one tick of the clock are read by their names, so this one comes first by its name too.
    let [short, long] = ["!".to_owned(), "!".repeat(255)].map(|name| bed.path(&name));
    let deep = short.join(format!("{0}/", "b".repeat(241)).repeat(15)).join("c".repeat(95));
    fs::create_dir_all(&deep).unwrap();
    pack(&deep.join(format!("{}.log.gz", "d".repeat(200))), line(5_000).as_bytes());
    (0..1_200).for_each(|number| bed.append(&format!("{number:04}.log"), &line(number)));
    let read = bed.numbers().await;
    assert_eq!(read.len(), 1_000, "the others wait for the one that has not settled");
    fs::rename(&short, &long).unwrap();
    bed.go_on(|config| config.settle_s = 0);
    (bed, [short, long])
}

#[tokio::test]
async fn a_packed_file_without_a_place_that_cannot_be_read_for_a_moment_is_not_passed_over() {
    let (mut bed, [short, long]) = late_and_hard_to_open().await;
    for _ in 0..3 {
        assert_eq!(bed.numbers().await, [0; 0], "the others wait for it");
    }
    fs::rename(long, short).unwrap();
    let mut found = bed.numbers().await;
    for _ in 0..2 {
        found.extend(bed.numbers().await);
    }
    assert!((1_000..1_200).chain([5_000]).all(|number| found.contains(&number)), "{found:?}");
}

#[tokio::test]
async fn a_file_without_a_place_that_can_never_be_read_stops_the_others_for_a_time_only() {
    let (mut bed, _) = late_and_hard_to_open().await;
    assert_eq!(bed.numbers().await, [0; 0], "the others wait for it");
    bed.folder.reader.lock().await.failing.time = Duration::ZERO;
    assert_eq!(bed.numbers().await, (1_000..1_200).collect::<Vec<_>>());
}
