//! The official clients work unchanged. Each creates, inserts, reads back, binds parameters, changes settings and gets
//! an error. An insert with a repeated token adds nothing.

use crate::support;
use std::path::Path;
use std::process::Command;

use crate::support::ClickHouse;
use clickhouse::{Client, Compression, Row};
use headrace_local::install::Installer;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Event {
    id: u64,
    name: String,
    tags: Vec<String>,
    note: Option<String>,
}

fn event(id: u64) -> Event {
    Event {
        id,
        name: format!("event {id}"),
        tags: vec!["a".into(), "b".into()],
        note: id.is_multiple_of(2).then(|| "even".into()),
    }
}

const TABLE: &str = "CREATE TABLE ? (id UInt64, name String, tags Array(String), note Nullable(String)) \
                     ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100";

async fn create(client: &Client, table: &str) {
    client.query(TABLE).bind(clickhouse::sql::Identifier(table)).execute().await.unwrap();
}

async fn insert(client: &Client, table: &str, ids: std::ops::Range<u64>) {
    let mut insert = client.insert::<Event>(table).await.unwrap();
    for id in ids {
        insert.write(&event(id)).await.unwrap();
    }
    insert.end().await.unwrap();
}

async fn count(client: &Client, table: &str) -> u64 {
    client.query("SELECT count() FROM ?").bind(clickhouse::sql::Identifier(table)).fetch_one().await.unwrap()
}

#[tokio::test]
async fn the_rust_crate_works_unchanged() {
    let server = ClickHouse::start().await;
    for (table, compression) in [("packed", Compression::Lz4), ("plain", Compression::None)] {
        let client = Client::default().with_url(server.url()).with_database("test").with_compression(compression);
        create(&client, table).await;
        insert(&client, table, 0..100_000).await;
        // The cursor reads several blocks of the engine.
        let mut cursor = client
            .query("SELECT ?fields FROM ? ORDER BY id")
            .bind(clickhouse::sql::Identifier(table))
            .fetch::<Event>()
            .unwrap();
        for id in 0..100_000 {
            assert_eq!(cursor.next().await.unwrap().unwrap(), event(id));
        }
        assert_eq!(cursor.next().await.unwrap(), None);

        let query = client.query("SELECT name FROM {table:Identifier} WHERE id = {id:UInt64}");
        let name: String = query.param("table", table).param("id", 7).fetch_one().await.unwrap();
        assert_eq!(name, "event 7");
        let limited = client.clone().with_setting("max_result_rows", "10");
        let error = limited.query("SELECT number FROM numbers(11)").fetch_all::<u64>().await.unwrap_err();
        assert!(error.to_string().contains("Code: 396."), "{error}");
        let error = client.query("SELECT 1 FROM nosuch").fetch_all::<u8>().await.unwrap_err();
        assert!(error.to_string().contains("Code: 60."), "{error}");
        let error =
            client.query("SELECT throwIf(number = 2000000) FROM numbers(3000000)").fetch_all::<u8>().await.unwrap_err();
        assert!(error.to_string().contains("Code: 395."), "{error}");

        let once = client.clone().with_setting("insert_deduplication_token", "one").with_setting("async_insert", "0");
        insert(&once, table, 100_000..100_010).await;
        insert(&once, table, 100_000..100_010).await;
        assert_eq!(count(&client, table).await, 100_010);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_clients_work_at_once() {
    let server = ClickHouse::start().await;
    let clients = (0..10_u64).map(|number| {
        let client = Client::default().with_url(server.url()).with_database("test");
        tokio::spawn(async move {
            let table = format!("t{number}");
            create(&client, &table).await;
            for batch in 0..10 {
                insert(&client, &table, batch * 100..(batch + 1) * 100).await;
                assert_eq!(count(&client, &table).await, (batch + 1) * 100);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

/// Runs a script of `tests/clients` against `server`. The script exits with an error if anything is wrong.
fn run(command: &mut Command, script: &str, server: &ClickHouse) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let output = command.arg(script).arg(server.server.address().port().to_string()).output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_connect_works_unchanged() {
    let packages =
        |installer: &Installer| installer.python_packages("test-clickhouse-connect", &["clickhouse-connect==1.12.0"]);
    let packages = support::installed(packages).await;
    let server = ClickHouse::start().await;
    run(Command::new("python3").env("PYTHONPATH", packages), "connect.py", &server);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_works_unchanged() {
    let packages =
        |installer: &Installer| installer.node_packages("test-clickhouse-node", &["@clickhouse/client@1.23.1"]);
    let packages = support::installed(packages).await;
    let server = ClickHouse::start().await;
    run(Command::new("node").env("NODE_PATH", packages.join("node_modules")), "node.cjs", &server);
}
