//! nats-server as a child: it starts, is kept running on its port, and never outlives its parent.

use crate::support;
use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::support::CEILING;
use futures::StreamExt as _;
use headrace_local::child::Event;
use headrace_local::install::Installer;
use headrace_local::nats::{self, Cluster, Config, Error, SyncInterval, User};
use headrace_local::poll::until;
use headrace_local::{StartError, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn config(dir: &Path) -> Config {
    Config::new(support::installed(Installer::nats_server).await, dir)
}

async fn store(url: &str, subject: &str) -> u64 {
    let client = async_nats::connect(url).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let stream = async_nats::jetstream::stream::Config {
        name: "KEPT".into(),
        subjects: vec!["kept.>".into()],
        ..Default::default()
    };
    jetstream.get_or_create_stream(stream).await.unwrap();
    let stored = jetstream.publish(subject.to_owned(), "x".into()).await.unwrap().await.unwrap();
    stored.sequence
}

#[tokio::test]
async fn a_killed_server_comes_back_on_its_port_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path()).await;
    config.sync_interval = SyncInterval::Always;
    let server = nats::start(config).await.unwrap();
    let (url, first) = (server.url(), server.pid().unwrap());
    assert_eq!(store(&url, "kept.1").await, 1);
    let mut events = server.events();
    support::kill(first);
    let ready = events.wait_for(|event| matches!(event, Event::Ready { pid } if *pid != first));
    tokio::time::timeout(CEILING, ready).await.unwrap().unwrap();
    assert_eq!(server.url(), url);
    assert_eq!(store(&url, "kept.2").await, 2, "the first message is still there");
    let second = server.pid().unwrap();
    server.stop().await;
    assert!(!support::runs(second));
    assert_eq!(*events.borrow(), Event::Stopped);
}

#[tokio::test]
async fn a_server_syncs_when_it_is_told_to() {
    let often = SyncInterval::Every(Duration::from_millis(1_500));
    for (sync_interval, told) in
        [(often, "\"sync_interval\": 1500000000"), (SyncInterval::Always, "\"sync_always\": true")]
    {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path()).await;
        config.sync_interval = sync_interval;
        let server = nats::start(config).await.unwrap();
        let answer = monitored(&server, "/varz").await;
        assert!(answer.contains(told), "{told} is not in {answer}");
        server.stop().await;
    }
}

#[tokio::test]
async fn with_users_a_stranger_sees_nothing_and_files_are_their_owners() {
    let dir = tempfile::tempdir().unwrap();
    // An earlier release made the file readable for others.
    let file = dir.path().join("nats-server.conf");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let mut config = config(dir.path()).await;
    let rights = nats::Permissions { publish: vec!["kept.1".into()], subscribe: Vec::new() };
    let user = |name: &str, permissions| User { name: name.into(), password: "a \"word\"".into(), permissions };
    config.users = vec![user("admin", None), user("one", Some(rights))];
    let server = nats::start(config).await.unwrap();
    assert!(async_nats::connect(server.url()).await.is_err());
    let connect = async |name: &str| {
        let options = async_nats::ConnectOptions::with_user_and_password(name.into(), "a \"word\"".into());
        options.connect(server.url()).await.unwrap()
    };
    let admin = connect("admin").await;
    let mut kept = admin.subscribe("kept.>").await.unwrap();
    admin.flush().await.unwrap();
    let one = connect("one").await;
    for subject in ["kept.2", "kept.1"] {
        one.publish(subject, "x".into()).await.unwrap();
    }
    // Messages come in order, so `kept.2` was refused.
    let first = tokio::time::timeout(CEILING, kept.next()).await.unwrap().unwrap();
    assert_eq!(first.subject.as_str(), "kept.1");

    for (path, mode) in [(dir.path(), 0o700), (&file, 0o600)] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    for path in ["/", "/varz", "/connz?auth=1", "/jsz", "/healthz"] {
        assert!(monitored(&server, path).await.starts_with("HTTP/1.0 404"), "{path}");
    }
    let own = format!("{}/varz", server.monitor_path());
    assert!(monitored(&server, &own).await.starts_with("HTTP/1.0 200"), "{own}");
    server.stop().await;
}

/// The whole answer of a server's monitoring.
async fn monitored(server: &nats::Running, path: &str) -> String {
    let mut monitor = TcpStream::connect(server.monitor()).await.unwrap();
    monitor.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    monitor.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config(dir.path()).await;
    config.listen = taken.local_addr().unwrap();
    let error = nats::start(config).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, Error::Start(StartError::PortInUse { port, .. }) if port == taken.local_addr().unwrap().port())
    );
    assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
}

#[tokio::test]
async fn two_servers_never_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let server = nats::start(config(dir.path()).await).await.unwrap();
    let error = nats::start(config(dir.path()).await).await.unwrap_err();
    assert!(matches!(error, Error::DataDirInUse { .. }), "{error}");
    server.stop().await;
    nats::start(config(dir.path()).await).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("jetstream"), "a file where a folder belongs").unwrap();
    let error = nats::start(config(dir.path()).await).await.unwrap_err();
    let Error::Start(StartError::Exited { log, .. }) = error else { panic!("{error}") };
    assert!(log.contains("JetStream") || log.contains("jetstream"), "{log}");
}

#[tokio::test]
async fn no_child_outlives_a_killed_parent() {
    let dir = tempfile::tempdir().unwrap();
    let program = support::installed(Installer::nats_server).await;
    let ready = dir.path().join("ready");
    let mut parent = std::process::Command::new(support::PROGRAM)
        .arg("--program")
        .arg(program)
        .arg("--data-dir")
        .arg(dir.path().join("nats"))
        .arg("--ready-file")
        .arg(&ready)
        .spawn()
        .unwrap();
    let child = until("the child's process id", CEILING, async || std::fs::read_to_string(&ready).ok()?.parse().ok());
    let child: u32 = child.await.unwrap();
    assert!(support::runs(child));
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("the child is gone", CEILING, async || (!support::runs(child)).then_some(())).await.unwrap();
}

#[tokio::test]
async fn three_servers_make_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let host = IpAddr::from(Ipv4Addr::LOCALHOST);
    let routes: Vec<SocketAddr> = (0..3).map(|_| (host, free_port(host).unwrap()).into()).collect();
    let mut servers = Vec::new();
    for (number, route) in routes.iter().enumerate() {
        let mut config = config(&dir.path().join(number.to_string())).await;
        config.name = format!("server-{number}");
        config.cluster = Some(Cluster { name: "test".into(), listen: *route, routes: routes.clone() });
        servers.push(nats::start(config).await.unwrap());
    }
    let client = async_nats::connect(servers[0].url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let replicated = async || {
        let stream =
            async_nats::jetstream::stream::Config { name: "REPLICATED".into(), num_replicas: 3, ..Default::default() };
        jetstream.create_stream(stream).await.ok()
    };
    until("a stream with three replicas", CEILING, replicated).await.unwrap();
    for server in servers {
        server.stop().await;
    }
}

#[test]
fn the_helper_program_says_in_one_line_why_it_fails() {
    let failed = std::process::Command::new(support::PROGRAM).env("RUST_BACKTRACE", "1").output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert_eq!(String::from_utf8_lossy(&failed.stderr), "--program is missing\n");
}
