//! The embedded ClickHouse as a process that is killed, restarted, stopped, or started twice.

use crate::support;
use std::ffi::OsString;

use crate::support::{CEILING, ClickHouse};
use headrace_local::child::Event;
use headrace_local::poll::until;
use headrace_local::{StartError, clickhouse};

#[tokio::test]
async fn acknowledged_rows_survive_a_kill() {
    let clickhouse = ClickHouse::start().await;
    clickhouse.run("CREATE TABLE test.t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    let (url, first) = (clickhouse.url(), clickhouse.server.pid().unwrap());
    let mut events = clickhouse.server.events();
    // Each writer counts acknowledged rows until the server is killed.
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let (client, url) = (clickhouse.http.clone(), format!("{url}/?query=INSERT+INTO+test.t+FORMAT+CSV"));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let row = writer * 1_000_000 + number;
                    match client.post(&url).body(format!("{row}\n")).send().await {
                        Ok(answer) if answer.status().is_success() => acknowledged.push(row),
                        _ => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    until("rows were written", CEILING, async || {
        let count: u64 = clickhouse.run("SELECT count() FROM test.t").await.parse().unwrap();
        (count > 50).then_some(())
    })
    .await
    .unwrap();
    support::kill(first);
    let ready = events.wait_for(|event| matches!(event, Event::Ready { pid } if *pid != first));
    tokio::time::timeout(CEILING, ready).await.unwrap().unwrap();
    assert_eq!(clickhouse.url(), url, "it came back on its port");
    let found = clickhouse.run("SELECT a FROM test.t").await;
    let found: std::collections::HashSet<u64> = found.lines().map(|line| line.parse().unwrap()).collect();
    for writer in writers {
        for row in writer.await.unwrap() {
            assert!(found.contains(&row), "row {row} was acknowledged and is gone");
        }
    }
}

/// The engine takes a refused write for a successful one. Then it acknowledges an insert, or finishes a merge, that
/// wrote nothing.
#[tokio::test]
async fn a_write_that_the_system_refuses_ends_the_server_and_nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = support::config(&dir, &[]).await;
    // No file may grow beyond a megabyte or two. A full disk does the same, but the test may have no right to mount
    // one.
    let limited = ["-c", "trap '' XFSZ; ulimit -f 2000; exec \"$0\" \"$@\"", support::PROGRAM];
    config.program = "/bin/sh".into();
    config.args = limited.into_iter().map(OsString::from).chain(config.args).collect();
    let clickhouse = ClickHouse::on(clickhouse::start(config).await.unwrap(), dir).await;
    clickhouse.run("CREATE TABLE test.t (a UInt64, b String CODEC(NONE)) ENGINE = MergeTree ORDER BY a").await;
    let mut acknowledged = 0;
    for rows in [1_000, 60_000, 2_000, 60_000] {
        let first = clickhouse.server.pid().unwrap();
        let mut events = clickhouse.server.events();
        // Each row has 64 bytes that do not compress.
        let insert = format!(
            "INSERT INTO test.t SELECT number, randomPrintableASCII(64) FROM numbers({acknowledged}, {rows}) \
             SETTINGS max_block_size = 1000000, min_insert_block_size_rows = 1000000"
        );
        let answer = clickhouse.http.post(clickhouse.url()).body(insert).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            acknowledged += rows;
        } else {
            let ready = events.wait_for(|event| matches!(event, Event::Ready { pid } if *pid != first));
            tokio::time::timeout(CEILING, ready).await.unwrap().unwrap();
        }
        assert_eq!(clickhouse.run("SELECT count() FROM test.t WHERE length(b) = 64").await, acknowledged.to_string());
    }
    assert_eq!(acknowledged, 3_000, "only what fits is acknowledged");
    let parts = clickhouse.run("CHECK TABLE test.t").await;
    let whole = parts.lines().filter(|part| part.split('\t').nth(1) == Some("1")).count();
    assert!(whole > 0 && whole == parts.lines().count(), "name, whole, why not: {parts}");
}

#[tokio::test]
async fn a_second_server_on_the_same_data_says_so() {
    let clickhouse = ClickHouse::start().await;
    let error = clickhouse::start(support::config(&clickhouse.dir, &[]).await).await.unwrap_err();
    let StartError::Exited { log, .. } = error else { panic!("{error}") };
    let owner = format!("is in use by another ClickHouse server (process {})", clickhouse.server.pid().unwrap());
    assert!(log.contains(&owner), "{log}");
    assert_eq!(clickhouse.run("SELECT 1").await, "1");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = support::config(&dir, &[]).await;
    config.listen = taken.local_addr().unwrap();
    let error = clickhouse::start(config).await.unwrap_err();
    assert!(matches!(error, StartError::PortInUse { .. }), "{error}");
}

#[tokio::test]
async fn stopping_lets_a_running_insert_finish() {
    let dir = tempfile::tempdir().unwrap();
    let server = clickhouse::start(support::config(&dir, &[]).await).await.unwrap();
    let client = reqwest::Client::new();
    let run =
        async |sql: &str| client.post(server.url()).body(sql.to_owned()).send().await.unwrap().text().await.unwrap();
    run("CREATE DATABASE test ENGINE = Atomic").await;
    run("CREATE TABLE test.t (a UInt64) ENGINE = MergeTree ORDER BY a").await;
    let (rows, body) = futures::channel::mpsc::unbounded::<Result<bytes::Bytes, std::io::Error>>();
    // More than the server waits for before it begins an insert.
    rows.unbounded_send(Ok("1\n".repeat(200_000).into())).unwrap();
    let url = format!("{}/?query=INSERT+INTO+test.t+FORMAT+CSV", server.url());
    let insert = tokio::spawn(client.post(url).body(reqwest::Body::wrap_stream(body)).send());
    let running = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO test.t%'";
    until("the insert runs", CEILING, async || (run(running).await == "1\n").then_some(())).await.unwrap();
    let address = server.address();
    let stopped = tokio::spawn(server.stop());
    until("it takes no more", CEILING, async || tokio::net::TcpStream::connect(address).await.is_err().then_some(()))
        .await
        .unwrap();
    rows.unbounded_send(Ok("2\n".into())).unwrap();
    drop(rows);
    assert!(insert.await.unwrap().unwrap().status().is_success());
    tokio::time::timeout(CEILING, stopped).await.unwrap().unwrap();
    let server = clickhouse::start(support::config(&dir, &[]).await).await.unwrap();
    let answer = client.post(server.url()).body("SELECT count() FROM test.t").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "200001\n");
}
