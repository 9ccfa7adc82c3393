//! A bucket of the strict stand-in whose objects come and change in every way that a source must bear. Each test reads it
//! as `collect` does: page by page, with the cursor that the last one gave. The records are not those of NDJSON: a line is
//! a record's id.

use bytes::Bytes;
use headrace_runtime::secret::Secret;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;
use headrace_tests::standin::s3::{ACCESS_KEY_ID, BUCKET, REGION, S3, SECRET_ACCESS_KEY, packed};

use super::*;
use crate::lines::{Limits, Unfit};
use crate::source::Record;
use crate::source::pull::CURSOR_BYTES_MAX;

/// Long before the look-back.
const OLD: i64 = 1_700_000_000;

struct Ids;

impl Records for Ids {
    fn record(&self, line: Bytes) -> Result<Record, Unfit> {
        match &line[..] {
            b"ahead" => Err(Unfit::Early(Duration::ZERO)),
            b"bad" => Err(Unfit::Never("expected another line".to_owned())),
            _ => Ok(self.unreadable(&String::from_utf8_lossy(&line), line.clone(), "")),
        }
    }

    fn unreadable(&self, own: &str, head: Bytes, reason: &str) -> Record {
        Record {
            id: EventId::of_source("test", own),
            event_time: None,
            kind: reason.to_owned(),
            tenant: "none".to_owned(),
            headers: Vec::new(),
            body: head,
        }
    }
}

struct Bed {
    s3: S3,
    settings: Settings,
    objects: Objects,
    cursor: Option<Cursor>,
    limits: Limits,
    pages: usize,
}

impl Bed {
    async fn new() -> Self {
        let s3 = S3::start().await;
        let config = Config {
            endpoint: Some(s3.url()),
            region: Some(REGION.to_owned()),
            access_key_id: Some(ACCESS_KEY_ID.to_owned()),
            secret_access_key: Secret::new(SECRET_ACCESS_KEY),
            ..Config::default()
        };
        let settings = Settings {
            bucket: Bucket::parse(&format!("s3://{BUCKET}/in")).unwrap().unwrap(),
            config,
            suffixes: vec![".log".to_owned()],
            interval: Duration::from_secs(1),
            line_bytes_max: 1_000,
        };
        let objects = objects(&settings);
        Self { s3, settings, objects, cursor: None, limits: Limits::default(), pages: 0 }
    }

    /// As another process would go on, with other settings.
    fn go_on(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.settings.config);
        self.objects = objects(&self.settings);
    }

    async fn page(&mut self) -> Result<(Vec<String>, bool), Fault> {
        self.objects.reader.lock().await.limits = self.limits;
        let page = self.objects.page(self.cursor.as_ref()).await?;
        self.pages += 1;
        let cursor = page.cursor.unwrap();
        assert!(cursor.to_string().len() <= CURSOR_BYTES_MAX, "{cursor}");
        assert!(!page.has_more || Some(&cursor) != self.cursor.as_ref(), "a page with more moves the cursor");
        self.cursor = Some(cursor);
        let body = |record: Record| match record.kind.as_str() {
            "" => String::from_utf8(record.body.to_vec()).unwrap(),
            reason => format!("!{reason}"),
        };
        Ok((page.records.into_iter().map(body).collect(), page.has_more))
    }

    /// Everything that there is to read, up to a failure.
    async fn read_until_fault(&mut self) -> (Vec<String>, Option<Fault>) {
        let mut bodies = Vec::new();
        loop {
            match self.page().await {
                Ok((more, has_more)) => {
                    bodies.extend(more);
                    if !has_more {
                        return (bodies, None);
                    }
                }
                Err(fault) => return (bodies, Some(fault)),
            }
        }
    }

    async fn read(&mut self) -> Vec<String> {
        let (bodies, fault) = self.read_until_fault().await;
        assert!(fault.is_none(), "{fault:?}");
        bodies
    }

    fn put(&self, key: &str, text: &str) {
        self.s3.bucket().put(key, text.as_bytes().to_vec());
    }

    /// What is set aside, as the cursor has it.
    fn aside(&self) -> &[serde_json::Value] {
        self.cursor.as_ref().unwrap()["aside"].as_array().unwrap()
    }

    /// As if all that is set aside had been tried again and again for a long time, and were due now.
    fn wait_long(&mut self) {
        for aside in self.cursor.as_mut().unwrap()["aside"].as_array_mut().unwrap() {
            aside["again_at"] = 0.into();
            (aside["trouble"]["counted"], aside["trouble"]["since"]) = (1_000.into(), 0.into());
        }
    }
}

fn objects(settings: &Settings) -> Objects {
    Objects::new("test", "bucket", settings.clone(), Arc::new(Ids)).unwrap()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn text(range: std::ops::Range<usize>) -> String {
    range.map(|number| format!("{number}\n")).collect()
}

#[tokio::test]
async fn objects_are_read_once_in_the_order_of_their_names_and_late_and_replaced_ones_too() {
    let mut bed = Bed::new().await;
    bed.put("in/b.log", "3\n4");
    bed.put("in/a/a b&<é>.log", "1\r\n\n2\n");
    bed.put("in/a/", "");
    bed.put("in/other.csv", "9\n");
    bed.put("elsewhere/a.log", "9\n");
    bed.put("inner.log", "9\n");
    bed.s3.bucket().put("in/c.log.gz", packed("5\n6"));
    bed.s3.bucket().put_at("in/d.log.1", "7\n", OLD);
    assert_eq!(bed.read().await, numbers(1..8));
    assert_eq!(bed.read().await, [""; 0]);
    bed.put("in/a/late.log", "8\n");
    bed.put("in/b.log", "3\n4\n9\n");
    bed.go_on(|_| ());
    assert_eq!(bed.read().await, ["8", "3", "4", "9"]);
    bed.go_on(|config| config.full_listing_s = 0);
    assert_eq!(bed.read().await, [""; 0]);
    // Another bucket, or another folder, has another position.
    bed.settings.bucket = Bucket::parse(&format!("s3://{BUCKET}/elsewhere")).unwrap().unwrap();
    bed.go_on(|_| ());
    assert_eq!(bed.read().await, ["9"]);
}

#[tokio::test]
async fn a_short_listing_finds_what_is_new_and_a_full_one_what_is_late() {
    let mut bed = Bed::new().await;
    for number in 0..2_300 {
        bed.s3.bucket().put_at(&format!("in/{number:05}.log"), format!("{number}\n"), OLD + number);
    }
    let mut found = bed.read().await;
    found.sort_by_key(|number| number.parse::<usize>().unwrap());
    assert_eq!(found, numbers(0..2_300));
    let listed = bed.s3.listed();
    bed.put("in/02300.log", "2300\n");
    bed.put("in/00007.a.log", "late\n");
    assert_eq!(bed.read().await, ["2300"]);
    assert_eq!(bed.s3.listed() - listed, 1, "the last thousand names, and what is behind them");
    bed.go_on(|config| config.full_listing_s = 0);
    assert_eq!(bed.read().await, ["late"]);
    assert_eq!(bed.read().await, [""; 0]);
}

#[tokio::test]
async fn a_large_object_is_read_in_ranges_and_read_on_by_another_process() {
    let mut bed = Bed::new().await;
    let whole = text(0..600_000);
    bed.put("in/a.log", &whole);
    bed.limits.lines = 200_000;
    bed.limits.bytes = usize::MAX;
    let mut found = Vec::new();
    loop {
        let (more, has_more) = bed.page().await.unwrap();
        found.extend(more);
        bed.go_on(|_| ());
        if !has_more {
            break;
        }
    }
    assert_eq!(found, numbers(0..600_000));
    let requests = bed.s3.recorded().into_iter().filter(|request| request.line.starts_with("GET /logs/in/"));
    let ranges: Vec<String> = requests.map(|request| request.header("range").unwrap().to_owned()).collect();
    assert!(ranges.len() >= 3, "{ranges:?}");
    let begin = |range: &String| range["bytes=".len()..].split('-').next().unwrap().parse::<usize>().unwrap();
    let third = text(0..200_000).len();
    assert!(ranges.iter().any(|range| begin(range) == third), "read on where a record begins: {ranges:?}");
}

#[tokio::test]
async fn a_packed_object_is_passed_over_page_by_page_until_its_place_comes() {
    let mut bed = Bed::new().await;
    let lines: String = (0..400_000).map(|number| format!("{number:050}\n")).collect();
    bed.s3.bucket().put("in/a.log.gz", packed(&lines));
    bed.limits = Limits { lines: 390_000, bytes: usize::MAX, ..Limits::default() };
    let (first, has_more) = bed.page().await.unwrap();
    assert_eq!((first.len(), has_more), (390_000, true));
    // Another process unpacks it from its beginning, and has no time to come to the place at once.
    bed.go_on(|_| ());
    bed.limits.read = 1;
    let (none, has_more) = bed.page().await.unwrap();
    assert_eq!((none.len(), has_more), (0, true));
    assert!(bed.cursor.as_ref().unwrap()["reading"]["unpacked"].as_u64().unwrap() > 0, "{:?}", bed.cursor);
    let again = bed.s3.read().len();
    let (none, _) = bed.page().await.unwrap();
    assert_eq!(none.len(), 0);
    bed.limits.read = u64::MAX;
    assert_eq!(bed.read().await.len(), 10_000);
    assert!(bed.s3.read().len() - again <= 2, "it stays open from page to page");
}

#[tokio::test]
async fn what_is_in_an_object_stops_nothing() {
    let mut bed = Bed::new().await;
    let whole = packed(&text(0..1_000));
    bed.s3.bucket().put("in/a.log.gz", whole[..whole.len() - 20].to_vec());
    bed.put("in/b.log.gz", "not packed");
    bed.put("in/c.log", &format!("bad\n{}\n1\n", "x".repeat(1_001)));
    let found = bed.read().await;
    let bad: Vec<&str> = found.iter().filter_map(|body| body.strip_prefix('!')).collect();
    let begins = [
        "in/a.log.gz at byte",
        "in/b.log.gz at byte 0: cannot unpack",
        "in/c.log at byte 0: expected another line",
        "in/c.log at byte 4: expected a line of at most 1000 bytes, found one of 1002",
    ];
    assert_eq!(bad.len(), begins.len(), "{bad:?}");
    assert!(bad.iter().zip(begins).all(|(bad, begin)| bad.starts_with(begin)), "{bad:?}");
    assert_eq!(found.last().map(String::as_str), Some("1"));
    assert_eq!(bed.read().await, [""; 0]);
}

#[tokio::test]
async fn a_line_that_is_ahead_of_the_clock_is_waited_for_and_the_other_objects_are_read() {
    let mut bed = Bed::new().await;
    bed.put("in/a.log", "1\nahead\n3\n");
    bed.put("in/b.log", "2\n");
    assert_eq!(bed.read().await, ["1", "2"]);
    assert_eq!(bed.cursor.as_ref().unwrap()["aside"][0]["reading"]["offset"], 2);
    let again_at = bed.cursor.as_ref().unwrap()["aside"][0]["again_at"].as_i64().unwrap();
    assert!(again_at > Timestamp::now().as_micros() / 1_000_000 - 60, "{again_at}");
}

mod listing;
mod trouble;
