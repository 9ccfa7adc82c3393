//! `headrace sources` and `headrace check`.

use std::fs;

use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::CEILING;
use headrace_tests::product::process::{Launch, command, complained, said};
use headrace_tests::product::stored::Stored;
use serde_json::Value;

use super::{Folder, NAME, PROGRAM};

#[tokio::test]
async fn a_person_sees_how_far_a_source_was_read_and_has_it_read_again() {
    let folder = Folder::new();
    let config = folder.dir().join("headrace.toml");
    fs::write(&config, folder.settings()).unwrap();
    folder.append("a.log", 0..20);
    let up = Launch::up(PROGRAM, folder.dir()).argument("--config").argument(&config).start().await;
    let data = folder.dir().join("data");
    let run = async |words: &[&str]| {
        let place = ["--config".as_ref(), config.as_os_str(), "--data-dir".as_ref(), data.as_os_str()];
        let output = command(PROGRAM, words.iter().map(|word| word.as_ref()).chain(place)).await;
        (output.status.code(), said(&output), complained(&output))
    };
    let row = async || {
        let (code, text, complaint) = run(&["sources", "list", "--json"]).await;
        assert_eq!(code, Some(0), "{complaint}");
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        rows.into_iter().find(|row| row["name"] == "folder").unwrap()
    };
    let read = async || Some(row().await).filter(|row| row["state"] == "healthy" && row["read_at"].is_string());
    let row = poll::until("it was read", CEILING, read).await.unwrap();
    assert_eq!((&row["source"], &row["form"]), (&"ndjson".into(), &"asked".into()));
    assert_eq!(row["cursor"]["at"]["path"], "a.log");
    let (_, table, _) = run(&["sources", "list"]).await;
    let line = table.lines().find(|line| line.starts_with("ndjson  folder")).unwrap();
    assert!(line.contains("asked") && line.contains("healthy") && line.contains("a.log"), "{table}");

    let stored = Stored::of(up.ready()).await;
    let before = stored.count(Stream::Raw).await;
    assert_eq!(before, 20);
    let (code, _, complaint) = run(&["sources", "rewind", NAME]).await;
    assert!(code == Some(2) && complaint.contains("--yes"), "{complaint}");
    let (code, text, _) = run(&["sources", "rewind", NAME, "--dry-run"]).await;
    assert!(code == Some(0) && text.contains("a.log"), "{text}");
    let (code, _, complaint) = run(&["sources", "rewind", "ndjson.other", "--yes"]).await;
    assert!(code == Some(3) && complaint.contains("ndjson.other"), "{complaint}");
    // Nothing of what was stored is stored again, and what is new comes after it.
    let (code, text, complaint) = run(&["sources", "rewind", NAME, "--yes"]).await;
    assert!(code == Some(0) && text.contains("from its beginning"), "{text}{complaint}");
    folder.append("a.log", 20..21);
    stored.until_count("SELECT uniqExact(id) FROM events", 21).await;
    stored.settled().await;
    assert_eq!(stored.count(Stream::Raw).await, before + 1);
    let rows: Vec<(u64,)> = stored.rows("SELECT count() FROM events").await;
    assert_eq!(rows, [(21,)]);
    up.stop().await;
}

#[tokio::test]
async fn check_looks_into_the_folder() {
    let folder = Folder::new();
    let config = folder.dir().join("headrace.toml");
    fs::write(&config, folder.settings()).unwrap();
    let check = async || {
        let arguments = ["check".as_ref(), "--up".as_ref(), "--config".as_ref(), config.as_os_str()];
        let output = command(PROGRAM, arguments).await;
        (output.status.code(), said(&output))
    };
    let (code, text) = check().await;
    assert!(code == Some(0) && text.contains(&format!("ok      source {NAME}\n")), "{text}");
    fs::remove_dir(folder.path("")).unwrap();
    let (code, text) = check().await;
    assert!(code == Some(1) && text.contains(&format!("failed  source {NAME}: expected a folder")), "{text}");
    fs::write(&config, "ingest.ndjson.folder.url = 'https://bucket/prefix'\n").unwrap();
    let output = command(PROGRAM, ["check".as_ref(), "--up".as_ref(), "--config".as_ref(), config.as_os_str()]).await;
    assert_eq!(output.status.code(), Some(2), "{}", complained(&output));
    assert!(complained(&output).contains("s3://bucket/folder"), "{}", complained(&output));
}
