//! `headrace replay` as people use it: the real binary beside a running `up`, on real servers.

mod configured;
mod in_place;
mod interrupted;
mod rebuilt;
mod refused;

use std::path::PathBuf;
use std::process::Output;

use headrace_runtime::broker::Stream;
use headrace_runtime::message::payload::Outgoing;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, Running, command, complained, said};
use headrace_tests::product::stored::Stored;
use reqwest::Client;
use serde_json::{Map, Value};
use tempfile::TempDir;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace");
/// Small batches, so that a few dozen deliveries are many, and short times, because a replay waits for what a killed one
/// left.
const CLICKHOUSE: &str = "nats.clock_skew_ms = 100\nreplay.lease_s = 2\n\
                          [sinks.clickhouse]\nlinger_ms = 50\ninsert_timeout_s = 1\nclock_skew_ms = 100\n\
                          batch_events_max = 10\n";
/// An asset list that applies to every repository of acme.
const ASSETS: &str = "[[pipeline.enrich.assets]]\nname = \"acme\"\nrepository = \"acme/*\"\nowner = \"payments\"\n";
/// The columns that do not depend on the time of the insert.
const COLUMNS: &str = "* EXCEPT (inserted_at, stored_at)";

/// A running `up`, and what it stores.
struct Testbed {
    dir: TempDir,
    up: Running,
    hook: Hook,
    stored: Stored,
    /// The settings that every replay has too.
    settings: String,
}

/// What a command did.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    said: String,
    complained: String,
}

impl Done {
    fn of(output: Output) -> Self {
        Self { code: output.status.code(), said: said(&output), complained: complained(&output) }
    }

    /// Expects exit code 0 and this on stdout.
    #[track_caller]
    fn says(&self, text: &str) {
        assert_eq!((self.code, self.said.trim_end()), (Some(0), text), "{}", self.complained);
    }

    /// Expects this exit code, and this on stderr.
    #[track_caller]
    fn complains(&self, code: i32, text: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.complained.contains(text), "{self:?}");
    }
}

impl Testbed {
    async fn start() -> Self {
        Self::with_settings(CLICKHOUSE).await
    }

    async fn with_settings(settings: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("live.toml");
        std::fs::write(&config, settings).unwrap();
        let launch = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config);
        Self { settings: settings.to_owned(), ..Self::of(dir, launch).await }
    }

    /// Starts `launch`, whose data is in `dir`.
    async fn of(dir: TempDir, launch: Launch) -> Self {
        let up = launch.start().await;
        let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
        Self { dir, up, hook, stored, settings: CLICKHOUSE.to_owned() }
    }

    /// Replays with `arguments`, words without spaces, and a configuration with these lines added.
    async fn replay(&self, lines: &str, arguments: &str) -> Done {
        self.replay_until("", lines, arguments).await
    }

    /// The same, with a process that dies at a named point as by `kill -9`.
    async fn replay_until(&self, point: &str, lines: &str, arguments: &str) -> Done {
        let config = self.configure(lines);
        let data = self.dir.path().join("data");
        let crash = format!("HEADRACE_CRASH_AT={point}");
        let place = ["--config", config.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
        let arguments = arguments.split(' ').chain(place);
        Done::of(command("/usr/bin/env", [crash.as_str(), PROGRAM, "replay"].into_iter().chain(arguments)).await)
    }

    fn configure(&self, lines: &str) -> PathBuf {
        let config = self.dir.path().join("replay.toml");
        std::fs::write(&config, format!("{}{lines}", self.settings)).unwrap();
        config
    }

    /// Publicizes `count` repositories of `owner`, and waits until all deliveries are stored.
    async fn publicize(&self, owner: &str, count: usize) {
        let guids: Vec<String> = (0..count).map(|_| guid()).collect();
        let bodies = (0..count).map(|number| publicized(owner, number).into_bytes());
        let deliveries = guids.iter().zip(bodies).map(|(guid, body)| ("repository", guid.as_str(), body));
        self.hook.store_all(deliveries).await;
        self.stored.settled().await;
    }

    /// Publishes messages into RAW, as a gateway or a person may.
    async fn publish(&self, messages: Vec<Outgoing>) {
        for Outgoing { subject, payload, headers, .. } in messages {
            let sent = self.stored.jetstream().publish_with_headers(subject, headers, payload).await.unwrap();
            sent.await.unwrap();
        }
    }

    /// All rows of a table, in order.
    async fn dump(&self, columns: &str, table: &str) -> Vec<Map<String, Value>> {
        // A body may be no text, and an object would lose the order of a map.
        let as_text = "REPLACE (hex(body) AS body, toString(headers) AS headers)";
        let columns = if table == "raw" { format!("{columns} {as_text}") } else { columns.to_owned() };
        self.stored.objects(&format!("SELECT {columns} FROM {table} ORDER BY id, inserted_at")).await
    }

    async fn dumps(&self) -> [Vec<Map<String, Value>>; 2] {
        [self.dump(COLUMNS, "events").await, self.dump(COLUMNS, "raw").await]
    }

    /// The last sequence of each stream. A replay must not change any.
    async fn published(&self) -> Vec<u64> {
        let mut sequences = Vec::new();
        for stream in Stream::ALL {
            sequences.push(self.stored.stream(stream).await.cached_info().state.last_sequence);
        }
        sequences
    }

    /// The only value of a query.
    async fn value(&self, sql: &str) -> u64 {
        let rows: Vec<(u64,)> = self.stored.rows(sql).await;
        assert_eq!(rows.len(), 1, "{sql}");
        rows[0].0
    }

    /// How many rows a table has, and how many ids among them.
    async fn counts(&self, table: &str) -> (u64, u64) {
        let rows: Vec<(u64, u64)> = self.stored.rows(&format!("SELECT count(), uniqExact(id) FROM {table}")).await;
        rows[0]
    }

    /// Runs a statement as a person would.
    async fn execute(&self, sql: &str) {
        let url = self.up.ready().clickhouse.clone().unwrap();
        let url = reqwest::Url::parse_with_params(&url, [("database", "headrace")]).unwrap();
        let answer = Client::new().post(url).body(sql.to_owned()).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{sql}: {}", answer.text().await.unwrap());
    }
}

fn publicized(owner: &str, number: usize) -> String {
    format!(
        r#"{{"action":"publicized","repository":{{"id":{number},"name":"app-{number}","full_name":"{owner}/app-{number}","private":false,"owner":{{"login":"{owner}"}}}},"organization":{{"id":5,"login":"{owner}"}},"sender":{{"id":7,"login":"mona","type":"User"}}}}"#
    )
}
