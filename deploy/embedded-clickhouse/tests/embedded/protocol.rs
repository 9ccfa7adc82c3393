//! The front speaks ClickHouse's HTTP protocol, down to codes and headers.

use crate::support;
use std::io::Write as _;

use crate::support::{CEILING, ClickHouse, resident_bytes};
use headrace_local::clickhouse;
use headrace_local::poll::until;

const TABLE: &str = "CREATE TABLE test.t (a UInt32, b String) ENGINE = MergeTree ORDER BY a \
                     SETTINGS non_replicated_deduplication_window = 100";

#[tokio::test]
async fn statements_come_by_url_by_body_and_by_both() {
    let clickhouse = ClickHouse::start().await;
    clickhouse.run(TABLE).await;
    clickhouse.run("INSERT INTO test.t VALUES (1, 'one'), (2, concat('t', 'wo'))").await;
    clickhouse.run("INSERT INTO test.t SELECT number + 3, 'more' FROM numbers(2)").await;
    clickhouse
        .run("INSERT INTO test.t FORMAT JSONEachRow {\"a\": 5, \"b\": \"five\"}\n{\"a\": 6, \"b\": \"six\"}")
        .await;
    let answer = clickhouse.post(&[("query", "INSERT INTO t FORMAT CSV"), ("database", "test")], "7,seven\n").await;
    let summary = answer.headers()["x-clickhouse-summary"].to_str().unwrap().to_owned();
    assert!(summary.contains(r#""written_rows":"1""#), "{summary}");

    let url = reqwest::Url::parse_with_params(
        &clickhouse.url(),
        &[
            ("query", "SELECT b FROM t WHERE a IN {a:Array(UInt8)} ORDER BY a"),
            ("database", "test"),
            ("param_a", "[2,6,7]"),
        ],
    );
    let answer = clickhouse.http.get(url.unwrap()).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/tab-separated-values; charset=UTF-8");
    assert_eq!(answer.headers()["x-clickhouse-format"], "TabSeparated");
    assert_eq!(answer.text().await.unwrap(), "two\nsix\nseven\n");

    let answer = clickhouse.post(&[("default_format", "JSONEachRow"), ("query_id", "mine")], "SELECT 1 AS x").await;
    assert_eq!(answer.headers()["x-clickhouse-query-id"], "mine");
    assert_eq!(answer.text().await.unwrap(), "{\"x\":1}\n");
    for path in ["/ping", "/", "/replicas_status"] {
        let answer = clickhouse.http.get(clickhouse.url() + path).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "Ok.\n", "{path}");
    }
}

#[tokio::test]
async fn errors_have_clickhouses_codes() {
    let clickhouse = ClickHouse::start_with(&["--body-bytes-max", "1000000"]).await;
    clickhouse.run(TABLE).await;
    let too_long = "x".repeat(1_000_001);
    for (parameters, body, status, code) in [
        (&[][..], "SELECT * FROM test.nosuch", 404, 60),
        (&[("database", "nosuch")], "SELECT 1", 404, 81),
        (&[("nosuch", "1")], "SELECT 1", 404, 115),
        (&[("max_threads", "x")], "SELECT 1", 400, 27),
        (&[], "SELECT FROM WHERE", 400, 62),
        (&[], "garbage", 400, 62),
        (&[], "quit", 400, 62),
        (&[], "", 400, 62),
        (&[], "SELECT 1; SELECT 2", 400, 62),
        (&[], "SELECT 1 INTO OUTFILE '/tmp/never'", 500, 344),
        (&[("query", "INSERT INTO test.t FORMAT CSV")], "not a number", 400, 27),
        (&[("query", "INSERT INTO test.nosuch FORMAT CSV")], "1,a", 404, 60),
        (&[("query", "INSERT INTO test.t FORMAT Nosuch")], "1,a", 404, 73),
        (&[("query", "INSERT INTO test.t FORMAT CSV")], &too_long, 413, 131),
        (&[("query", "INSERT INTO test.t FORMAT CSV"), ("decompress", "1")], "no block, twenty-five bytes", 400, 271),
        (&[("param_x", "abc")], "SELECT {x:UInt8}", 400, 457),
        (&[], "SELECT {x:UInt8}", 400, 456),
    ] {
        let answer = clickhouse.post(parameters, body.to_owned()).await;
        let found = answer.headers().get("x-clickhouse-exception-code").cloned();
        let (found_status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(found.expect("a code").to_str().unwrap(), code.to_string(), "{parameters:?} {text}");
        assert_eq!(found_status.as_u16(), status, "{parameters:?} {text}");
        assert!(text.starts_with(&format!("Code: {code}. DB::Exception: ")), "{text}");
    }
    assert_eq!(clickhouse.run("SELECT count() FROM test.t").await, "0");
}

#[tokio::test]
async fn reading_by_get_changes_nothing() {
    let clickhouse = ClickHouse::start().await;
    clickhouse.run(TABLE).await;
    for sql in ["DROP TABLE test.t", "INSERT INTO test.t VALUES (1, 'a')", "SET readonly = 0"] {
        for readonly in ["", "&readonly=0"] {
            let url = format!("{}/?query={}{readonly}", clickhouse.url(), sql.replace(' ', "+"));
            let answer = clickhouse.http.get(url).send().await.unwrap();
            assert_eq!(answer.headers()["x-clickhouse-exception-code"], "164", "{sql}");
        }
    }
    assert_eq!(clickhouse.run("SELECT count() FROM test.t").await, "0");
}

#[tokio::test]
async fn nothing_of_a_request_reaches_the_next() {
    let clickhouse = ClickHouse::start_with(&["--queries-max", "1"]).await;
    let parameters = [("max_threads", "3"), ("database", "test"), ("session_id", "s"), ("role", "r")];
    let read = "SELECT getSetting('max_threads'), currentDatabase()";
    assert_eq!(clickhouse.post(&parameters, read).await.text().await.unwrap(), "3\ttest\n");
    clickhouse.run("SET max_threads = 5").await;
    clickhouse.run("USE test").await;
    clickhouse.run("CREATE TEMPORARY TABLE temporary (a UInt8)").await;
    let default = clickhouse.run(read).await;
    assert!(default.ends_with("\tdefault") && !default.starts_with('3') && !default.starts_with('5'), "{default}");
    let answer = clickhouse.post(&[], "SELECT * FROM temporary").await;
    assert_eq!(answer.headers()["x-clickhouse-exception-code"], "60");
    // A quote in a value does not end the value.
    let answer = clickhouse.post(
        &[("insert_deduplication_token", "it's \\ a, max_threads = '9'")],
        "SELECT getSetting('insert_deduplication_token')",
    );
    assert_eq!(answer.await.text().await.unwrap(), "it\\'s \\\\ a, max_threads = \\'9\\'\n");
}

#[tokio::test]
async fn the_same_token_inserts_once() {
    let clickhouse = ClickHouse::start().await;
    clickhouse.run(TABLE).await;
    for (token, body) in [("x", "1,a\n"), ("x", "1,a\n"), ("y", "1,a\n")] {
        let query = ("query", "INSERT INTO test.t FORMAT CSV");
        let answer =
            clickhouse.post(&[query, ("insert_deduplication_token", token), ("async_insert", "0")], body).await;
        assert!(answer.status().is_success());
    }
    assert_eq!(clickhouse.run("SELECT count() FROM test.t").await, "2");
}

#[tokio::test]
async fn answers_and_bodies_may_be_gzip() {
    let clickhouse = ClickHouse::start().await;
    clickhouse.run(TABLE).await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let rows: String = (0..100_000).map(|a| format!("{a},some text\n")).collect();
    encoder.write_all(rows.as_bytes()).unwrap();
    let url = format!("{}/?query=INSERT+INTO+test.t+FORMAT+CSV", clickhouse.url());
    let request = clickhouse.http.post(url).header("Content-Encoding", "gzip").body(encoder.finish().unwrap());
    assert!(request.send().await.unwrap().status().is_success());
    assert_eq!(clickhouse.run("SELECT count(), sum(a) FROM test.t").await, "100000\t4999950000");

    let url = format!("{}/", clickhouse.url());
    let request = clickhouse.http.post(url).header("Accept-Encoding", "gzip");
    let answer = request.body("SELECT number FROM numbers(300000) FORMAT TSVWithNames").send().await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let packed = answer.bytes().await.unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(&packed[..]), &mut text).unwrap();
    // The header comes once, although the engine writes it with every block.
    let expected: String =
        std::iter::once("number\n".to_owned()).chain((0..300_000).map(|n| format!("{n}\n"))).collect();
    assert!(text == expected, "the unpacked answer differs");
}

#[tokio::test]
async fn what_unpacks_to_more_than_a_body_may_have_is_refused_in_little_memory() {
    const BODY_BYTES_MAX: usize = 8 << 20;
    /// Unpacked, each of these is one value of half a gigabyte.
    const REPEATED: usize = 512;
    const MEMORY_BYTES_MAX: u64 = 256 << 20;
    let clickhouse = ClickHouse::start_with(&["--body-bytes-max", &BODY_BYTES_MAX.to_string()]).await;
    clickhouse.run(TABLE).await;
    // The server itself packs one megabyte. Packed members, frames and blocks may follow each other, so the test
    // repeats it.
    let megabyte = "SELECT repeat('7', 1000000) FORMAT RawBLOB";
    let url = |parameters: &str| format!("{}/?{parameters}", clickhouse.url());
    let insert = "query=INSERT+INTO+test.t+FORMAT+CSV";
    let before = resident_bytes(clickhouse.server.pid().unwrap());
    for (encoding, packed_by, read_by) in [("gzip", "", ""), ("lz4", "", ""), ("", "compress=1", "&decompress=1")] {
        let packed = clickhouse.http.post(url(packed_by)).header("Accept-Encoding", encoding);
        let packed = packed.body(megabyte).send().await.unwrap().bytes().await.unwrap();
        let bomb = packed.repeat(REPEATED);
        assert!(bomb.len() < BODY_BYTES_MAX, "{encoding}: {} bytes", bomb.len());
        // As the data of an insert, and as the text of a statement.
        for query in [insert, ""] {
            let request = clickhouse.http.post(url(&format!("{query}{read_by}"))).header("Content-Encoding", encoding);
            let answer = request.body(bomb.clone()).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, 413, "{encoding} {query}: {text}");
            assert!(text.contains("Code: 131. ") && text.contains("longer than"), "{text}");
        }
    }
    let request = clickhouse.http.post(url(insert)).header("Content-Encoding", "zstd").body("any");
    assert_eq!(request.send().await.unwrap().headers()["x-clickhouse-exception-code"], "89");
    let grown = resident_bytes(clickhouse.server.pid().unwrap()).saturating_sub(before);
    assert!(grown < MEMORY_BYTES_MAX, "it took {grown} bytes");
    assert_eq!(clickhouse.run("SELECT count() FROM test.t").await, "0");
}

#[tokio::test]
async fn an_error_in_the_middle_of_an_answer_is_no_end() {
    let clickhouse = ClickHouse::start().await;
    let sql = "SELECT throwIf(number = 2000000) FROM numbers(3000000) SETTINGS max_block_size = 1000";
    let mut answer = clickhouse.post(&[], sql).await;
    assert!(answer.status().is_success(), "the head went out before the error");
    let tag = answer.headers()["x-clickhouse-exception-tag"].to_str().unwrap().to_owned();
    let mut text = Vec::new();
    let error = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => text.extend_from_slice(&chunk),
            Ok(None) => panic!("a failed answer looked whole"),
            Err(error) => break error,
        }
    };
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("Code: 395. ") && text.ends_with(&format!(" {tag}\r\n__exception__\r\n")), "{error}");
    // If the client lets the answer be held back to its end, the same error has an error's status.
    let answer = clickhouse.post(&[("wait_end_of_query", "1")], sql).await;
    assert_eq!(answer.headers()["x-clickhouse-exception-code"], "395");
}

#[tokio::test]
async fn a_query_ends_with_its_client() {
    let clickhouse = ClickHouse::start().await;
    let running = "SELECT count() FROM system.processes WHERE query LIKE '%' || 'numbers(1000000000000)'";
    for sql in [
        // The first streams for ever. The second computes for ever before its first row.
        "SELECT number FROM numbers(1000000000000)",
        "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)",
    ] {
        let asking = clickhouse.post(&[], sql);
        let seen = until("the query runs", CEILING, async || (clickhouse.run(running).await == "1").then_some(()));
        tokio::select! {
            seen = async {
                let answer = asking.await;
                let hold = std::future::pending::<()>();
                hold.await;
                drop(answer);
            } => seen,
            seen = seen => seen.unwrap(),
        }
        until("the query has ended", CEILING, async || (clickhouse.run(running).await == "0").then_some(()))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_commits_nothing() {
    use tokio::io::AsyncWriteExt as _;

    let clickhouse = ClickHouse::start().await;
    clickhouse.run(TABLE).await;
    let mut stream = tokio::net::TcpStream::connect(clickhouse.server.address()).await.unwrap();
    // More than the server waits for before it begins an insert.
    let rows = "1,a\n2,b\n".repeat(100_000);
    let head = format!(
        "POST /?query=INSERT+INTO+test.t+FORMAT+CSV HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{rows}",
        clickhouse.server.address(),
        rows.len() + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let running = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO test.t%'";
    until("the insert runs", CEILING, async || (clickhouse.run(running).await == "1").then_some(())).await.unwrap();
    drop(stream);
    until("the insert has ended", CEILING, async || (clickhouse.run(running).await == "0").then_some(()))
        .await
        .unwrap();
    assert_eq!(clickhouse.run("SELECT count() FROM test.t").await, "0");
}

#[tokio::test]
async fn slow_queries_leave_inserts_their_places() {
    let clickhouse = ClickHouse::start_with(&["--queries-max", "1", "--waiting-max", "0"]).await;
    clickhouse.run(TABLE).await;
    // There is one place, and nobody may wait. So one of two queries is refused, in ClickHouse's words.
    let slow = || {
        let request = clickhouse.http.post(clickhouse.url());
        tokio::spawn(request.body("SELECT sum(sipHash64(number)) FROM numbers(1000000000000)").send())
    };
    let (mut first, mut second) = (slow(), slow());
    let (refused, slow) = tokio::select! {
        refused = &mut first => (refused, second),
        refused = &mut second => (refused, first),
    };
    let refused = refused.unwrap().unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["x-clickhouse-exception-code"], "202");
    let answer = clickhouse.post(&[("query", "INSERT INTO test.t FORMAT CSV")], "1,a\n").await;
    assert!(answer.status().is_success(), "an insert waited for a query");
    assert!(!slow.is_finished());
    slow.abort();
    until("the place is free again", CEILING, async || {
        let answer = clickhouse.post(&[], "SELECT count() FROM test.t").await;
        let free = answer.status().is_success();
        (free && answer.text().await.unwrap() == "1\n").then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_password_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = clickhouse::start(support::config(&dir, &["--password", "right"]).await).await.unwrap();
    let client = reqwest::Client::new();
    let select = || client.post(server.url()).body("SELECT 1");
    for refused in [
        select(),
        select().header("X-ClickHouse-User", "default").header("X-ClickHouse-Key", "wrong"),
        select().header("X-ClickHouse-User", "other").header("X-ClickHouse-Key", "right"),
        select().basic_auth("default", Some("wrong")),
    ] {
        let answer = refused.send().await.unwrap();
        assert_eq!(answer.headers()["x-clickhouse-exception-code"], "516");
        assert_eq!(answer.status(), 403);
    }
    let taken = [
        select().header("X-ClickHouse-User", "default").header("X-ClickHouse-Key", "right"),
        select().basic_auth("default", Some("right")),
        client.post(server.url() + "/?user=default&password=right").body("SELECT 1"),
    ];
    for request in taken {
        assert_eq!(request.send().await.unwrap().text().await.unwrap(), "1\n");
    }
    // A ping needs no password.
    assert!(client.get(server.url() + "/ping").send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn a_silent_client_is_let_go() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let clickhouse = ClickHouse::start_with(&["--idle-ms-max", "300"]).await;
    clickhouse.run(TABLE).await;
    let mut stream = tokio::net::TcpStream::connect(clickhouse.server.address()).await.unwrap();
    let head = format!(
        "POST /?query=INSERT+INTO+test.t+FORMAT+CSV HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\n1,a\n",
        clickhouse.server.address()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(CEILING, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert_eq!(clickhouse.run("SELECT count() FROM test.t").await, "0");
}
