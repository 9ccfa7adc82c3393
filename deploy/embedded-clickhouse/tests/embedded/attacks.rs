//! A client reaches nothing but the server's own tables, whatever its statement says. Each attack runs on a real server
//! over HTTP, twice: once as people run it, once without the kernel's confinement, because the statement policy must
//! hold alone on a kernel that does not help.

use crate::support::ClickHouse;

/// No answer may hold this text.
const SECRET: &str = "not-for-others";
/// Leaves out the kernel's confinement.
const POLICY_ALONE: [&str; 2] = ["--confine", "no"];

/// Every way out of the database that we know. `$S` is the path of the secret, `$D` its directory.
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
    // The function `file`, which the engine's access control does not check.
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
    // Expressions in structures and in data.
    "SELECT * FROM format(JSONEachRow, 'a Int8, b String DEFAULT file(\\'$S\\')', '{\"a\":1}')",
    "SELECT * FROM format(JSONEachRow, concat('b String ', 'DEFAULT file(\\'$S\\')'), '{}')",
    "SELECT b FROM generateRandom('a Int8, b String ALIAS file(\\'$S\\')') LIMIT 1",
    "SELECT * FROM format(Values, 'a String', $$(file('$S'))$$)",
    "SELECT * FROM format('Values', 'a String', $$(arrayMap(x -> file(x), ['$S'])[1])$$)",
    "SELECT * FROM format('VALUES', 'a String', $$(arrayMap(x -> file(x), ['/proc/self/environ'])[1])$$)",
    "INSERT INTO test.t VALUES (1, arrayMap(x -> file(x), ['$S'])[1])",
    "INSERT INTO test.t SELECT 1, a FROM format(Values, 'a String', $$(file('$S'))$$)",
    // The database that shows the file system, and tables and formats that reach outside.
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
    // Backups and commands to the server itself.
    "BACKUP DATABASE test TO File('$D/backup')",
    "RESTORE DATABASE test FROM File('$D/backup')",
    "SYSTEM SHUTDOWN",
    "SYSTEM KILL",
    "SYSTEM RELOAD CONFIG",
    "SYSTEM FLUSH LOGS",
    "EXECUTE AS default SELECT 1",
    // An alias as a table function's argument: the engine replaces it by its value. Then further attempts of all kinds.
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
/// Texts that are not one statement to the engine. Its error is a syntax error.
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
            // A syntax error does not count, because the attack itself may be misspelled.
            let refused = code.is_some_and(|code| REFUSED.contains(&code)) || NO_STATEMENT.contains(attack);
            assert!(!status.is_success() && refused, "{sql}: {status} {text}");
            assert!(!text.contains(SECRET), "{sql}: {text}");
        }
    }
    // What comes beside the statement: settings, and bound parameters that are names.
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
