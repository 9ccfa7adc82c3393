//! The server allows what reads and writes its tables, and refuses everything else: other functions, other users, web
//! pages, other accounts. `attacks` has the attempts to get around this, `bounds` the limits.

use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::support::{self, ClickHouse};

#[tokio::test]
async fn what_reads_and_writes_tables_is_allowed() {
    let clickhouse = ClickHouse::start().await;
    for sql in [
        "CREATE TABLE test.t (a UInt32, b LowCardinality(String) CODEC(ZSTD(3)), c Array(Nullable(Decimal(10, 2))), \
         INDEX i b TYPE bloom_filter(0.01) GRANULARITY 4) \
         ENGINE = MergeTree PARTITION BY intDiv(a, 100) ORDER BY (a, b) TTL toDateTime(a) + INTERVAL 100 YEAR \
         SETTINGS index_granularity = 1024",
        "CREATE TABLE test.sums (b String, n AggregateFunction(sum, UInt32)) ENGINE = AggregatingMergeTree ORDER BY b",
        "CREATE MATERIALIZED VIEW test.mv TO test.sums AS SELECT b, sumState(a) AS n FROM test.t GROUP BY b",
        "CREATE VIEW test.v AS SELECT b, sumMerge(n) AS n FROM test.sums GROUP BY b",
        "CREATE TABLE test.m ENGINE = Memory AS SELECT * FROM values('x UInt8, y String', (1, 'a'), (2, 'b'))",
        "INSERT INTO test.t (a, b) VALUES (1, 'one'), (2, concat('t', 'wo')), (toUInt32('3'), upper('three'))",
        "INSERT INTO test.t SELECT number, 'more', [number] FROM numbers(10) SETTINGS max_threads = 2",
        "SELECT a AS file, count() OVER (PARTITION BY b) FROM test.t ORDER BY ALL SETTINGS max_execution_time = 60",
        "WITH x AS (SELECT 1 AS y) SELECT quantilesTDigest(0.5, 0.9)(a), uniqExactIf(b, a > 1), argMaxOrNull(b, a) FROM test.t",
        "SELECT CASE WHEN a = 1 THEN 'x' ELSE CAST(a AS String) END, a::String, INTERVAL 1 DAY + now(), a IN (1, 2) FROM test.t",
        "SELECT arrayMap(x -> x + 1, [1, 2]), tupleElement((1, 'a'), 1), map('a', 1)['a'], * EXCEPT b FROM test.t",
        "SELECT * FROM format(JSONEachRow, '{\"a\": 1}')",
        "SELECT * FROM generateRandom('a UInt8') LIMIT 1",
        "SELECT * FROM merge('test', '^t$') AS l LEFT JOIN test.m AS r ON l.a = r.x",
        "SELECT name FROM system.tables WHERE database = 'test' FORMAT JSONCompact",
        "SHOW CREATE TABLE test.t",
        "DESCRIBE TABLE test.t",
        "EXISTS TABLE test.t",
        "EXPLAIN PLAN SELECT * FROM test.t",
        "CHECK TABLE test.t",
        "ALTER TABLE test.t ADD COLUMN d DateTime64(3) DEFAULT now64(3), MODIFY SETTING parts_to_throw_insert = 3000",
        "ALTER TABLE test.t UPDATE c = [] WHERE a = 1 SETTINGS mutations_sync = 1",
        "DELETE FROM test.t WHERE a = 2",
        "ALTER TABLE test.t ADD PROJECTION p (SELECT b, count() GROUP BY b)",
        "OPTIMIZE TABLE test.t FINAL",
        "SYSTEM STOP MERGES test.t",
        "SYSTEM START MERGES test.t",
        "RENAME TABLE test.m TO test.n",
        "TRUNCATE TABLE test.n",
        "DROP TABLE test.n",
        "KILL QUERY WHERE query_id = 'none' SYNC",
        "DROP DATABASE test",
    ] {
        clickhouse.run(sql).await;
    }
}

/// A later engine may bring new functions and settings. Somebody must check them before a client can use them.
#[tokio::test]
async fn every_function_and_setting_of_the_engine_was_judged() {
    let clickhouse = ClickHouse::start().await;
    let functions =
        clickhouse.run("SELECT count(), sum(sipHash64(name)) FROM system.functions WHERE origin = 'System'").await;
    let tables = clickhouse.run("SELECT count(), sum(sipHash64(name)) FROM system.table_functions").await;
    let settings = clickhouse.run("SELECT count(), sum(sipHash64(name)) FROM system.settings").await;
    let found = [functions, tables, settings].join(" / ");
    assert_eq!(
        found, JUDGED,
        "the engine has other functions or settings than those that policy/*.txt and policy/functions.rs were made from: \
         check what is new, then write the new numbers here"
    );
}

const JUDGED: &str = "1825\t17194356615032110663 / 90\t17454164342889979900 / 1721\t9506179607116353697";

#[tokio::test]
async fn only_reading_is_possible_by_get_and_for_the_reader() {
    let options = ["--password", "w", "--reader-password", "r"];
    let dir = tempfile::tempdir().unwrap();
    let server = headrace_local::clickhouse::start(support::config(&dir, &options).await).await.unwrap();
    let client = reqwest::Client::new();
    let post = async |user: &str, password: &str, sql: &str| {
        let request = client.post(server.url()).basic_auth(user, Some(password)).body(sql.to_owned());
        let answer = request.send().await.unwrap();
        let code = answer.headers().get("x-clickhouse-exception-code").map(|code| code.to_str().unwrap().to_owned());
        (code, answer.text().await.unwrap())
    };
    for sql in [
        "CREATE DATABASE test ENGINE = Atomic",
        "CREATE TABLE test.t (a UInt32) ENGINE = MergeTree ORDER BY a",
        "INSERT INTO test.t VALUES (1)",
    ] {
        assert_eq!(post("default", "w", sql).await.0, None, "{sql}");
    }
    // No name leads to a file in the directory in which the server was started.
    assert!(std::path::Path::new("Cargo.toml").exists());
    assert_eq!(post("reader", "r", "EXISTS default.`Cargo.toml`").await.1, "0\n");
    assert_eq!(post("reader", "r", "EXISTS default.`src/lib.rs`").await.1, "0\n");
    let long = format!("SELECT {}1", "1,".repeat(600_000));
    assert_eq!(post("reader", "r", &long).await.0.as_deref(), Some("62"));
    for sql in [
        "SELECT sum(a) FROM test.t SETTINGS max_threads = 1",
        "SHOW TABLES FROM test",
        "DESCRIBE test.t",
        "EXPLAIN SELECT 1",
        "EXISTS test.t",
    ] {
        assert_eq!(post("reader", "r", sql).await.0, None, "{sql}");
    }
    let writes = [
        "INSERT INTO test.t VALUES (2)",
        "INSERT INTO test.t SELECT 2",
        "INSERT INTO FUNCTION null('a UInt8') SELECT 1",
        "CREATE TABLE test.x (a UInt8) ENGINE = Memory",
        "CREATE TEMPORARY TABLE x (a UInt8)",
        "ALTER TABLE test.t DELETE WHERE 1",
        "TRUNCATE TABLE test.t",
        "DROP TABLE test.t",
        "OPTIMIZE TABLE test.t",
        "KILL QUERY WHERE 1",
        "SYSTEM STOP MERGES",
        "SET max_threads = 1",
        "USE test",
    ];
    for sql in writes {
        assert_eq!(post("reader", "r", sql).await.0.as_deref(), Some("164"), "{sql}");
        for readonly in ["", "0"] {
            let parameters = [("query", sql), ("readonly", readonly)];
            let parameters = if readonly.is_empty() { &parameters[..1] } else { &parameters[..] };
            let url = reqwest::Url::parse_with_params(&server.url(), parameters).unwrap();
            let answer = client.get(url).basic_auth("default", Some("w")).send().await.unwrap();
            assert_eq!(answer.headers()["x-clickhouse-exception-code"], "164", "{sql}");
        }
    }
    for (user, password) in [("reader", "w"), ("default", "r"), ("reader", ""), ("other", "w")] {
        assert_eq!(post(user, password, "SELECT 1").await.0.as_deref(), Some("516"), "{user}");
    }
    assert_eq!(post("default", "w", "SELECT count() FROM test.t").await.1, "1\n");
}

#[tokio::test]
async fn pages_and_other_names_are_refused() {
    let clickhouse = ClickHouse::start_with(&["--host", "clickhouse.internal"]).await;
    let address = clickhouse.server.address();
    let local = format!("localhost:{}", address.port());
    for (headers, status) in [
        (&[("host", local.as_str())][..], 200),
        (&[("host", "clickhouse.internal")], 200),
        (&[("sec-fetch-site", "none")], 200),
        (&[("host", "rebound.example")], 403),
        (&[("host", "127.0.0.1.rebound.example")], 403),
        (&[("origin", "http://evil.example")], 403),
        (&[("origin", "null")], 403),
        (&[("origin", "http://localhost:3000"), ("content-type", "text/plain")], 403),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("sec-fetch-site", "same-site")], 403),
    ] {
        let headers: reqwest::header::HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse::<reqwest::header::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        for request in [
            clickhouse.http.post(clickhouse.url()).body("SELECT 1"),
            clickhouse.http.get(clickhouse.url() + "/?query=SELECT+1"),
        ] {
            let answer = request.headers(headers.clone()).send().await.unwrap();
            let (found, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(found, status, "{headers:?}: {text}");
        }
        let ping = clickhouse.http.get(clickhouse.url() + "/ping").headers(headers).send().await.unwrap();
        assert!(ping.status().is_success(), "whether it lives may be asked by anyone");
    }
}

#[tokio::test]
async fn a_server_that_others_can_reach_needs_a_password() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = support::config(&dir, &[]).await;
    config.listen = "0.0.0.0:0".parse().unwrap();
    let error = headrace_local::clickhouse::start(config).await.unwrap_err().to_string();
    assert!(error.contains("expected a password") && error.contains("--password-file"), "{error}");
}

/// Another account of this machine can read no file and gets no answer.
#[tokio::test]
async fn another_account_finds_neither_data_nor_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let config = support::config(&dir, &["--password", "w", "--reader-password", "r"]).await;
    let server = headrace_local::clickhouse::start(config).await.unwrap();
    let client = reqwest::Client::new();
    let statement = |sql: &str| client.post(server.url()).basic_auth("default", Some("w")).body(sql.to_owned()).send();
    for sql in ["CREATE DATABASE test ENGINE = Atomic", "CREATE TABLE test.t (a UInt32) ENGINE = MergeTree ORDER BY a"]
    {
        assert!(statement(sql).await.unwrap().status().is_success());
    }
    assert!(statement("INSERT INTO test.t SELECT number FROM numbers(10)").await.unwrap().status().is_success());
    assert_eq!(open_to_others(&dir.path().join("clickhouse")), Vec::<String>::new());
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--write-out", "%{http_code}", "--data", "SELECT * FROM test.t", &server.url()]);
    if rustix::process::geteuid().is_root() {
        curl.uid(65_534);
    }
    let output = tokio::task::spawn_blocking(move || curl.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Code: 516.") && said.ends_with("403"), "{said}");
}

/// The paths inside `directory` that other accounts may read, write or enter.
fn open_to_others(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut open = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        // The parent process made the log and decides its mode.
        let log = path.extension().is_some_and(|extension| extension == "log");
        if !metadata.is_symlink() && !log && metadata.permissions().mode() & 0o077 != 0 {
            open.push(format!("{} {:o}", path.display(), metadata.permissions().mode()));
        }
        if metadata.is_dir() {
            open.extend(open_to_others(&path));
        }
    }
    open
}
