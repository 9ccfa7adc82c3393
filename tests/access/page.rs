//! The page about permissions. Its file for nats-server is the one that the code makes, and the product runs with it.

use std::path::{Path, PathBuf};

use headrace::nats::users::User;
use headrace_local::nats::authorization;
use headrace_local::poll;
use headrace_tests::harness::CEILING;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, command, complained, said};
use tempfile::TempDir;

use super::{PROGRAM, password, server, users, violations};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/nats-permissions.md");
const SECRET: &str = "a secret of many users";
/// More than fits into a message.
const LARGE_BYTES: usize = 9 << 20;

#[test]
fn the_page_lists_what_every_user_may_do() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let blocks = page.split("```").skip(1).step_by(2);
    let listed =
        blocks.filter_map(|block| block.strip_prefix("text\n")).find(|block| block.starts_with("authorization:"));
    let expected = authorization(&users());
    assert!(listed == Some(expected.as_str()), "write this into {PAGE}:\n{expected}");
    for user in User::ALL {
        assert!(page.contains(&user.password_file()), "{user:?} and its file are in {PAGE}");
    }
}

#[tokio::test]
async fn the_roles_run_with_the_rights_of_the_page() {
    let dir = TempDir::new().unwrap();
    let (data, config) = (dir.path().join("nats"), dir.path().join("headrace.toml"));
    let nats = server(&data).await;
    std::fs::write(&config, configuration(&nats.url(), dir.path())).unwrap();
    let admin = secrets(dir.path(), "admin", &[User::Admin]);
    let migrated = headrace(&admin, ["check", "--migrate", "--config", config.to_str().unwrap()]).await;
    assert_eq!(migrated.0, Some(0), "{migrated:?}");

    let start = async |role: &str, users: &[User]| {
        let secrets = secrets(dir.path(), role, users);
        Launch::run(PROGRAM, role, &config, dir.path()).set("HEADRACE__NATS__USERS_DIR", secrets).start().await
    };
    let (ingest, pipeline, sinks) = tokio::join!(
        start("ingest", &[User::Ingest]),
        start("pipeline", &[User::Pipeline, User::Retention]),
        start("sinks", &[User::Sinks])
    );
    let hook = Hook::new(format!("{}/webhooks/github", ingest.ready().gateway.clone().unwrap()), SECRET);
    let (small, large) = (guid(), guid());
    hook.store("repository", &small, publicized("app", 0)).await;
    hook.store("repository", &large, publicized("other", LARGE_BYTES)).await;
    let written = async || {
        let (events, alerts) = (written(dir.path(), "event"), written(dir.path(), "alert"));
        let is_whole = [&small, &large].iter().all(|guid| events.contains(guid.as_str()));
        (is_whole && alerts.contains("acme/app") && alerts.contains("acme/other")).then_some(())
    };
    if let Err(error) = poll::until("events and alerts are written", CEILING, written).await {
        panic!("{error}; {:?} {} {}", violations(&data), pipeline.log(), sinks.log());
    }
    assert_eq!(violations(&data), [""; 0]);

    let place = ["dead", "list", "--counts", "--config", config.to_str().unwrap()];
    assert_eq!(headrace(&admin, place).await.0, Some(0));
    let refused = headrace(&dir.path().join("secrets-ingest"), place).await;
    assert_eq!(refused.0, Some(1), "{refused:?}");
    assert!(refused.1.contains("expected the password of the NATS user `admin` in "), "{refused:?}");
    for process in [ingest, pipeline, sinks] {
        process.stop().await;
    }
    nats.stop().await;
}

/// Makes a directory with the passwords of `users`.
fn secrets(dir: &Path, name: &str, users: &[User]) -> PathBuf {
    let secrets = dir.join(format!("secrets-{name}"));
    std::fs::create_dir(&secrets).unwrap();
    for user in users {
        std::fs::write(secrets.join(user.password_file()), password(*user) + "\n").unwrap();
    }
    secrets
}

/// Runs a command with the passwords in `secrets`. Returns its exit code, and its stdout and stderr as one text.
async fn headrace<const N: usize>(secrets: &Path, arguments: [&str; N]) -> (Option<i32>, String) {
    let secrets = format!("HEADRACE__NATS__USERS_DIR={}", secrets.display());
    let output = command("/usr/bin/env", [secrets.as_str(), PROGRAM].into_iter().chain(arguments)).await;
    (output.status.code(), said(&output) + &complained(&output))
}

/// The file sink's files of `kind`, as one text.
fn written(dir: &Path, kind: &str) -> String {
    let Ok(files) = std::fs::read_dir(dir.join("out")) else { return String::new() };
    let paths = files.map(|file| file.unwrap().path()).filter(|path| path.to_string_lossy().contains(kind));
    paths.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

fn publicized(name: &str, padding: usize) -> String {
    format!(
        r#"{{"action":"publicized","repository":{{"id":1,"name":"{name}","full_name":"acme/{name}","private":false,"owner":{{"login":"acme"}}}},"organization":{{"id":5,"login":"acme"}},"sender":{{"id":7,"login":"mona","type":"User"}},"padding":"{}"}}"#,
        "a".repeat(padding)
    )
}

fn configuration(nats: &str, dir: &Path) -> String {
    let limits = "{ max_age_hours = 24, max_bytes = 268435456 }";
    format!(
        r#"
admin.listen = "127.0.0.1:0"
nats.url = "{nats}"

[streams]
raw = {limits}
events = {limits}
alerts = {limits}
dead = {limits}

[ingest]
listen = "127.0.0.1:0"
github.secrets = ["{SECRET}"]

[sinks.file]
dir = "{out}"
"#,
        out = dir.join("out").display(),
    )
}
