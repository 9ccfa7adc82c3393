//! Another account on the machine, without a secret, can read, write and stop nothing of a running `up`.
//!
//! As root, the test uses the account `nobody`. Otherwise it looks at the modes of the files, and asks the servers
//! without a password. Another account could not do more.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use async_nats::ConnectOptions;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, Ready, command, runs, said};
use headrace_tests::product::stored::Stored;
use reqwest::{Client, StatusCode, Url};
use rustix::process::geteuid;
use serde_json::json;
use tempfile::TempDir;

use super::PROGRAM;

/// The account `nobody`, by its number on Linux.
const NOBODY: u32 = 65_534;

#[tokio::test]
async fn another_account_reads_writes_and_stops_nothing() {
    let dir = TempDir::new().unwrap();
    // The directory above is open, so the data directory's own mode must close it.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (ready, data) = (up.ready(), dir.path().join("data"));
    let (hook, stored) = (Hook::of(ready), Stored::of(ready).await);
    hook.store("repository", &guid(), publicized()).await;
    stored.until_count("SELECT count() FROM events", 1).await;

    files_are_closed_to_others(&data);
    processes_reveal_no_secret_and_obey_no_other(ready, &data);
    clickhouse_demands_a_password(ready, &data).await;
    nats_demands_a_password(ready).await;
    the_public_port_serves_no_metrics(ready).await;
    up.stop().await;
}

#[tokio::test]
async fn the_owner_queries_without_giving_a_password() {
    let dir = TempDir::new().unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    hook.store("repository", &guid(), publicized()).await;
    stored.until_count("SELECT count() FROM events", 1).await;
    let data = dir.path().join("data");
    let ask = async |more: &[&str]| {
        let given = ["query", "--data-dir", data.to_str().unwrap()].into_iter().chain(more.iter().copied());
        command(PROGRAM, given).await
    };

    let row = ask(&["SELECT repository, severity FROM headrace.events"]).await;
    assert_eq!(said(&row), "repository\tseverity\nacme/app\thigh\n", "{row:?}");
    let refused = ask(&["DROP TABLE headrace.events"]).await;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--write"), "{refused:?}");
    let wrong = ask(&["SELECT nothing"]).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("UNKNOWN_IDENTIFIER"), "{wrong:?}");
    let changed = ask(&["--write", "CREATE TABLE headrace.notes (text String) ENGINE = MergeTree ORDER BY ()"]).await;
    assert!(changed.status.success(), "{changed:?}");
    assert!(!up.log().contains(&secret(&data, "clickhouse-password")), "the banner shows no password");
    up.stop().await;
}

/// Runs `sh -c script` as another account. `None` when this account may not do so.
fn as_nobody(script: &str) -> Option<Output> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).uid(NOBODY).gid(NOBODY).current_dir("/");
    geteuid().is_root().then(|| shell.output().unwrap())
}

fn files_are_closed_to_others(data: &Path) {
    assert_eq!(fs::metadata(data).unwrap().mode() & 0o777, 0o700, "{}", data.display());
    let files = files(data);
    assert!(files.len() > 20, "there are files of NATS, ClickHouse and the file sink");
    let open: Vec<_> = files.into_iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "others may use {open:?}");
    if let Some(tried) = as_nobody(&format!("cat {0}/webhook-secret; ls {0}; touch {0}/mine", data.display())) {
        assert!(tried.stdout.is_empty() && !data.join("mine").exists(), "{tried:?}");
    }
}

/// All files and directories below `directory`, with their modes. Files that disappear meanwhile are left out, such as
/// those of ClickHouse. So are symbolic links, whose modes mean nothing.
fn files(directory: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for path in fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            found.extend(files(&path));
        }
        if !metadata.is_symlink() {
            found.push((path, metadata.mode() & 0o777));
        }
    }
    found
}

fn secret(data: &Path, name: &str) -> String {
    fs::read_to_string(data.join(name)).unwrap().trim().to_owned()
}

fn processes_reveal_no_secret_and_obey_no_other(ready: &Ready, data: &Path) {
    let kept = fs::read_dir(data).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let secrets: Vec<String> = kept
        .filter(|name| name.ends_with("-password") || name.ends_with("-secret"))
        .map(|name| secret(data, &name))
        .collect();
    assert!(secrets.len() >= 3, "the webhook's secret and passwords of the servers");
    for (name, pid) in &ready.pids {
        // Every account may read the command line of a process.
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!secrets.iter().any(|secret| line.contains(secret)), "{name} is started with a secret: {line}");
        if let Some(tried) = as_nobody(&format!("cat /proc/{pid}/environ; kill -9 {pid}")) {
            assert!(tried.stdout.is_empty() && !tried.status.success(), "{name}: {tried:?}");
        }
        assert!(runs(*pid), "{name}");
    }
}

async fn clickhouse_demands_a_password(ready: &Ready, data: &Path) {
    let mut url = Url::parse(ready.clickhouse.as_ref().unwrap()).unwrap();
    assert!(url.password().is_some_and(|password| password == secret(data, "clickhouse-password")));
    url.set_password(None).unwrap();
    url.set_username("").unwrap();
    let secret_file = data.join("webhook-secret");
    let statements = [
        "SELECT count() FROM headrace.events".to_owned(),
        "DROP TABLE headrace.events".to_owned(),
        "SYSTEM SHUTDOWN".to_owned(),
        format!("SELECT * FROM file('{}', 'LineAsString')", secret_file.display()),
    ];
    for statement in statements {
        for (user, password) in [("", ""), ("default", ""), ("default", "wrong"), ("reader", ""), ("nobody", "")] {
            let request = Client::new().post(url.clone()).body(statement.clone());
            let request = request.header("X-ClickHouse-User", user).header("X-ClickHouse-Key", password);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{statement} as `{user}`");
        }
    }
}

async fn nats_demands_a_password(ready: &Ready) {
    let url = ready.nats.as_ref().unwrap();
    let (_, address) = url.rsplit_once('@').expect("the ready file tells how to log in");
    let refused = async_nats::connect(address).await.is_err();
    assert!(refused, "a client without a password is let in");
    for (user, password) in [("admin", ""), ("admin", "wrong"), ("ingest", "ingest"), ("subscriber", "")] {
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
        assert!(options.connect(address).await.is_err(), "`{user}` is let in with `{password}`");
    }
}

async fn the_public_port_serves_no_metrics(ready: &Ready) {
    let gateway = ready.gateway.as_ref().unwrap();
    for (path, status) in [("/metrics", 404), ("/readyz", 404), ("/healthz", 200)] {
        let answer = reqwest::get(format!("{gateway}{path}")).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
    }
}

fn publicized() -> Vec<u8> {
    json!({
        "action": "publicized",
        "repository": { "id": 1, "name": "app", "full_name": "acme/app", "private": false, "owner": { "login": "acme" } },
        "organization": { "id": 5, "login": "acme" },
        "sender": { "id": 7, "login": "mona", "type": "User" },
    })
    .to_string()
    .into_bytes()
}
