//! A client that sends half a request, or keeps connections open, does not delay the statements of others.

use crate::support;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::CEILING;
use base64::Engine as _;
use headrace_local::clickhouse::Running;
use headrace_local::poll::until;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

const CONNECTIONS_MAX: usize = 256;
/// More than all places and queues. All kinds of statements together are also more than all connections.
const HALVES: usize = 200;
/// Half of the time after which the server drops a client that sends nothing.
const SOON: Duration = Duration::from_secs(30);

struct Server {
    running: Running,
    client: reqwest::Client,
    _dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let connections = CONNECTIONS_MAX.to_string();
        let options = ["--password", "w", "--reader-password", "r", "--connections-max", &connections];
        let running = headrace_local::clickhouse::start(support::config(&dir, &options).await).await.unwrap();
        // The server may cut an idle connection off to make room, just when the client takes it again.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let server = Self { running, client, _dir: dir };
        server.succeeds("default", "w", "", "CREATE DATABASE test ENGINE = Atomic").await;
        server.succeeds("default", "w", "", "CREATE TABLE test.t (a UInt32) ENGINE = MergeTree ORDER BY a").await;
        server
    }

    /// Runs a statement that begins with `query` in the URL and goes on with `body`.
    async fn succeeds(&self, user: &str, password: &str, query: &str, body: &str) -> String {
        let url = reqwest::Url::parse_with_params(&self.running.url(), &[("query", query)]).unwrap();
        let request = self.client.post(url).basic_auth(user, Some(password)).body(body.to_owned());
        let answer = request.timeout(CEILING).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{user}: {query} {body}: {status} {text}");
        text
    }

    /// Checks that statements of every kind are answered soon.
    async fn serves_all(&self) {
        let began = Instant::now();
        self.succeeds("default", "w", "INSERT INTO test.t FORMAT CSV", "1\n").await;
        self.succeeds("default", "w", "", "SELECT count() FROM test.t").await;
        self.succeeds("reader", "r", "", "SELECT count() FROM test.t").await;
        assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    }
}

/// Opens a connection and sends a request's head and half of its body.
async fn half(address: SocketAddr, user: &str, password: &str, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let head = format!(
        "POST /?query={query} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {credentials}\r\n\
         Content-Length: 100\r\n\r\nSELECT "
    );
    // An error is no failure: the server may have cut the connection off already to make room.
    let _ = stream.write_all(head.as_bytes()).await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_hold_no_places() {
    let server = Server::start().await;
    let address = server.running.address();
    let mut held = Vec::new();
    for (user, password, query) in [
        ("stranger", "x", ""),
        ("reader", "r", ""),
        ("default", "w", ""),
        ("default", "w", "INSERT+INTO+test.t+FORMAT+CSV"),
    ] {
        for _ in 0..HALVES {
            held.push(half(address, user, password, query).await);
        }
        server.serves_all().await;
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_hold_the_readers_places_alone() {
    let server = Server::start().await;
    let address = server.running.address();
    let credentials = base64::engine::general_purpose::STANDARD.encode("reader:r");
    let statement = "SELECT repeat('x', 1000000) FROM numbers(8) FORMAT JSON";
    let length = statement.len();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {credentials}\r\nContent-Length: {length}\r\n\r\n{statement}"
    );
    let (mut held, mut unanswered) = (Vec::new(), 0);
    while held.len() < 2 * CONNECTIONS_MAX && unanswered < 20 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let _ = stream.write_all(request.as_bytes()).await;
        // Open one after the other. The server would refuse and cut off most of them if they came at once.
        let begun = tokio::time::timeout(Duration::from_millis(200), stream.readable()).await;
        unanswered = if begun.is_ok() { 0 } else { unanswered + 1 };
        held.push(stream);
    }
    let began = Instant::now();
    server.succeeds("default", "w", "INSERT INTO test.t FORMAT CSV", "1\n").await;
    server.succeeds("default", "w", "", "SELECT count() FROM test.t").await;
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    // When these clients leave, all kinds of statements have places again.
    drop(held);
    server.serves_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room() {
    let server = Server::start().await;
    let address = server.running.address();
    // A client that has shown its password and asks nothing stays as long as there are strangers to cut off.
    let mut known = half(address, "default", "w", "").await;
    let mut silent = Vec::new();
    for _ in 0..2 * CONNECTIONS_MAX {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    server.serves_all().await;
    known.write_all(format!("1{}", " ".repeat(92)).as_bytes()).await.unwrap();
    let mut answer = [0; 15];
    tokio::time::timeout(CEILING, known.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_stands_still_makes_way() {
    let server = Server::start().await;
    let address = server.running.address();
    let rows = "1\n".repeat(200_000);
    let mut held = Vec::new();
    // As many inserts as may run at once. Each has begun and sends no more.
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let credentials = base64::engine::general_purpose::STANDARD.encode("default:w");
        let head = format!(
            "POST /?query=INSERT+INTO+test.t+FORMAT+CSV HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {credentials}\r\n\
             Content-Length: {}\r\n\r\n{rows}",
            rows.len() + 1
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let running = "SELECT count() FROM system.processes WHERE query LIKE 'INSERT INTO test.t%'";
    until("the inserts run", CEILING, async || {
        (server.succeeds("default", "w", "", running).await == "8\n").then_some(())
    })
    .await
    .unwrap();
    server.serves_all().await;
    drop(held);
}
