//! Each role runs as a process of its own, with one configuration, on servers that run already.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headrace_local::install::{Installer, Silent};
use headrace_local::{clickhouse, nats};
use headrace_tests::product::admin::{get, sample};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, command, complained, said};
use headrace_tests::product::stored::Stored;
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

/// Exit code, stdout and stderr of `headrace check`.
pub(crate) async fn check(config: &Path) -> (Option<i32>, String, String) {
    let output = command(PROGRAM, ["check".as_ref(), "--config".as_ref(), config.as_os_str()]).await;
    (output.status.code(), said(&output), complained(&output))
}

async fn servers(dir: &Path) -> (nats::Running, clickhouse::Running) {
    servers_with(dir, &[]).await
}

/// Starts NATS, and ClickHouse with these arguments added.
pub(crate) async fn servers_with(dir: &Path, more: &[&str]) -> (nats::Running, clickhouse::Running) {
    let install = || -> Result<(PathBuf, PathBuf), headrace_local::install::Error> {
        let installer = Installer::for_user(Arc::new(Silent))?;
        Ok((installer.nats_server()?, installer.clickhouse_library()?))
    };
    let (program, library) = tokio::task::spawn_blocking(install).await.unwrap().unwrap();
    let mut arguments = vec!["clickhouse".into(), "--library".into(), library.into()];
    arguments.extend(more.iter().map(Into::into));
    let mut config = clickhouse::Config::new(PROGRAM, arguments, dir.join("clickhouse"));
    config.restart.grace = Duration::from_secs(60);
    let (nats, clickhouse) =
        tokio::join!(nats::start(nats::Config::new(program, dir.join("nats"))), clickhouse::start(config));
    (nats.unwrap(), clickhouse.unwrap())
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
