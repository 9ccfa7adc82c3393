//! Only the account that runs `up` can read what it stores and prints.

use std::fs::{Permissions, read_dir, set_permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::Launch;
use headrace_tests::product::stored::Stored;
use tempfile::TempDir;

use super::PROGRAM;

#[tokio::test]
async fn other_accounts_cannot_read_what_up_stores() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    // An earlier release left the directory open.
    std::fs::create_dir(&data).unwrap();
    set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    hook.store("team", &guid(), r#"{"action":"created","organization":{"login":"acme"}}"#).await;
    stored.settled().await;

    let mut found = vec![data.clone(), up.ready_file().to_owned()];
    below(&data, &mut found);
    let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    for path in ["nats/jetstream", "clickhouse/store", "out/events.jsonl", "webhook-secret", "last-up.json"] {
        assert!(names.iter().any(|name| name.contains(path)), "no {path} in {names:#?}");
    }
    let is_open = |path: &&PathBuf| path.symlink_metadata().is_ok_and(|found| found.mode() & 0o077 != 0);
    let open: Vec<&PathBuf> = found.iter().filter(is_open).collect();
    assert!(open.is_empty(), "{open:#?}");
    assert!(up.log().contains("was open to other accounts of this machine and is closed now"), "{}", up.log());

    // The output goes to a file here, which others may collect. So it must not hold the secret.
    let secret = up.ready().webhook_secret.clone().unwrap();
    assert!(!up.log().contains(&secret), "{}", up.log());
    let place = data.canonicalize().unwrap().join("webhook-secret");
    assert!(up.log().contains(&format!("secret      in the file {}", place.display())), "{}", up.log());
    let ready_files = [up.ready_file().to_owned(), data.join("ready.json")];
    assert!(ready_files.iter().all(|path| path.exists()));
    up.stop().await;
    assert!(ready_files.iter().all(|path| !path.exists()), "a stopped process leaves no ready file");
}

#[tokio::test]
async fn a_configured_secret_is_not_printed() {
    let dir = TempDir::new().unwrap();
    let secret = "a-secret-of-the-configuration";
    let launch = Launch::up(PROGRAM, dir.path()).set("HEADRACE__INGEST__GITHUB__SECRETS", format!("['{secret}']"));
    let up = launch.start().await;
    assert_eq!(up.ready().webhook_secret.as_deref(), Some(secret), "`send` needs it");
    assert!(!up.log().contains(secret) && up.log().contains("secret      as configured"), "{}", up.log());
    up.stop().await;
}

/// Collects everything below a directory except links, which have no mode of their own. Files that the servers remove
/// meanwhile are left out.
fn below(directory: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = read_dir(directory) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Ok(kind) = path.symlink_metadata() else { continue };
        if kind.is_dir() {
            below(&path, found);
        }
        if !kind.is_symlink() {
            found.push(path);
        }
    }
}
