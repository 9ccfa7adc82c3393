//! Each role runs as a process of its own, with one configuration, on servers that run already.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headrace_local::install::{Installer, Silent};
use headrace_local::{clickhouse, nats, poll};
use headrace_tests::harness::CEILING;
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, Running, command, complained, said};
use headrace_tests::product::stored::Stored;
use serde_json::Value;
use tempfile::TempDir;

use super::PROGRAM;

pub(crate) const SECRET: &str = "a secret of many processes";

#[tokio::test]
async fn three_processes_share_one_configuration() {
    let dir = TempDir::new().unwrap();
    let (nats, clickhouse) = servers(dir.path()).await;
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, configuration(&nats.url(), &clickhouse.url(), dir.path())).unwrap();
    let checked = check(&config).await;
    assert_eq!(checked.0, Some(0), "{checked:?}");
    for (kind, url) in [("nats", nats.url()), ("clickhouse", clickhouse.url())] {
        assert!(checked.1.contains(&format!("ok      {kind} {url}\n")), "{checked:?}");
    }

    // All start at once on empty servers, and each creates what is missing.
    let start = async |role| Launch::run(PROGRAM, role, &config, dir.path()).start().await;
    let (ingest, pipeline, sinks) = tokio::join!(start("ingest"), start("pipeline"), start("sinks"));
    let gateway = ingest.ready().gateway.clone().unwrap();
    assert_eq!((&pipeline.ready().gateway, &sinks.ready().gateway), (&None, &None));
    let hook = Hook::new(format!("{gateway}/webhooks/github"), SECRET);
    for number in 0..20 {
        let body = format!(r#"{{"action":"created","organization":{{"login":"acme"}},"number":{number}}}"#);
        hook.store("team", &guid(), body).await;
    }
    let stored = Stored::of(ingest.ready()).await;
    for table in ["events", "raw"] {
        stored.until_count(&format!("SELECT uniqExact(id) FROM {table}"), 20).await;
        stored.until_count(&format!("SELECT count() FROM {table}"), 20).await;
    }
    for (process, component) in [(&pipeline, "normalize"), (&sinks, "clickhouse"), (&ingest, "ingest")] {
        let (_, metrics) = get(&format!("{}/metrics", process.ready().metrics)).await;
        let healthy = sample(&metrics, &format!("headrace_healthy{{component=\"{component}\"}}"));
        assert_eq!(healthy, Some(1.0), "{component}");
    }
    for process in [ingest, pipeline, sinks] {
        process.stop().await;
    }

    let url = clickhouse.url();
    clickhouse.stop().await;
    let (code, report, problem) = check(&config).await;
    assert_eq!(code, Some(4), "{report}{problem}");
    assert!(report.contains(&format!("ok      nats {}\n", nats.url())), "{report}");
    assert!(report.contains(&format!("failed  clickhouse {url}: ")), "{report}");
    assert!(problem.contains("1 of the servers above cannot be used"), "{problem}");
    let url = nats.url();
    nats.stop().await;
    let (code, report, _) = check(&config).await;
    assert_eq!(code, Some(4), "{report}");
    assert!(
        report.contains(&format!("failed  nats {url}: cannot connect to NATS at {url}; is it running")),
        "{report}"
    );
}

#[tokio::test]
async fn two_installations_do_not_write_one_database() {
    let [own, others] = [(); 2].map(|()| TempDir::new().unwrap());
    let (nats, clickhouse) = servers(own.path()).await;
    let other_nats = nats::start(nats_config(others.path()).await).await.unwrap();
    let configured = |dir: &TempDir, nats: &nats::Running| {
        let config = dir.path().join("headrace.toml");
        std::fs::write(&config, configuration(&nats.url(), &clickhouse.url(), dir.path())).unwrap();
        config
    };
    let configs = [configured(&own, &nats), configured(&others, &other_nats)];
    let start = async |config: &Path, dir: &TempDir| Launch::run(PROGRAM, "sinks", config, dir.path()).start().await;
    let state = async |running: &Running| {
        let (_, ready) = get(&format!("{}/readyz", running.ready().metrics)).await;
        serde_json::from_str::<Value>(&ready).unwrap()["components"]["clickhouse"].clone()
    };
    let until = async |what: &str, running: &Running| {
        let is_so = async || Some(state(running).await).filter(|state| state["state"] == what);
        let waited = poll::until(what, CEILING, is_so).await;
        waited.unwrap_or_else(|error| panic!("{error}: {}", running.log()))
    };
    // Its processes begin in turn, and all are of one installation.
    for _ in 0..2 {
        let first = start(&configs[0], &own).await;
        until("healthy", &first).await;
        first.stop().await;
    }
    let second = start(&configs[1], &others).await;
    let why = until("broken", &second).await["why"].to_string();
    assert!(why.contains("only this installation") && why.contains("`DROP TABLE headrace.owner`"), "{why}");
    for (config, code) in configs.iter().zip([0, 1]) {
        let (found, report, problem) = check_with(config, &["--migrate"]).await;
        assert_eq!(found, Some(code), "{report}{problem}");
        assert_eq!(report.contains("of the installation"), code == 1, "{report}");
    }
    // A person gives the database to the other, which goes on by itself.
    let sql = "DROP TABLE headrace.owner SYNC";
    let arguments = ["query".as_ref(), "--write".as_ref(), sql.as_ref(), "--config".as_ref(), configs[1].as_os_str()];
    let dropped = command(PROGRAM, arguments).await;
    assert!(dropped.status.success(), "{}", complained(&dropped));
    until("healthy", &second).await;
    second.stop().await;
}

#[tokio::test]
async fn a_github_that_cannot_be_reached_is_away_to_check_as_other_servers_are() {
    let of = async |api_url: &str, told: &[&str]| {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("headrace.toml");
        let servers = configuration("nats://127.0.0.1:1", "http://127.0.0.1:1", dir.path());
        let hook = "[[recover.hooks]]\nkind = 'organization'\norganization = 'acme'\nhook_id = 7\ntoken = 't'\n";
        std::fs::write(&config, format!("{servers}[recover]\napi_url = '{api_url}'\n{hook}")).unwrap();
        let (code, report, problem) = check(&config).await;
        assert_eq!(code, Some(4), "{report}{problem}");
        assert!(told.iter().any(|told| report.contains(told)), "{report}");
    };
    // Nobody listens there, and no such name is ever known. Who asks for names may be slow to say so.
    let unreached = ": cannot reach GitHub: ";
    let (refused, unknown) = ([unreached], [unreached, "no answer within"]);
    tokio::join!(of("http://127.0.0.1:1", &refused), of("http://github.invalid", &unknown));
}

/// Exit code, stdout and stderr of `headrace check`.
pub(crate) async fn check(config: &Path) -> (Option<i32>, String, String) {
    check_with(config, &[]).await
}

async fn check_with(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let arguments = ["check".as_ref(), "--config".as_ref(), config.as_os_str()];
    let output = command(PROGRAM, arguments.into_iter().chain(more.iter().map(AsRef::as_ref))).await;
    (output.status.code(), said(&output), complained(&output))
}

async fn servers(dir: &Path) -> (nats::Running, clickhouse::Running) {
    servers_with(dir, &[]).await
}

/// Starts NATS, and ClickHouse with these arguments added.
pub(crate) async fn servers_with(dir: &Path, more: &[&str]) -> (nats::Running, clickhouse::Running) {
    let install = || Installer::for_user(Arc::new(Silent))?.clickhouse_library();
    let library = tokio::task::spawn_blocking(install).await.unwrap().unwrap();
    let mut arguments = vec!["clickhouse".into(), "--library".into(), library.into()];
    arguments.extend(more.iter().map(Into::into));
    let mut config = clickhouse::Config::new(PROGRAM, arguments, dir.join("clickhouse"));
    config.restart.grace = Duration::from_secs(60);
    let (nats, clickhouse) = tokio::join!(nats::start(nats_config(dir).await), clickhouse::start(config));
    (nats.unwrap(), clickhouse.unwrap())
}

async fn nats_config(dir: &Path) -> nats::Config {
    let install = || Installer::for_user(Arc::new(Silent))?.nats_server();
    let program = tokio::task::spawn_blocking(install).await.unwrap().unwrap();
    nats::Config::new(program, dir.join("nats"))
}

pub(crate) fn configuration(nats: &str, clickhouse: &str, dir: &Path) -> String {
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

[sinks.clickhouse]
url = "{clickhouse}"

[sinks.file]
dir = "{out}"
"#,
        out = dir.join("out").display(),
    )
}

#[tokio::test]
async fn the_printed_reference_is_a_valid_configuration() {
    let printed = command(PROGRAM, ["config"]).await;
    assert!(printed.status.success());
    // Give it the settings that have no default. Then only the servers are missing.
    let text = said(&printed).replacen("\n#nats.url = \"\"\n", "\nnats.url = \"nats://127.0.0.1:1\"\n", 1);
    let text = text.replacen("\n#ingest.github.secrets = ", "\ningest.github.secrets = [\"one\"] #", 1);
    let table: toml::Table = text.parse().unwrap();
    assert!(table.contains_key("ingest") && table.contains_key("nats") && table.len() == 2, "{table:?}");

    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, text).unwrap();
    let (code, report, problem) = check(&config).await;
    assert_eq!(code, Some(4), "{report}{problem}");
    let expected = format!("ok      configuration {}\nfailed  nats nats://127.0.0.1:1: ", config.display());
    assert!(report.starts_with(&expected), "{report}{problem}");
}

#[tokio::test]
async fn config_prints_a_json_schema_for_editors() {
    let printed = command(PROGRAM, ["config", "--schema"]).await;
    assert!(printed.status.success());
    let schema: serde_json::Value = serde_json::from_str(&said(&printed)).unwrap();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    assert!(schema["properties"]["pipeline"].is_object(), "{schema}");
}

#[tokio::test]
async fn the_help_of_every_command_has_an_example() {
    let help = said(&command(PROGRAM, ["--help"]).await);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // The further lines of a long description are indented more.
    let names: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(names.contains(&"up") && names.contains(&"run"), "{names:?}");
    for name in names {
        let output = command(PROGRAM, [name, "--help"]).await;
        assert!(output.status.success(), "{name}");
        let help = said(&output);
        assert!(help.contains("Example") && help.contains(&format!("\n  headrace {name}")), "{name}: {help}");
        assert!(help.contains("Exit codes: 0 "), "{name}: {help}");
    }
}
