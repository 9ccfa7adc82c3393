//! Sinks of names of their own, and what a sink that was taken out leaves behind.

use std::path::Path;

use async_nats::jetstream::consumer::{Consumer, FromConsumer as _, pull};
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, Running, command, complained, said};
use headrace_tests::product::stored::Stored;
use serde_json::Value;
use tempfile::TempDir;

use super::PROGRAM;

/// An address at which nobody listens.
const REFUSED: &str = "http://127.0.0.1:1";

/// Writes the configuration, with the sinks `more`, and starts `up` with it.
fn up(dir: &TempDir, more: &str) -> Launch {
    let config = dir.path().join("headrace.toml");
    std::fs::write(
        &config,
        format!(
            "[sinks.clickhouse]\nlinger_ms = 50\n[sinks.file]\ndir = '{}'\n{more}",
            dir.path().join("out").display()
        ),
    )
    .unwrap();
    Launch::up(PROGRAM, dir.path()).argument("--config").argument(config)
}

/// Makes the consumer of the sink `splunk_dr` as if its process had ended long ago, and not within the last minute.
async fn let_time_pass(running: &Running) {
    let stream = Stored::of(running.ready()).await.stream(Stream::Events).await;
    let consumer: Consumer<pull::Config> = stream.get_consumer("splunk_dr").await.unwrap();
    let mut config = consumer.cached_info().config.clone();
    config.metadata.insert("headrace.read_at".to_owned(), "7".to_owned()).expect("it told that it was read");
    stream.update_consumer(pull::Config::try_from_consumer_config(config).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_sink_that_was_taken_out_is_told_listed_and_removed() {
    let dir = TempDir::new().unwrap();
    // Its receiver is away, so it only makes its consumer.
    let away = format!("[sinks.splunk_dr]\nkind = 'splunk'\nurl = '{REFUSED}'\ntoken = 't'\n");
    up(&dir, &away).start().await.stop().await;
    let earlier = up(&dir, "").start().await;
    let_time_pass(&earlier).await;
    earlier.stop().await;
    let running = up(&dir, "").start().await;
    let hook = Hook::of(running.ready());
    let body = br#"{"action":"created","organization":{"login":"acme"}}"#.to_vec();
    hook.store("team", &guid(), body).await;
    Stored::of(running.ready()).await.until_count("SELECT count() FROM events", 1).await;

    let shown = r#"headrace_consumer_unread{component="splunk_dr"}"#;
    let metrics = running.ready().metrics.clone();
    let is_shown = async || sample(&get(&format!("{metrics}/metrics")).await.1, shown);
    poll::until("the metric shows the consumer", CEILING, is_shown).await.unwrap();
    let log = running.log();
    assert_eq!(log.matches("headrace sinks remove splunk_dr").count(), 1, "{log}");

    let config = dir.path().join("headrace.toml");
    let data_dir = dir.path().join("data");
    let place = ["--config", config.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
    let sinks = async |arguments: &[&str]| command(PROGRAM, ["sinks"].iter().chain(arguments).chain(&place)).await;
    let listed = async || -> Vec<[String; 3]> {
        let output = sinks(&["list", "--json"]).await;
        assert!(output.status.success(), "{}", complained(&output));
        let rows = said(&output).lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
        rows.iter().map(|row| ["component", "kind", "state"].map(|key| row[key].as_str().unwrap().to_owned())).collect()
    };
    let row = |component: &str, kind: &str, state: &str| [component, kind, state].map(str::to_owned);
    let own = [
        row("clickhouse", "clickhouse", "configured"),
        row("clickhouse-raw", "clickhouse", "configured"),
        row("file-events", "file", "configured"),
        row("file-alerts", "file", "configured"),
    ];
    let left_behind = [row("splunk_dr", "splunk", "left_behind")];
    assert_eq!(listed().await, [own.as_slice(), left_behind.as_slice()].concat());
    let table = said(&sinks(&["list"]).await);
    assert!(table.contains("SINK") && table.contains("left behind"), "{table}");

    for (arguments, code, told) in [
        (&["pause", "splunk_dr"][..], 0, ""),
        (&["remove", "splunk_dr"][..], 2, "expected --yes"),
        (&["remove", "file", "--yes"][..], 1, "found `file` in the configuration"),
        (&["remove", "jira", "--yes"][..], 3, "no sink `jira` has left a consumer behind"),
        (&["remove", "splunk_dr", "--yes"][..], 0, ""),
        (&["remove", "splunk_dr", "--yes"][..], 3, "no sink `splunk_dr`"),
    ] {
        let output = sinks(arguments).await;
        let text = complained(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    assert_eq!(listed().await, own);
    // A sink of that name is a new one: it is not paused.
    up(&dir, &away);
    let again = [own.as_slice(), [row("splunk_dr", "splunk", "not_started")].as_slice()].concat();
    assert_eq!(listed().await, again);
    running.stop().await;
}

#[tokio::test]
async fn removing_what_a_name_left_behind_lets_no_paused_sink_of_that_name_go_on() {
    let dir = TempDir::new().unwrap();
    let away = format!("[sinks.splunk_dr]\nkind = 'splunk'\nurl = '{REFUSED}'\ntoken = 't'\n");
    up(&dir, &away).start().await.stop().await;
    let running = up(&dir, "").start().await;
    let_time_pass(&running).await;
    // The name is that of a sink of another kind now. Its components have other names.
    let other = dir.path().join("other.toml");
    let archive = dir.path().join("archive");
    let text = format!("[sinks.clickhouse]\n[sinks.splunk_dr]\nkind = 'file'\ndir = '{}'\n", archive.display());
    std::fs::write(&other, text).unwrap();
    let data_dir = dir.path().join("data");
    let place = ["--config", other.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
    let sinks = async |arguments: &[&str]| {
        let output = command(PROGRAM, ["sinks"].iter().chain(arguments).chain(&place)).await;
        assert!(output.status.success(), "{arguments:?}: {}", complained(&output));
        said(&output)
    };
    sinks(&["pause", "splunk_dr"]).await;
    assert_eq!(sinks(&["remove", "splunk_dr", "--yes"]).await.trim(), "removed splunk_dr");
    let listed = sinks(&["list", "--json"]).await;
    let rows = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let own: Vec<Value> = rows.filter(|row| row["sink"] == "splunk_dr").collect();
    assert!(own.len() == 2 && own.iter().all(|row| row["state"] == "paused"), "{listed}");
    running.stop().await;
}

#[tokio::test]
async fn the_pause_of_a_sink_that_never_began_is_ended_by_its_name() {
    let dir = TempDir::new().unwrap();
    let running = up(&dir, "").start().await;
    // Another configuration has a sink that no process runs yet.
    let write = |name: &str, more: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("[sinks.clickhouse]\n{more}")).unwrap();
        path
    };
    let with = write("with.toml", &format!("[sinks.dr]\nkind = 'splunk'\nurl = '{REFUSED}'\ntoken = 't'\n"));
    let without = write("without.toml", "");
    let data_dir = dir.path().join("data");
    let sinks = async |config: &Path, arguments: &[&str]| {
        let place = ["--config", config.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
        let output = command(PROGRAM, ["sinks"].iter().chain(arguments).chain(&place)).await;
        (output.status.code(), said(&output) + &complained(&output))
    };
    for ends in [&["resume", "dr"][..], &["remove", "dr", "--yes"][..]] {
        let (code, text) = sinks(&with, &["pause", "dr"]).await;
        assert_eq!(code, Some(0), "{text}");
        let (_, listed) = sinks(&without, &["list", "--json"]).await;
        assert!(!listed.contains(r#""dr""#), "{listed}");
        let (code, text) = sinks(&without, &["pause", "dr"]).await;
        assert!(code == Some(3) && text.contains("no sink `dr`"), "{text}");
        let (code, text) = sinks(&without, ends).await;
        assert!(code == Some(0) && text.contains("dr is not paused any more"), "{ends:?}: {text}");
        let (code, text) = sinks(&without, ends).await;
        assert!(code == Some(3) && text.contains("no sink `dr`"), "{ends:?}: {text}");
        let (_, listed) = sinks(&with, &["list", "--json"]).await;
        let mut rows = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let row = rows.find(|row| row["sink"] == "dr").unwrap();
        assert_eq!(row["state"], "not_started", "{ends:?}");
    }
    // No sink has such a name, and no key of the bucket.
    let (code, text) = sinks(&without, &["resume", "d r.*"]).await;
    assert!(code == Some(3) && text.contains("no sink `d r.*`"), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn a_sink_that_waits_for_its_receiver_is_not_left_behind_to_another_configuration() {
    let dir = TempDir::new().unwrap();
    let away = format!("[sinks.splunk_dr]\nkind = 'splunk'\nurl = '{REFUSED}'\ntoken = 't'\n");
    let running = up(&dir, &away).start().await;
    let other = dir.path().join("other.toml");
    std::fs::write(&other, "[sinks.clickhouse]\nlinger_ms = 50\n").unwrap();
    let data_dir = dir.path().join("data");
    let place = ["--config", other.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
    let sinks = async |arguments: &[&str]| command(PROGRAM, ["sinks"].iter().chain(arguments).chain(&place)).await;
    let is_read = async || {
        let listed = said(&sinks(&["list", "--json"]).await);
        let mut rows = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let row = rows.find(|row| row["component"] == "splunk_dr")?;
        assert_eq!(row["active_at"], Value::Null, "it has delivered nothing");
        // From the first moment: it could be removed.
        assert_eq!(row["state"], "read_elsewhere");
        Some(())
    };
    let waited = poll::until("the consumer is there", CEILING, is_read).await;
    waited.unwrap_or_else(|error| panic!("{error}: {}", running.log()));
    let refused = sinks(&["remove", "splunk_dr", "--yes"]).await;
    let text = complained(&refused);
    assert!(refused.status.code() == Some(1) && text.contains("a process was reading splunk_dr"), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn the_sources_of_a_running_up_are_listed_with_the_secrets_that_it_made() {
    let dir = TempDir::new().unwrap();
    let running = up(&dir, "").start().await;
    let (config, data_dir) = (dir.path().join("headrace.toml"), dir.path().join("data"));
    let place = ["--config", config.to_str().unwrap(), "--data-dir", data_dir.to_str().unwrap()];
    let output = command(PROGRAM, ["sources", "list", "--json"].iter().chain(&place)).await;
    assert!(output.status.success(), "{}", complained(&output));
    let rows = said(&output).lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
    let of = |source: &str| {
        let row = rows.iter().find(|row| row["source"] == source).unwrap_or_else(|| panic!("{source}: {rows:?}"));
        (row["form"].clone(), row["paths"][0].clone(), row["state"].clone())
    };
    assert_eq!(of("github"), ("sent".into(), "/webhooks/github".into(), Value::Null));
    assert_eq!(of("ndjson"), ("sent".into(), "/collect/ndjson".into(), Value::Null));
    let table = said(&command(PROGRAM, ["sources", "list"].iter().chain(&place)).await);
    assert!(table.lines().any(|line| line.starts_with("ndjson") && line.contains("sent")), "{table}");
    running.stop().await;
}

#[tokio::test]
async fn two_sinks_of_a_kind_each_get_what_they_select() {
    let dir = TempDir::new().unwrap();
    let urgent = dir.path().join("urgent");
    let more =
        format!("[sinks.urgent]\nkind = 'file'\ndir = '{}'\nmin_severity = 'high'\nstart = 'now'\n", urgent.display());
    let running = up(&dir, &more).start().await;
    let hook = Hook::of(running.ready());
    let (quiet, loud) = (guid(), guid());
    hook.store("team", &quiet, br#"{"action":"created","organization":{"login":"acme"}}"#.to_vec()).await;
    let publicized = r#"{"action":"publicized","repository":{"full_name":"acme/app","private":false,"owner":{"login":"acme"}},"sender":{"login":"mona","type":"User"}}"#;
    hook.store("repository", &loud, publicized.as_bytes().to_vec()).await;
    let written = |dir: &std::path::Path| std::fs::read_to_string(dir.join("events.jsonl")).unwrap_or_default();
    let (all, out) = (|text: &str| text.contains(&quiet) && text.contains(&loud), dir.path().join("out"));
    let is_there = async || (all(&written(&out)) && written(&urgent).contains(&loud)).then_some(());
    let waited = poll::until("both have what is theirs", CEILING, is_there).await;
    waited.unwrap_or_else(|error| panic!("{error}: {}", running.log()));
    Stored::of(running.ready()).await.settled().await;
    assert!(!written(&urgent).contains(&quiet), "{}", written(&urgent));
    running.stop().await;
}
