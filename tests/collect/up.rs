//! `up` reads a folder, from lines to rows.

use std::fs;

use headrace_runtime::broker::Stream;
use headrace_tests::product::process::Launch;
use headrace_tests::product::stored::Stored;

use super::{Folder, PROGRAM, record};

#[tokio::test]
async fn what_is_in_a_folder_becomes_rows_each_once() {
    let folder = Folder::new();
    let config = folder.dir().join("headrace.toml");
    let text = format!("nats.clock_skew_ms = 100\nsinks.clickhouse.linger_ms = 50\n{}", folder.settings());
    fs::write(&config, text).unwrap();
    folder.append("a.log", 0..50);
    let launch = || Launch::up(PROGRAM, folder.dir()).argument("--config").argument(&config);
    let up = launch().start().await;
    let stored = Stored::of(up.ready()).await;
    stored.until_count("SELECT uniqExact(id) FROM events", 50).await;
    // Read on after a restart, also what was renamed meanwhile and what is new. A line that is no record ends in DEAD.
    up.stop().await;
    folder.append("a.log", 50..60);
    fs::rename(folder.path("a.log"), folder.path("a.log.1")).unwrap();
    folder.append("a.log", 60..70);
    fs::write(folder.path("b.ndjson"), format!("no record\n{}", record(70).trim_end())).unwrap();
    let up = launch().start().await;
    let stored = Stored::of(up.ready()).await;
    for table in ["events", "raw"] {
        stored
            .until_count(
                &format!("SELECT uniqExact(id) FROM {table} WHERE NOT startsWith(id, 'ndjson:unreadable:')"),
                71,
            )
            .await;
    }
    stored.settled().await;
    for table in ["events", "raw"] {
        let doubled: Vec<(u64,)> = stored.rows(&format!("SELECT count() - uniqExact(id) FROM {table}")).await;
        assert_eq!(doubled, [(0,)], "{table}");
    }
    let [dead] = &stored.messages(Stream::Dead).await[..] else { panic!("one line is no record") };
    assert!(dead.subject.starts_with("dead.normalize."), "{}", dead.subject);
    assert_eq!(&dead.payload[..], b"no record");
    up.stop().await;
}
