//! No statement takes more memory or depth than it may, and none ends the server.

use crate::support::{self, ClickHouse, resident_bytes};

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
    // Twice the bound, because the allocator gives memory back late and the library's own pages count too. Without a
    // bound, it would be many times as much.
    assert!(grown < 2 * MEMORY_BYTES, "it kept {grown} bytes");
    assert_eq!(clickhouse.server.pid(), pid, "the server lives");
}

/// The engine's own bound counts the values of an answer. The text is many times longer, because it repeats the names
/// of the columns.
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
            // The engine's bound on the statement's memory refuses, or ours on the text.
            let refused = matches!(code.as_deref(), Some("241" | "396"));
            assert_eq!((refused, code.is_some()), (bounded, bounded), "{rows} rows in {format}: {code:?}");
        }
    }
}
