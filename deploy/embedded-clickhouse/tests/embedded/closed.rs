//! The embedded ClickHouse shows and writes nothing but its own tables, whatever a statement says, and outlives what is
//! meant to end it. Each attack is tried on a real server over HTTP: as it runs, with the kernel's help, and with the
//! statement policy alone, which must hold by itself on a kernel that does not help.

use crate::support;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use crate::support::{ClickHouse, resident_bytes};

/// What no answer may hold.
const SECRET: &str = "not-for-others";
/// Without the kernel's help.
const POLICY_ALONE: [&str; 2] = ["--confine", "no"];

/// Every way out of the database that was found; `$S` is the path of the secret, `$D` its directory.
const ATTACKS: &[&str] = &[
    // Table functions and the functions behind them.
    "SELECT * FROM file('$S', 'LineAsString')",
    "SELECT * FROM/**/`file`/**/('$S', LineAsString)",
    "SELECT * FROM \"file\"('$S', 'LineAsString')",
    "DESCRIBE file('$S', 'CSV')",
    "DESCRIBE TABLE file('$S')",
    "SELECT * FROM fileCluster('default', '$S', 'LineAsString')",
    "SELECT * FROM filesystem('$D')",
    "SELECT * FROM url('http://127.0.0.1:9/', 'CSV', 'a String')",
    "SELECT * FROM s3('http://127.0.0.1:9/bucket/x', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1:9', 'system.one')",
    "SELECT * FROM cluster('default', 'system.one')",
    "SELECT * FROM mysql('127.0.0.1:9', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('127.0.0.1:9', 'd', 't', 'u', 'p')",
    "SELECT * FROM sqlite('$S', 't')",
    "SELECT * FROM executable('x', 'CSV', 'a String')",
    "SELECT * FROM icebergLocal('$D')",
    "SELECT * FROM deltaLakeLocal('$D')",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT * FROM fuzzQuery('SELECT 1')",
    "SELECT * FROM dictionary('d')",
    "SELECT * FROM loop('system', 'one') LIMIT 1",
    // The function `file`, which the engine's access control does not ask about.
    "SELECT file('$S')",
    "SELECT /* x */ `file` ( '$S' )",
    "SELECT arrayMap(x -> file(x), ['$S'])",
    "SELECT arrayMap(file, ['$S'])",
    "SELECT arrayMap(`file`, ['$S'])",
    "SELECT * APPLY(file) FROM (SELECT '$S')",
    "SELECT * APPLY file FROM (SELECT '$S')",
    "SELECT catboostEvaluate('$S', 1)",
    "SHOW TABLES FROM test WHERE file('$S') = ''",
    "EXPLAIN SELECT file('$S')",
    "KILL QUERY WHERE file('$S') = ''",
    "ALTER TABLE test.t UPDATE b = file('$S') WHERE 1",
    "ALTER TABLE test.t ADD COLUMN c String DEFAULT file('$S')",
    "ALTER TABLE test.t MODIFY TTL toDateTime(file('$S')) + INTERVAL 1 DAY",
    "CREATE TABLE test.x (a String DEFAULT file('$S')) ENGINE = Memory",
    "INSERT INTO test.t VALUES (1, file('$S'))",
    "INSERT INTO test.t VALUES (1, (SELECT file('$S')))",
    "INSERT INTO test.t SELECT 1, file('$S')",
    // Structures and data that hold expressions.
    "SELECT * FROM format(JSONEachRow, 'a Int8, b String DEFAULT file(\\'$S\\')', '{\"a\":1}')",
    "SELECT * FROM format(JSONEachRow, concat('b String ', 'DEFAULT file(\\'$S\\')'), '{}')",
    "SELECT b FROM generateRandom('a Int8, b String ALIAS file(\\'$S\\')') LIMIT 1",
    "SELECT * FROM format(Values, 'a String', $$(file('$S'))$$)",
    "SELECT * FROM format('Values', 'a String', $$(arrayMap(x -> file(x), ['$S'])[1])$$)",
    "SELECT * FROM format('VALUES', 'a String', $$(arrayMap(x -> file(x), ['/proc/self/environ'])[1])$$)",
    "INSERT INTO test.t VALUES (1, arrayMap(x -> file(x), ['$S'])[1])",
    "INSERT INTO test.t SELECT 1, a FROM format(Values, 'a String', $$(file('$S'))$$)",
    // The database over the file system.
    "SELECT * FROM `$S`",
    "SELECT * FROM viewExplain('EXPLAIN TABLE OVERRIDE', '', (SELECT 1))",
    "SELECT groupFormat('Protobuf')(a) FROM test.t",
    r"SELECT arrayReduce('groupFormat(\'Protobuf\')', [1])",
    "CREATE TABLE test.b (model_path String) ENGINE = Buffer(system, models, 1, 1, 1, 1, 1, 1, 1)",
    "SELECT * FROM system.stack_trace LIMIT 1",
    "SELECT hasColumnInTable('default', '$S', 'x')",
    "SELECT * FROM mergeTreeIndex('default', '$S')",
    "SELECT 1 AS x FORMAT Protobuf",
    "SELECT 1 AS x FORMAT CapnProto",
    "SELECT formatRow('Protobuf', 1)",
    "SELECT * FROM default.`$S`",
    "EXISTS default.`$S`",
    "CREATE TABLE test.x AS default.`$S`",
    "CREATE TABLE test.x CLONE AS default.`$S`",
    // Tables, views, databases and other objects.
    "CREATE TABLE test.x (a String) ENGINE = File(LineAsString, '$S')",
    "CREATE TABLE test.x (a String) ENGINE = URL('http://127.0.0.1:9/', CSV)",
    "CREATE TABLE test.x ENGINE = MergeTree ORDER BY tuple() AS SELECT * FROM file('$S', 'LineAsString')",
    "CREATE TABLE test.x AS file('$S', 'LineAsString')",
    "CREATE VIEW test.x AS SELECT * FROM file('$S', 'LineAsString')",
    "CREATE VIEW test.x AS SELECT file('$S')",
    "CREATE MATERIALIZED VIEW test.x ENGINE = File(CSV) AS SELECT * FROM test.t",
    "CREATE DATABASE x ENGINE = Filesystem('$D')",
    "CREATE DATABASE x ENGINE = Overlay('default')",
    "CREATE DATABASE x ENGINE = SQLite('$S')",
    "CREATE DATABASE x ENGINE = MySQL('127.0.0.1:9', 'd', 'u', 'p')",
    "CREATE DATABASE x ENGINE = Backup('x', File('$D'))",
    "CREATE DICTIONARY test.x (a String) PRIMARY KEY a SOURCE(FILE(path '$S' format 'LineAsString')) \
     LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(1)",
    "CREATE FUNCTION x AS (a) -> file(a)",
    "CREATE NAMED COLLECTION x AS path = '$S'",
    "CREATE USER x",
    "GRANT ALL ON *.* TO default",
    "ATTACH TABLE test.x FROM '$D' (a String) ENGINE = MergeTree ORDER BY a",
    "CREATE TABLE test.x (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = 'local', path = '$D/disk/')",
    "CREATE TABLE test.x (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = 's3', endpoint = 'http://127.0.0.1:9/b/')",
    "ALTER TABLE test.t MODIFY SETTING disk = 'x'",
    // Clauses and settings that name files.
    "SELECT 1 INTO OUTFILE '$D/written'",
    "SELECT 1 INTO/**/OUTFILE '$D/written' FORMAT CSV",
    "INSERT INTO test.t FROM INFILE '$S' FORMAT LineAsString",
    "INSERT INTO FUNCTION file('$D/written', 'CSV') SELECT 1",
    "INSERT INTO FUNCTION file('$D/written', 'CSV', 'a Int8') VALUES (1)",
    "INSERT INTO FUNCTION url('http://127.0.0.1:9/', 'CSV') SELECT 1",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '$S'",
    "SELECT 1 FORMAT Template SETTINGS format_template_resultset = '$S'",
    "SELECT * FROM (SELECT * FROM format(Template, 'a String', 'x') SETTINGS format_template_row = '$S')",
    "SELECT * FROM (SELECT * FROM format(Template, 'a String', 'x') SETTINGS `format_template_row` = '$S')",
    "SELECT 1 AS x FORMAT Protobuf SETTINGS format_schema = '$S:M'",
    "SELECT * FROM test.t SETTINGS additional_table_filters = {'test.t': 'file(\\'$S\\') = \\'\\''}",
    "SELECT 1 SETTINGS dialect = 'kusto'",
    "SELECT 1 SETTINGS max_memory_usage = DEFAULT",
    "SELECT 1 SETTINGS max_temporary_data_on_disk_size_for_query = 0",
    "SELECT 1 SETTINGS input_format_values_deduce_templates_of_expressions = 1",
    "SELECT * FROM system.models",
    // Backups, the server itself, several at once.
    "BACKUP DATABASE test TO File('$D/backup')",
    "RESTORE DATABASE test FROM File('$D/backup')",
    "SYSTEM SHUTDOWN",
    "SYSTEM KILL",
    "SYSTEM RELOAD CONFIG",
    "SYSTEM FLUSH LOGS",
    "EXECUTE AS default SELECT 1",
    // A table function's arguments through an alias, which the engine puts the value of in its place.
    r#"WITH 'a String, b String DEFAULT file(\'$S\')' AS s SELECT b FROM format(JSONEachRow, s, '{"a":"x"}')"#,
    r#"WITH concat('a String, b String DEFAULT file(\'', '$S', '\')') AS s SELECT b FROM format(JSONEachRow, s, '{"a":"x"}')"#,
    r"SELECT 'a String DEFAULT file(\'$S\')' AS s, a FROM generateRandom(s) LIMIT 1",
    r#"WITH 'a String, b String DEFAULT file(\'$S\')' AS `inf` SELECT b FROM format(JSONEachRow, `inf`, '{"a":"x"}')"#,
    r#"WITH 'a String, b String DEFAULT file(\'$S\')' AS `true` SELECT b FROM format(JSONEachRow, `true`, '{"a":"x"}')"#,
    r#"WITH 'a String, b String DEFAULT file(\'$S\')' AS `NULL` SELECT b FROM format(JSONEachRow, `NULL`, '{"a":"x"}')"#,
    r#"WITH 'a String, b String DEFAULT file(\'$S\')' AS `1` SELECT b FROM format(JSONEachRow, `1`, '{"a":"x"}')"#,
    r#"WITH 'a String, b String DEFAULT file(\'$S\')' AS `0x1` SELECT b FROM format(JSONEachRow, `0x1`, '{"a":"x"}')"#,
    r"WITH 'Values' AS f SELECT b FROM format(f, 'b String', '(file(\'$S\'))')",
    r"WITH 'Values' AS JSONEachRow SELECT b FROM format(JSONEachRow, 'b String', '(file(\'$S\'))')",
    "SELECT * FROM merge('system', '^models$')",
    "SELECT * FROM merge(REGEXP('system'), '^models$')",
    "SELECT * FROM default.`$S`",
    "DESCRIBE TABLE `$S`",
    "SELECT count() FROM numbers(3) SETTINGS log_comment = 'x'",
    "SELECT 1 SETTINGS min_free_disk_space_for_temporary_data = 0",
    "SELECT 1 PARALLEL WITH SELECT 2",
    "SET dialect = 'kusto'",
    "quit",
];

/// SUPPORT_IS_DISABLED, READONLY, SETTING_CONSTRAINT_VIOLATION, ACCESS_DENIED.
const REFUSED: [u32; 4] = [344, 164, 452, 497];
/// What the engine does not take for one statement.
const NO_STATEMENT: [&str; 2] = ["SELECT 1 PARALLEL WITH SELECT 2", "quit"];

fn exception_code(answer: &reqwest::Response) -> Option<u32> {
    answer.headers().get("x-clickhouse-exception-code")?.to_str().ok()?.parse().ok()
}

async fn attacked(options: &[&str]) {
    let clickhouse = ClickHouse::start_with(options).await;
    clickhouse.run("CREATE TABLE test.t (a UInt32, b String) ENGINE = MergeTree ORDER BY a").await;
    let secret = clickhouse.dir.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let pid = clickhouse.server.pid();
    for attack in ATTACKS {
        let directory = clickhouse.dir.path().to_str().unwrap();
        let sql = attack.replace("$S", secret.to_str().unwrap()).replace("$D", directory);
        let posted = clickhouse.post(&[], sql.clone()).await;
        let url = reqwest::Url::parse_with_params(&clickhouse.url(), &[("query", sql.as_str())]).unwrap();
        let got = clickhouse.http.get(url).send().await.unwrap();
        for answer in [posted, got] {
            let (status, code) = (answer.status(), exception_code(&answer));
            let text = answer.text().await.unwrap();
            // Refused, and not merely misspelled or of no effect.
            let refused = code.is_some_and(|code| REFUSED.contains(&code)) || NO_STATEMENT.contains(attack);
            assert!(!status.is_success() && refused, "{sql}: {status} {text}");
            assert!(!text.contains(SECRET), "{sql}: {text}");
        }
    }
    // Beside the statement: settings, bound parameters that are names, a form.
    for (parameters, sql) in [
        (&[("format_template_row", secret.to_str().unwrap())][..], "SELECT 1 FORMAT Template"),
        (&[("format_schema", "x:M")], "SELECT 1 AS x FORMAT Protobuf"),
        (&[("database", "system")], "SELECT count() FROM tables"),
        (
            &[("param_a", "JSONEachRow")],
            "SELECT 'Values' AS {a:Identifier}, b FROM format(JSONEachRow, 'b String', '(file(1))')",
        ),
        (&[("database", "system")], "SELECT * FROM models"),
        (&[("database", "system")], "SELECT 'x' IN models"),
        (&[("default_format", "Protobuf")], "SELECT 1 AS x"),
        (&[("param_t", "system.models")], "SELECT * FROM {t:Identifier}"),
        (&[("dialect", "kusto")], "SELECT 1"),
        (&[("input_format_values_interpret_expressions", "1")], "SELECT 1"),
        (
            &[("param_f", "file"), ("param_s", secret.to_str().unwrap())],
            "SELECT arrayMap({f:Identifier}, [{s:String}])",
        ),
        (&[("param_t", secret.to_str().unwrap())], "SELECT * FROM {t:Identifier}"),
        (&[("database", "default"), ("param_t", secret.to_str().unwrap())], "SELECT * FROM {t:Identifier}"),
    ] {
        let answer = clickhouse.post(parameters, sql).await;
        let refused = exception_code(&answer).is_some_and(|code| REFUSED.contains(&code));
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(refused && !text.contains(SECRET), "{parameters:?} {sql}: {status} {text}");
    }
    assert_eq!(clickhouse.server.pid(), pid, "the server lives");
    assert!(!clickhouse.dir.path().join("written").exists() && !clickhouse.dir.path().join("disk").exists());
    let stored = clickhouse.run(&format!("SELECT count() FROM test.t WHERE b LIKE '%{SECRET}%'")).await;
    assert_eq!(stored, "0");
}

#[tokio::test]
async fn no_statement_reaches_beyond_the_tables() {
    attacked(&[]).await;
}

#[tokio::test]
async fn no_statement_reaches_beyond_the_tables_without_the_kernels_help() {
    attacked(&POLICY_ALONE).await;
}

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

/// A function that a later engine brings is judged before anybody can call it.
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
         judge what is new, then write the new numbers here"
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
    // No name leads to a file of the directory in which the server was started.
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
async fn limits_cannot_be_loosened_and_depth_ends_no_process() {
    let clickhouse = ClickHouse::start().await;
    let pid = clickhouse.server.pid();
    let limits = [
        "max_parser_depth",
        "max_parser_backtracks",
        "max_ast_depth",
        "max_ast_elements",
        "max_query_size",
        "max_memory_usage",
    ];
    for name in limits {
        for value in ["0", "100000000000"] {
            for (parameters, sql) in [
                (&[(name, value)][..], "SELECT 1".to_owned()),
                (&[], format!("SELECT 1 SETTINGS {name} = {value}")),
                (&[], format!("SELECT * FROM (SELECT 1 SETTINGS {name} = {value})")),
                (&[], format!("SET {name} = {value}")),
            ] {
                let answer = clickhouse.post(parameters, sql.clone()).await;
                assert_eq!(answer.headers()["x-clickhouse-exception-code"], "452", "{parameters:?} {sql}");
            }
        }
    }
    for depth in [900, 1_100, 100_000] {
        for (open, middle, close) in [
            ("(", "1", ")"),
            ("[", "1", "]"),
            ("(1,", "1", ")"),
            ("[(", "1", ")]"),
            ("(SELECT ", "1", ")"),
            ("CASE WHEN 1 THEN ", "1", " END"),
            ("NOT ", "1", ""),
            ("- ", "1", ""),
            ("abs(", "1", ")"),
            ("x -> ", "1", ""),
            ("1 + ", "1", ""),
            ("[(", "", ""),
        ] {
            let sql = format!("SELECT {}{middle}{}", open.repeat(depth), close.repeat(depth));
            for parameters in [&[][..], &[("max_parser_depth", "0"), ("max_ast_depth", "0"), ("max_query_size", "0")]] {
                let answer = clickhouse.post(parameters, sql.clone()).await;
                let (status, text) = (answer.status(), answer.text().await.unwrap());
                let refused = text.starts_with("Code: ");
                assert!(refused || (depth < 1_000 && status.is_success()), "{open} × {depth}: {status} {text:.200}");
            }
        }
    }
    assert_eq!(clickhouse.server.pid(), pid, "the server lives");
    assert_eq!(clickhouse.run("SELECT 1").await, "1");
}

#[tokio::test]
async fn one_statement_cannot_take_all_memory() {
    const MEMORY_BYTES: u64 = 1 << 30;
    let clickhouse = ClickHouse::start_with(&["--memory-bytes-max", &MEMORY_BYTES.to_string()]).await;
    let pid = clickhouse.server.pid();
    let before = resident_bytes(pid.unwrap());
    for sql in [
        "SELECT length(groupArray(number)) FROM numbers(1000000000)",
        "SELECT uniqExact(number, toString(number)) FROM numbers(1000000000) SETTINGS max_bytes_before_external_group_by = 0",
    ] {
        let answer = clickhouse.post(&[("max_threads", "2")], sql).await;
        let code = answer.headers().get("x-clickhouse-exception-code").cloned();
        let text = answer.text().await.unwrap();
        assert!(code.is_some_and(|code| code == "241"), "{sql}: {text}");
    }
    let grown = resident_bytes(pid.unwrap()).saturating_sub(before);
    // The allocator gives back late, and the library's own pages count too; unbounded, it would be many times as much.
    assert!(grown < 2 * MEMORY_BYTES, "it kept {grown} bytes");
    assert_eq!(clickhouse.server.pid(), pid, "the server lives");
}

/// The engine counts the columns of an answer; its text, in which names stand again and again, is many times as much.
#[tokio::test]
async fn answers_of_the_reader_are_bounded_by_their_text() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["--password", "w", "--reader-password", "r", "--memory-bytes-max", "1073741824"];
    let server = headrace_local::clickhouse::start(support::config(&dir, &options).await).await.unwrap();
    let client = reqwest::Client::new();
    for (rows, bounded) in [(10, false), (20, true)] {
        for format in ["JSON", "JSONEachRow"] {
            let name = "a".repeat(1_000_000);
            let sql = format!("SELECT number AS {name} FROM numbers({rows}) FORMAT {format}");
            let answer = client.post(server.url()).basic_auth("reader", Some("r")).body(sql).send().await.unwrap();
            let code =
                answer.headers().get("x-clickhouse-exception-code").map(|code| code.to_str().unwrap().to_owned());
            // By the engine's own bound on the statement, or by ours on the text.
            let refused = matches!(code.as_deref(), Some("241" | "396"));
            assert_eq!((refused, code.is_some()), (bounded, bounded), "{rows} rows in {format}: {code:?}");
        }
    }
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

/// What another account of this machine finds: no file, and no answer.
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

/// The paths below which anyone else may read, write or look into.
fn open_to_others(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut open = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let Ok(metadata) = path.symlink_metadata() else { continue };
        // The log was made by the parent, whose business its mode is.
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
