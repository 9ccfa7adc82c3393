//! What the command line does, most of it without a server. Commands that need servers are tested where those run.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use headrace_tests::product::hook::guid;
use headrace_tests::product::process::{Launch, command, command_into, complained, said};
use serde_json::json;
use tempfile::TempDir;

use super::PROGRAM;

/// What a command did.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    /// Its stdout.
    said: String,
    /// Its stderr.
    complained: String,
}

/// Runs `headrace` in `directory` with these arguments, words without spaces, and these variables.
async fn headrace(directory: &Path, variables: &[(&str, &str)], arguments: &str) -> Done {
    let set = variables.iter().map(|(name, value)| format!("{name}={value}"));
    let directory = ["-C".to_owned(), directory.display().to_string()];
    let words = arguments.split_whitespace().map(str::to_owned);
    let all = directory.into_iter().chain(set).chain([PROGRAM.to_owned()]).chain(words);
    let output = command("/usr/bin/env", all).await;
    Done { code: output.status.code(), said: said(&output), complained: complained(&output) }
}

#[tokio::test]
async fn check_looks_at_the_role_that_it_is_given() {
    let dir = TempDir::new().unwrap();
    let check = async |arguments: &str| headrace(dir.path(), &[], &format!("check {arguments}")).await;
    // A configuration for `up` names no servers and no secrets.
    std::fs::write(dir.path().join("headrace.toml"), "[pipeline]\nlanes = 2\n").unwrap();
    let refused = check("").await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.complained.contains("is checked with --up"), "{refused:?}");
    let up = check("--up").await;
    assert_eq!(up.code, Some(0), "{up:?}");
    assert!(up.said.starts_with("ok      configuration headrace.toml\nlater   nats: "), "{up:?}");
    std::fs::write(dir.path().join("headrace.toml"), "[pipeline]\nchains = [['score']]\n").unwrap();
    let wrong = check("--up").await;
    assert!(wrong.code == Some(2) && wrong.complained.contains("pipeline.chains: expected"), "{wrong:?}");

    // A pipeline needs no webhook secrets, and must not look at the sink.
    let text = "nats.url = 'nats://127.0.0.1:1'\nsinks.clickhouse.url = 'http://127.0.0.1:1'\n";
    std::fs::write(dir.path().join("headrace.toml"), text).unwrap();
    let ingest = check("--role ingest").await;
    assert!(ingest.code == Some(2) && ingest.complained.contains("ingest.github.secrets"), "{ingest:?}");
    let pipeline = check("--role pipeline --json").await;
    assert_eq!(pipeline.code, Some(4), "{pipeline:?}");
    let lines: Vec<serde_json::Value> = pipeline.said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states = lines.iter().map(|line| (line["check"].as_str().unwrap(), line["state"].as_str().unwrap()));
    let expected = [("configuration headrace.toml", "ok"), ("nats nats://127.0.0.1:1", "away")];
    assert_eq!(states.collect::<Vec<_>>(), expected);
    let sinks = check("--role pipeline --role sinks").await;
    assert!(sinks.said.contains("failed  clickhouse http://127.0.0.1:1: "), "{sinks:?}");
}

#[tokio::test]
async fn contexts_that_are_added_at_once_are_all_kept() {
    const COUNT: usize = 12;
    let dir = TempDir::new().unwrap();
    let variables = [("HEADRACE_CONFIG_DIR", dir.path().to_str().unwrap())];
    let names: Vec<String> = (0..COUNT).map(|number| format!("context-{number:02}")).collect();
    let add = async |name: &String| {
        let added = headrace(dir.path(), &variables, &format!("context add {name} --data-dir data")).await;
        assert_eq!(added.code, Some(0), "{added:?}");
    };
    futures::future::join_all(names.iter().map(add)).await;
    let listed = headrace(dir.path(), &variables, "context list --json").await.said;
    let rows = listed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let found: Vec<String> = rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(found, names);
}

#[tokio::test]
async fn a_context_names_an_installation() {
    let dir = TempDir::new().unwrap();
    let own = dir.path().join("own");
    let variables = [("HEADRACE_CONFIG_DIR", own.to_str().unwrap())];
    let run = async |arguments: &str| headrace(dir.path(), &variables, arguments).await;
    assert_eq!(run("context list").await.said, "no contexts; `headrace context add` makes one\n");
    std::fs::write(dir.path().join("live.toml"), "nats.url = 'nats://127.0.0.1:1'\n").unwrap();
    for (arguments, code) in [
        ("context add live --config live.toml", 0),
        ("context add test --data-dir data", 0),
        ("context add test --data-dir other", 1),
        ("context add nothing", 2),
        ("context add a/b --data-dir data", 2),
        ("context use nowhere", 2),
        ("context remove nowhere", 3),
        ("dead list --context nowhere", 2),
        ("dead list --context live --config live.toml", 2),
        ("send live.toml --event push --context live", 2),
    ] {
        let done = run(arguments).await;
        assert_eq!(done.code, Some(code), "{arguments}: {done:?}");
    }
    let unknown = run("dead list --context nope").await.complained;
    assert_eq!(unknown, "error: expected one of the contexts `live`, `test`, found `nope`\n");

    let live = run("dead list --context live").await;
    assert!(
        live.code == Some(4) && live.complained.contains("cannot connect to NATS at nats://127.0.0.1:1"),
        "{live:?}"
    );
    let test = run("dead list --context test").await;
    let expected = format!("no `headrace up` runs on {}", dir.path().canonicalize().unwrap().join("data").display());
    assert!(test.code == Some(4) && test.complained.contains(&expected), "{test:?}");
    assert_eq!(run("context use live").await.code, Some(0));
    let listed = run("context list").await.said;
    assert!(listed.contains("* live  configuration ") && listed.contains("\n  test  data directory "), "{listed}");
    let used = run("dead list").await;
    assert!(used.complained.contains("cannot connect to NATS at nats://127.0.0.1:1"), "{used:?}");
    // A context is for commands that ask. `run` does not use it.
    let started = run("run pipeline").await;
    assert!(started.code == Some(2) && started.complained.contains("nats.url: "), "{started:?}");
    assert_eq!(run("context remove live").await.code, Some(0));
    let listed = run("context list --json").await.said;
    let left: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&left["name"], &left["current"]), (&json!("test"), &json!(false)));
}

#[tokio::test]
async fn a_context_without_a_server_asks_no_other_installation() {
    let dir = TempDir::new().unwrap();
    let own = dir.path().join("own");
    let of_person = ("HEADRACE_CONFIG_DIR", own.to_str().unwrap());
    let run = async |variables: &[(&str, &str)], arguments: &str| headrace(dir.path(), variables, arguments).await;
    std::fs::write(dir.path().join("up.toml"), "pipeline.lanes = 2\n").unwrap();
    assert_eq!(run(&[of_person], "context add live --config up.toml").await.code, Some(0));
    assert_eq!(run(&[of_person], "context use live").await.code, Some(0));
    for (variables, arguments, why) in [
        (vec![], "dead drop --all --yes --context live", "up.toml has no nats.url; add --data-dir"),
        (vec![], "dead drop --all --yes", "up.toml has no nats.url; add --data-dir"),
        (vec![("HEADRACE_CONTEXT", "live")], "gaps", "up.toml has no nats.url; add --data-dir"),
        (vec![], "query 1", "up.toml has no sinks.clickhouse.url; add --data-dir"),
        (vec![], "replay --since 1h", "up.toml has no nats.url; add --data-dir"),
        (vec![], "replay --since 1h --defaults", "--defaults does not read its configuration; add --data-dir"),
    ] {
        let variables = [vec![of_person], variables].concat();
        let refused = run(&variables, arguments).await;
        assert_eq!(refused.code, Some(2), "{arguments}: {refused:?}");
        let told = refused.complained.contains("context `live` names no server: ") && refused.complained.contains(why);
        assert!(told, "{arguments}: {refused:?}");
    }
    // A configuration that was named for once is completed by the `up` of the data directory.
    let away = run(&[of_person], "dead list --config up.toml").await;
    assert!(away.code == Some(4) && away.complained.contains("no `headrace up` runs on headrace-data"), "{away:?}");

    let by_hand = own.join("contexts.toml");
    std::fs::write(&by_hand, "[contexts.empty]\n").unwrap();
    std::fs::set_permissions(&by_hand, Permissions::from_mode(0o600)).unwrap();
    for arguments in ["dead drop --all --yes --context empty", "query 1 --context empty", "gaps --context empty"] {
        let refused = run(&[of_person], arguments).await;
        assert_eq!(refused.code, Some(2), "{arguments}: {refused:?}");
        assert!(refused.complained.contains("context `empty` names no server: it has neither"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_variable_for_a_server_overrides_no_named_installation() {
    let dir = TempDir::new().unwrap();
    let own = dir.path().join("own");
    let of_person = ("HEADRACE_CONFIG_DIR", own.to_str().unwrap());
    let run = async |variables: &[(&str, &str)], arguments: &str| headrace(dir.path(), variables, arguments).await;
    std::fs::write(dir.path().join("live.toml"), "nats.url = 'nats://127.0.0.1:2'\n").unwrap();
    assert_eq!(run(&[of_person], "context add live --config live.toml").await.code, Some(0));
    assert_eq!(run(&[of_person], "context add test --data-dir data").await.code, Some(0));
    let nats = ("HEADRACE__NATS__URL", "nats://127.0.0.1:1");
    let clickhouse = ("HEADRACE__SINKS__CLICKHOUSE__URL", "http://127.0.0.1:1");
    let table = ("HEADRACE__NATS", "{ url = 'nats://127.0.0.1:1' }");
    let of_data = ("HEADRACE_DATA_DIR", "data");
    for (variable, other, arguments, place) in [
        (nats, of_person, "dead drop --all --yes --data-dir data", "--data-dir"),
        (table, of_person, "gaps --data-dir data", "--data-dir"),
        (nats, of_person, "gaps --config live.toml --data-dir data", "--data-dir"),
        (clickhouse, of_person, "query 1 --data-dir data", "--data-dir"),
        (clickhouse, of_person, "replay --since 1h --defaults --data-dir data", "--data-dir"),
        (nats, of_data, "dead list", "$HEADRACE_DATA_DIR"),
        (nats, of_person, "dead list --context test", "the context `test`"),
        (nats, of_person, "dead list --context live", "the context `live`"),
    ] {
        let refused = run(&[variable, other], arguments).await;
        assert_eq!(refused.code, Some(2), "{arguments}: {refused:?}");
        let told = format!("found {} in the environment and {place}; unset the variable", variable.0);
        assert!(refused.complained.contains(&told), "{arguments}: {refused:?}");
    }
    // It overrides a configuration, and an empty one names nothing.
    for (variable, arguments, told) in [
        (nats, "dead list --config live.toml", "cannot connect to NATS at nats://127.0.0.1:1"),
        (nats, "dead list", "cannot connect to NATS at nats://127.0.0.1:1"),
        (("HEADRACE__NATS__URL", ""), "dead list --data-dir data", "no `headrace up` runs on data"),
    ] {
        let away = run(&[variable, of_person], arguments).await;
        assert!(away.code == Some(4) && away.complained.contains(told), "{arguments}: {away:?}");
    }
}

#[tokio::test]
async fn options_and_variables_set_the_amount_of_output_and_its_colours() {
    let dir = TempDir::new().unwrap();
    let none: &[(&str, &str)] = &[];
    let run = async |variables: &[(&str, &str)], arguments: &str| headrace(dir.path(), variables, arguments).await;
    std::fs::write(dir.path().join("headrace.toml"), "nats.url = 'nats://127.0.0.1:1'\n").unwrap();
    for (arguments, is_verbose) in [("dead list", false), ("dead list -v", true), ("-v dead list -q", false)] {
        let stderr = run(none, arguments).await.complained;
        assert_eq!(stderr.contains("using this installation"), is_verbose, "{arguments}: {stderr}");
    }
    let stderr = run(none, "dead list -v").await.complained;
    assert!(stderr.contains("headrace.toml"), "{stderr}");

    let force = ("CLICOLOR_FORCE", "1");
    for (variables, arguments, has_colours) in [
        (vec![], "--help", false),
        (vec![force], "--help", true),
        (vec![force, ("NO_COLOR", "1")], "--help", false),
        (vec![force], "--color never --help", false),
        (vec![], "--color always --help", true),
        (vec![("NO_COLOR", "1")], "--color always --help", true),
        (vec![], "--color always nonsense", true),
        (vec![], "nonsense", false),
    ] {
        let done = run(variables.as_slice(), arguments).await;
        let found = format!("{}{}", done.said, done.complained).contains('\u{1b}');
        assert_eq!(found, has_colours, "{variables:?} {arguments}: {done:?}");
    }
}

#[tokio::test]
async fn the_version_names_the_build() {
    let dir = TempDir::new().unwrap();
    let version = headrace(dir.path(), &[], "--version").await.said;
    // A debug build does not name its commit, because each commit would then rebuild every crate above it.
    let expected = format!("headrace {} (", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&expected) && version.ends_with(")\n"), "{version}");
}

#[tokio::test]
async fn completions_and_manual_pages_cover_every_command() {
    let dir = TempDir::new().unwrap();
    let run = async |arguments: &str| headrace(dir.path(), &[], arguments).await;
    let script = run("completions bash").await;
    assert!(script.code == Some(0) && script.said.contains("redrive"), "{}", script.complained);
    let page = run("man").await;
    assert!(page.code == Some(0) && page.said.contains(".TH headrace 1"), "{}", page.said);
    assert_eq!(run("man .").await.code, Some(0));
    assert!(dir.path().join("headrace-dead-redrive.1").exists());
    let nowhere = run("man nowhere").await;
    assert!(nowhere.code == Some(1) && nowhere.complained.contains("nowhere/headrace-"), "{nowhere:?}");
}

/// Runs `headrace` with these arguments, words without spaces, and a stdout whose reader is gone.
async fn into_closed_pipe(arguments: &str) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command_into(writer, PROGRAM, arguments.split_whitespace()).await
}

/// The same with a stdout on a full disk.
async fn into_full_disk(arguments: &str) -> Output {
    let full = File::options().write(true).open("/dev/full").unwrap();
    command_into(Stdio::from(full), PROGRAM, arguments.split_whitespace()).await
}

/// A closed pipe must leave the exit code `code` and what is on stderr. A full disk must be an error.
async fn checks_its_output(arguments: &str, code: i32) {
    let whole = command(PROGRAM, arguments.split_whitespace()).await;
    assert!(whole.status.code() == Some(code) && !whole.stdout.is_empty(), "{arguments}: {whole:?}");
    let closed = into_closed_pipe(arguments).await;
    let found = (closed.status.code(), complained(&closed));
    assert_eq!(found, (Some(code), complained(&whole)), "{arguments} into a closed pipe");
    let full = into_full_disk(arguments).await;
    let says = "error: cannot write to standard output: No space left on device";
    assert!(full.status.code() == Some(1) && complained(&full).starts_with(says), "{arguments}: {full:?}");
}

#[tokio::test]
async fn a_closed_pipe_changes_no_exit_code_and_a_full_disk_is_an_error() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, "nats.url = 'nats://127.0.0.1:1'\n").unwrap();
    let check = format!("check --role pipeline --config {}", config.display());
    for (arguments, code) in [
        ("config", 0),
        ("config --schema", 0),
        ("context list", 0),
        ("completions bash", 0),
        ("man", 0),
        ("--help", 0),
        ("dead list --help", 0),
        ("--version", 0),
        (check.as_str(), 4),
    ] {
        checks_its_output(arguments, code).await;
    }
}

#[tokio::test]
async fn a_full_standard_error_changes_no_exit_code() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, "[pipeline]\nchains = [['score']]\n").unwrap();
    for (arguments, code) in [
        (format!("dead list --data-dir {}", dir.path().join("data").display()), 4),
        ("context remove nowhere".to_owned(), 3),
        (format!("check --up --config {}", config.display()), 2),
        ("nonsense".to_owned(), 2),
    ] {
        let shell = format!("exec {PROGRAM} {arguments} 2> /dev/full");
        let done = command("/bin/sh", ["-c", shell.as_str()]).await;
        assert_eq!(done.status.code(), Some(code), "{arguments}: {done:?}");
    }
}

#[tokio::test]
async fn commands_that_ask_a_running_up_tell_the_same_without_a_reader() {
    let dir = TempDir::new().unwrap();
    let (script, body) = (dir.path().join("headrace"), dir.path().join("repository.json"));
    // This `up` has a full disk for a stdout, and goes on. A separate process writes the script: otherwise a child that
    // another test forks at that moment would keep it busy.
    let write = r#"printf '#!/bin/sh\nexec "%s" "$@" > /dev/full\n' "$1" > "$0" && chmod 755 "$0""#;
    let arguments = ["-c".as_ref(), write.as_ref(), script.as_os_str(), PROGRAM.as_ref()];
    assert!(command("/bin/sh", arguments).await.status.success());
    let publicized = json!({
        "action": "publicized",
        "repository": { "full_name": "acme/app", "private": false, "owner": { "login": "acme" } },
        "sender": { "login": "mona", "type": "User" },
    });
    std::fs::write(&body, publicized.to_string()).unwrap();
    let up = Launch::up(&script, dir.path()).start().await;
    let data = dir.path().join("data");
    let data = data.display();
    let send = format!("send {} --event repository --delivery {} --data-dir {data}", body.display(), guid());
    for (arguments, code) in [
        (send.clone(), 0),
        (format!("{send} --json"), 0),
        (format!("query --data-dir {data} SELECT(1)"), 0),
        (format!("dead list --data-dir {data}"), 0),
        (format!("dead list --counts --data-dir {data}"), 0),
        // No hook is configured, and the exit code tells so.
        (format!("gaps --data-dir {data}"), 1),
        (format!("gaps --json --data-dir {data}"), 1),
    ] {
        checks_its_output(&arguments, code).await;
    }
    let ended = up.interrupt().await;
    assert!(ended.success() && up.log().contains("cannot print the addresses"), "{ended}: {}", up.log());
}
