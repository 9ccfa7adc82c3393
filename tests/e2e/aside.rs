//! A sink that is down delays nobody and misses nothing: it is set aside, and catches up from ClickHouse.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use headrace_local::poll;
use headrace_runtime::aside::record::{Cause, Range, Record};
use headrace_runtime::broker::Stream;
use headrace_schemas::time::Timestamp;
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, answer, guid};
use headrace_tests::product::process::{Launch, Running, command, complained, gone, said};
use headrace_tests::product::stored::Stored;
use headrace_tests::standin::splunk::{Splunk, TOKEN};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::PROGRAM;

const SET_ASIDE: &str = "headrace_sink_set_aside{component=\"splunk\"}";
const URGENT_SET_ASIDE: &str = "headrace_sink_set_aside{component=\"urgent-events\"}";
const PAUSED: &str = "headrace_sink_paused{sink=\"splunk\"}";
/// More events than any of these streams has room for.
const EVENTS_MAX: usize = 5_000;

/// An installation with small streams, and a Splunk.
struct Bed {
    splunk: Splunk,
    dir: TempDir,
}

impl Bed {
    async fn new() -> Self {
        let (splunk, dir) = (Splunk::start().await, TempDir::new().unwrap());
        let text = format!(
            "[streams]\nraw.max_bytes = 8388608\nevents.max_bytes = 1048576\nalerts.max_bytes = 33554432\n\
             dead.max_bytes = 33554432\n[pipeline]\nack_wait_s = 2\n[retry]\nbackoff_max_ms = 1000\n[nats]\nclock_skew_ms = 100\n\
             [sinks.clickhouse]\nlinger_ms = 50\ninsert_timeout_s = 1\nclock_skew_ms = 200\n\
             [sinks.splunk]\nurl = '{}'\ntoken = '{TOKEN}'\nlinger_ms = 50\ntimeout_ms = 500\n\
             [sinks.urgent]\nkind = 'file'\ndir = '{}'\nmin_severity = 'high'\ntimeout_ms = 1000\n\
             [sinks.jira]\nurl = 'http://127.0.0.1:1'\nemail = 'a@b.example'\napi_token = 't'\nproject = 'SEC'\n",
            splunk.url(),
            dir.path().join("urgent").display()
        );
        let bed = Self { splunk, dir };
        std::fs::write(bed.config(), text).unwrap();
        bed
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("headrace.toml")
    }

    fn up(&self) -> Launch {
        Launch::up(PROGRAM, self.dir.path()).argument("--config").argument(self.config())
    }

    /// Runs `headrace sinks` with these arguments.
    async fn sinks(&self, arguments: &[&str]) -> (Option<i32>, String) {
        self.run(&[&["sinks"], arguments].concat()).await
    }

    /// Runs `headrace` with these arguments.
    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let (config, data) = (self.config(), self.dir.path().join("data"));
        let place = ["--config", config.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
        let output = command(PROGRAM, arguments.iter().chain(&place)).await;
        (output.status.code(), said(&output) + &complained(&output))
    }

    /// What `headrace sinks list` says of Splunk.
    async fn listed(&self) -> Value {
        let (code, text) = self.sinks(&["list", "--json"]).await;
        assert_eq!(code, Some(0), "{text}");
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.into_iter().find(|row| row["component"] == "splunk").unwrap()
    }

    /// What the sink of urgent events has written.
    fn urgent(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("urgent/events.jsonl")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until Splunk has all of `ids`. Returns how often it has each.
    async fn until_splunk_has(&self, ids: &BTreeSet<String>, running: &Running) -> BTreeMap<String, usize> {
        let has_all = async || {
            let found: BTreeSet<String> = self.splunk.ids().into_iter().collect();
            ids.is_subset(&found).then_some(())
        };
        if let Err(error) = poll::until("Splunk has every event", CEILING, has_all).await {
            panic!("{error}: {} of {} events; {}", self.splunk.ids().len(), ids.len(), running.log());
        }
        let mut counts = BTreeMap::new();
        self.splunk.ids().into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
        counts
    }
}

/// An event of about 2 KB, so that few events fill the stream.
fn body() -> String {
    let name = "x".repeat(1_000);
    format!(r#"{{"action":"created","organization":{{"login":"acme"}},"repository":{{"full_name":"acme/{name}"}}}}"#)
}

/// Sends this many events, a few at once. All must be stored.
async fn store(hook: &Hook, count: usize) -> BTreeSet<String> {
    let (mut senders, mut ids) = (JoinSet::new(), BTreeSet::new());
    for _ in 0..count {
        let (hook, guid) = (hook.clone(), guid());
        ids.insert(format!("github:{guid}"));
        senders.spawn(async move { hook.store("team", &guid, body()).await });
        if senders.len() == 16 {
            senders.join_next().await.unwrap().unwrap();
        }
    }
    senders.join_all().await;
    ids
}

async fn metric(running: &Running, series: &str) -> f64 {
    let (_, metrics) = get(&format!("{}/metrics", running.ready().metrics)).await;
    sample(&metrics, series).unwrap_or_default()
}

async fn until(what: &str, running: &Running, condition: impl AsyncFn() -> bool) {
    let waited = poll::until(what, CEILING, async || condition().await.then_some(())).await;
    waited.unwrap_or_else(|error| panic!("{error}: {}", running.log()));
}

/// Waits until a process has died, and the servers that it had started.
async fn died(up: &Running) {
    up.ended().await;
    for pid in up.ready().pids.values() {
        gone(*pid).await;
    }
}

#[tokio::test]
async fn a_sink_that_is_down_delays_nobody_and_catches_up() {
    let bed = Bed::new().await;
    bed.splunk.index().disabled = true;
    let up = bed.up().start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let mut ids = BTreeSet::new();
    // Much more than EVENTS holds: every one is answered with 202, and gets its row.
    while metric(&up, SET_ASIDE).await == 0.0 || ids.len() < 800 {
        assert!(ids.len() < EVENTS_MAX, "nobody was set aside: {}", up.log());
        ids.append(&mut store(&hook, 100).await);
    }
    stored.until_count("SELECT count() FROM events", ids.len() as u64).await;
    stored.until_count("SELECT uniqExact(id) FROM events", ids.len() as u64).await;
    assert!(bed.splunk.ids().is_empty());
    let row = bed.listed().await;
    assert!(["set_aside", "catching_up"].contains(&row["state"].as_str().unwrap()), "{row}");
    assert_eq!(row["missed"]["ranges"][0]["cause"], "full", "{row}");

    bed.splunk.index().disabled = false;
    let counts = bed.until_splunk_has(&ids, &up).await;
    assert_eq!(counts.len(), ids.len(), "it has nothing else");
    until("it has caught up", &up, async || metric(&up, SET_ASIDE).await == 0.0).await;
    stored.settled().await;
    assert_eq!(stored.count(Stream::CatchUp).await, 0);
    assert_eq!(stored.count(Stream::Dead).await, 0, "dead letters");
    let counts = bed.until_splunk_has(&ids, &up).await;
    assert!(counts.values().all(|count| *count <= 3), "each comes once more, and not again and again");
    let row = bed.listed().await;
    assert!(row["state"] == "configured" && row["missed"].is_null(), "{row}");
    let log = up.log();
    for told in ["this sink is set aside", "this sink has caught up"] {
        assert_eq!(log.matches(told).count(), 1, "{told}: {log}");
    }
    up.stop().await;
}

#[tokio::test]
async fn a_process_that_is_killed_on_the_way_loses_nothing() {
    let bed = Bed::new().await;
    bed.splunk.index().disabled = true;
    let mut ids = BTreeSet::new();

    // It dies when it has noted what Splunk will miss, and has purged nothing.
    let up = bed.up().set("HEADRACE_CRASH_AT", "before_purge:1").start().await;
    let hook = Hook::of(up.ready());
    while ids.len() < EVENTS_MAX {
        let guid = guid();
        match answer(hook.request("team", &guid, body())).await {
            Ok(answer) if answer.is_stored() => _ = ids.insert(format!("github:{guid}")),
            // An event without an answer may be stored all the same.
            Ok(_) => {}
            Err(_) => break,
        }
    }
    died(&up).await;
    assert!(ids.len() < EVENTS_MAX, "nothing was purged: {}", up.log());
    drop(up);

    // It dies when the first events are in CATCHUP, and that is not noted.
    bed.splunk.index().disabled = false;
    let up = bed.up().set("HEADRACE_CRASH_AT", "before_caught_up:1").start().await;
    died(&up).await;
    drop(up);

    let up = bed.up().start().await;
    let stored = Stored::of(up.ready()).await;
    bed.until_splunk_has(&ids, &up).await;
    until("it has caught up", &up, async || metric(&up, SET_ASIDE).await == 0.0).await;
    stored.settled().await;
    let rows: Vec<(String,)> = stored.rows("SELECT id FROM events").await;
    assert!(ids.iter().all(|id| rows.iter().any(|(row,)| row == id)), "{} rows", rows.len());
    up.stop().await;
}

#[tokio::test]
async fn a_sink_is_paused_goes_on_and_is_rewound_by_hand() {
    let bed = Bed::new().await;
    let up = bed.up().start().await;
    let hook = Hook::of(up.ready());
    let stored = Stored::of(up.ready()).await;
    let mut ids = store(&hook, 3).await;
    bed.until_splunk_has(&ids, &up).await;

    for (arguments, code, told) in [
        (&["pause", "nobody"][..], 3, "no sink `nobody`"),
        (&["pause", "splunk"][..], 0, "splunk takes no more messages"),
        (&["pause", "splunk"][..], 0, "splunk was paused already"),
        (&["rewind", "splunk", "--since", "1h"][..], 2, "expected --yes"),
        (&["rewind", "splunk", "--since", "1h", "--until", "2h", "--yes"][..], 2, "expected --since before --until"),
        (&["rewind", "clickhouse", "--since", "1h", "--yes"][..], 1, "the others catch up from it"),
        (&["rewind", "jira", "--since", "1h", "--yes"][..], 1, "alerts are kept in no table"),
        (&["rewind", "nobody", "--since", "1h", "--yes"][..], 3, "no sink `nobody`"),
    ] {
        let (found, text) = bed.sinks(arguments).await;
        assert_eq!(found, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    until("it is paused", &up, async || metric(&up, PAUSED).await == 1.0).await;
    let rests = async || {
        let info = stored.stream(Stream::Events).await.consumer_info("splunk").await.unwrap();
        let (_, ready) = get(&format!("{}/readyz", up.ready().metrics)).await;
        let ready: Value = serde_json::from_str(&ready).unwrap();
        info.num_waiting == 0 && ready["components"]["splunk"]["state"] == "paused"
    };
    until("its workers rest", &up, rests).await;
    ids.append(&mut store(&hook, 2).await);
    stored.until_count("SELECT count() FROM events", 5).await;
    let row = bed.listed().await;
    assert_eq!((row["state"].as_str(), row["waiting"].as_u64()), (Some("paused"), Some(2)), "{row}");
    assert_eq!(bed.splunk.ids().len(), 3);

    let (code, text) = bed.sinks(&["resume", "splunk"]).await;
    assert!(code == Some(0) && text.contains("splunk goes on"), "{text}");
    let counts = bed.until_splunk_has(&ids, &up).await;
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");

    // Each time that it is asked for, every event comes once more.
    for round in 2..=3 {
        let (code, text) = bed.sinks(&["rewind", "splunk", "--since", "1h", "--yes", "--json"]).await;
        assert_eq!(code, Some(0), "{text}");
        until("all came once more", &up, async || bed.splunk.ids().len() == 5 * round).await;
        until("it has caught up", &up, async || bed.listed().await["missed"].is_null()).await;
    }
    let counts = bed.until_splunk_has(&ids, &up).await;
    assert!(counts.values().all(|count| *count == 3), "{counts:?}");

    // A sink that selects is brought only what it selects.
    let loud = guid();
    let publicized = r#"{"action":"publicized","repository":{"full_name":"acme/app","private":false,"owner":{"login":"acme"}},"sender":{"login":"mona","type":"User"}}"#;
    hook.store("repository", &loud, publicized).await;
    until("it is written", &up, async || bed.urgent().len() == 1).await;
    stored.until_count("SELECT count() FROM events", 6).await;
    let (code, text) = bed.sinks(&["rewind", "urgent", "--since", "1h", "--yes"]).await;
    assert_eq!(code, Some(0), "{text}");
    until("it is written once more", &up, async || bed.urgent().len() == 2).await;
    until("it has all", &up, async || metric(&up, URGENT_SET_ASIDE).await == 0.0).await;
    until("nothing waits", &up, async || stored.count(Stream::CatchUp).await == 0).await;
    assert!(bed.urgent().iter().all(|line| line.contains(&loud)), "{:?}", bed.urgent());
    up.stop().await;
}

#[tokio::test]
async fn all_rows_are_brought_by_hand_and_one_that_makes_no_event_stops_none() {
    let bed = Bed::new().await;
    let up = bed.up().start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let ids = store(&hook, 3).await;
    bed.until_splunk_has(&ids, &up).await;
    let well = async |arguments: &[&str]| {
        let (code, text) = bed.run(arguments).await;
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
    };
    // What a replay adds was made of RAW, so nobody knows when EVENTS stored it.
    stored.until_count("SELECT count() FROM events", 3).await;
    well(&["query", "--write", "TRUNCATE TABLE headrace.events"]).await;
    well(&["replay", "--since", "1h"]).await;
    stored.until_count("SELECT countIf(toUnixTimestamp64Micro(stored_at) = 0) FROM events", 3).await;
    // Since long before there was anything.
    well(&["sinks", "rewind", "splunk", "--since", "1970-01-02", "--yes"]).await;
    until("all came once more", &up, async || bed.splunk.ids().len() >= 6).await;
    until("it has caught up", &up, async || bed.listed().await["missed"].is_null()).await;

    // Another release wrote this one, or a person.
    let strange = ids.first().unwrap();
    let update = "ALTER TABLE headrace.events UPDATE category = 'weather' WHERE id";
    well(&["query", "--write", &format!("{update} = '{strange}' SETTINGS mutations_sync = 2")]).await;
    well(&["sinks", "rewind", "splunk", "--since", "1h", "--yes"]).await;
    until("the others came once more", &up, async || bed.splunk.ids().len() >= 8).await;
    until("it has caught up", &up, async || bed.listed().await["missed"].is_null()).await;
    let counts = bed.until_splunk_has(&ids, &up).await;
    assert!(counts.iter().all(|(id, count)| *count >= if id == strange { 2 } else { 3 }), "{counts:?}");
    assert_eq!(metric(&up, "headrace_dead_letters_total{component=\"splunk\",reason=\"malformed\"}").await, 1.0);
    let (_, dead) = bed.run(&["dead", "list", "--json"]).await;
    assert!(dead.contains(strange) && dead.contains("found `weather`; mend the row"), "{dead}");
    let (code, text) = bed.run(&["dead", "redrive", "--all"]).await;
    assert!(code == Some(3) && text.contains("is kept: it names a row of ClickHouse"), "{text}");
    let log = up.log();
    assert_eq!(log.matches("rows of ClickHouse make no events").count(), 1, "{log}");
    up.stop().await;
}

/// Writes down that Splunk has missed these seconds since 1970.
async fn misses(stored: &Stored, seconds: [i64; 2]) {
    let [since, until] = seconds.map(Timestamp::from_seconds);
    let range = Range { since, until, from: since, sequences: None, made_at: until, cause: Cause::Full };
    let record = Record { ranges: vec![range], ..Record::default() };
    let asides = stored.jetstream().get_key_value("asides").await.unwrap();
    asides.put("missed.splunk", serde_json::to_vec(&record).unwrap().into()).await.unwrap();
}

#[tokio::test]
async fn what_was_asked_for_or_missed_is_given_up() {
    let bed = Bed::new().await;
    let up = bed.up().start().await;
    let ids = store(&Hook::of(up.ready()), 3).await;
    bed.until_splunk_has(&ids, &up).await;
    // A sink that is paused is brought nothing.
    let (code, text) = bed.sinks(&["pause", "splunk"]).await;
    assert_eq!(code, Some(0), "{text}");
    until("it is paused", &up, async || metric(&up, PAUSED).await == 1.0).await;
    for (arguments, code, told) in [
        (&["rewind", "splunk", "--cancel", "--yes"][..], 3, "not to be brought anything"),
        (&["rewind", "splunk", "--yes"][..], 2, "--since"),
        (&["rewind", "splunk", "--since", "1h", "--yes"][..], 0, "splunk is brought the events"),
        (&["rewind", "splunk", "--since", "1h", "--cancel", "--yes"][..], 2, "cannot be used with"),
        (&["rewind", "splunk", "--cancel"][..], 2, "expected --yes"),
        (&["skip", "splunk", "--until", "1h"][..], 2, "expected --yes"),
        (&["skip", "splunk", "--until", "1h", "--yes"][..], 3, "has missed nothing before that time"),
    ] {
        let (found, text) = bed.sinks(arguments).await;
        assert_eq!(found, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
    assert_eq!(bed.listed().await["missed"]["ranges"][0]["cause"], "rewound");
    let (code, text) = bed.sinks(&["rewind", "splunk", "--cancel", "--yes"]).await;
    assert!(code == Some(0) && text.contains("no more of what `rewind` asked for"), "{text}");
    assert!(bed.listed().await["missed"].is_null());
    misses(&Stored::of(up.ready()).await, [100, 200]).await;
    let (code, text) = bed.sinks(&["skip", "splunk", "--until", "1970-01-01T00:02:30Z", "--yes", "--json"]).await;
    let told: Value = serde_json::from_str(text.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!((code, told["skipped"][0]["until"].as_str()), (Some(0), Some("1970-01-01T00:02:30.000000Z")), "{text}");
    assert_eq!(bed.listed().await["missed"]["ranges"][0]["brought_until"], "1970-01-01T00:02:30.000000Z");
    let (code, text) = bed.sinks(&["skip", "splunk", "--until", "1h", "--yes"]).await;
    assert!(code == Some(0) && text.contains("is not brought what it had missed before that time"), "{text}");
    assert!(bed.listed().await["missed"].is_null());
    let (code, text) = bed.sinks(&["resume", "splunk"]).await;
    assert_eq!(code, Some(0), "{text}");
    until("it has nothing to be brought", &up, async || {
        metric(&up, SET_ASIDE).await == 0.0 && metric(&up, PAUSED).await == 0.0
    })
    .await;
    let counts = bed.until_splunk_has(&ids, &up).await;
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    up.stop().await;
}
