//! What the whole configuration accepts and refuses, and what its reference shows.

mod instances;

use std::time::Duration;

use headrace_local::nats::SyncInterval;
use headrace_settings::{Document, Loaded, Origin, Problems, Variables, reference};
use headrace_sinks::jira;

use super::{Config, Local, PREFIX, load};
use crate::role::Role;

fn load_text(text: &str) -> Result<Loaded<Config>, Problems> {
    let document = Document { name: "headrace.toml", text };
    headrace_settings::load(Some(document), &Variables::default(), |_| Vec::new())
}

fn read(text: &str) -> Loaded<Config> {
    load_text(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

/// The lines of a reference that are settings, without their `#`.
fn settings(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    lines.filter(|line| !line.is_empty() && !line.starts_with(' ')).collect()
}

#[test]
fn the_reference_is_a_configuration_with_every_setting() {
    let reference = reference::<Config>(PREFIX);
    assert_eq!(format!("{:?}", read(&reference).value), format!("{:?}", Config::default()));
    for setting in
        ["listen", "secrets", "chains", "by_login", "assets", "rules_dirs", "window_minutes", "batch_events_max"]
    {
        assert!(reference.contains(setting), "{setting} is not in the reference:\n{reference}");
    }
}

#[test]
fn every_line_of_the_reference_may_be_uncommented_by_itself_and_sets_nothing_else() {
    let text = reference::<Config>(PREFIX);
    let path = |line: &str| line.split_once(" = ").unwrap().0.to_owned();
    let paths: Vec<String> = settings(&text).into_iter().map(path).collect();
    for (line, own) in settings(&text).into_iter().zip(&paths) {
        let loaded = read(line);
        let set: Vec<&String> = paths.iter().filter(|path| loaded.locate(path) != Origin::Default).collect();
        assert_eq!(set, [own], "{line}");
    }
}

#[test]
fn the_lines_of_the_reference_may_be_uncommented_together_in_any_order() {
    let text = reference::<Config>(PREFIX);
    let mut lines = settings(&text);
    assert!(lines.len() > 90, "{lines:?}");
    read(&lines.join("\n"));
    lines.reverse();
    read(&lines.join("\n"));
    // Sort by the last letters, so that lines of one table are no longer together.
    lines.sort_by_key(|line| line.chars().rev().collect::<String>());
    let config = read(&lines.join("\n")).value;
    assert_eq!(config.streams.events.max_age_hours, 72);
    // The examples in lists must be valid, because people copy them.
    assert_eq!(config.recover.as_ref().map(|recover| recover.validate("recover")), Some(Vec::new()));
    assert_eq!(config.ingest.github.scoped[0].organization.as_deref(), Some("acme"));
    assert!(config.pipeline.enrich.validate("enrich").is_empty());
    assert!(config.recover.is_some() && config.sinks.first::<jira::Config>().is_some());
}

#[test]
fn nats_syncs_every_second_unless_told_otherwise() {
    let local = |text: &str| read(text).value.local;
    assert_eq!(local("").sync_interval(), SyncInterval::Every(Duration::from_secs(1)));
    assert_eq!(local("local.sync_interval_ms = 0").sync_interval(), SyncInterval::Always);
    for (sync_interval_ms, refused) in [(0, false), (99, true), (1, true), (100, false), (120_000, false)] {
        let local = Local { sync_interval_ms, ..Local::default() };
        let problems = Config { local, ..Config::default() }.validate(&[]);
        let found = problems.iter().any(|problem| problem.path == "local.sync_interval_ms");
        assert_eq!(found, refused, "{sync_interval_ms}");
    }
}

#[test]
fn a_filter_of_the_log_that_cannot_be_read_is_a_wrong_value() {
    let told = |filter: &str| -> Vec<String> {
        let problems = read(&format!("log.filter = '{filter}'")).value.validate_shared().into_iter();
        problems.filter(|problem| problem.path == "log.filter").map(|problem| problem.message).collect()
    };
    for filter in ["info", "", "off", "info,headrace_ingest=debug", "warn,headrace_sinks[deliver]=trace"] {
        assert_eq!(told(filter), [""; 0], "{filter}");
    }
    for filter in ["(((", "info,headrace_ingest=loud"] {
        let [message] = told(filter).try_into().unwrap();
        let expected = "expected a filter such as `info,headrace_ingest=debug`, found `";
        assert!(message.starts_with(&format!("{expected}{filter}`: ")), "{message}");
    }
}

#[test]
fn an_address_that_cannot_be_read_is_told_with_all_else_and_its_default() {
    let text = "ingest.listen = '127.0.0.1:99999'\nadmin.listen = 'localhost'\nlocal.sync_interval_ms = 1\n";
    let document = Document { name: "headrace.toml", text };
    let values = |config: &Config| super::told(config.validate(&[Role::Ingest]));
    let problems = headrace_settings::load(Some(document), &Variables::default(), values).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told[..2],
        [
            "headrace.toml:1:17: ingest.listen: invalid socket address syntax; the default is \"127.0.0.1:8080\"",
            "headrace.toml:2:16: admin.listen: invalid socket address syntax; the default is \"127.0.0.1:9464\"",
        ]
    );
    for path in ["local.sync_interval_ms", "nats.url", "ingest.github.secrets"] {
        assert!(problems.iter().any(|problem| problem.path == path), "{path}: {told:?}");
    }
}

#[test]
fn a_folder_of_records_in_which_a_sink_writes_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("in");
    std::fs::create_dir(&folder).unwrap();
    let told_of = |dir: &std::path::Path, folders: &str| -> Vec<String> {
        let (folder, dir) = (folder.display(), dir.display());
        let text = format!(
            "[ingest.ndjson.folder]\nurl = '{folder}'\n[sinks.copy]\nkind = 'file'\ndir = '{dir}'\nfolders = {folders}"
        );
        let problems = read(&text).value.validate_shared().into_iter();
        problems.filter(|problem| problem.path.ends_with("folder.url")).map(|problem| problem.message).collect()
    };
    let told = |dir: &std::path::Path| told_of(dir, "[]");
    assert_eq!(told(&parent.path().join("out")), [""; 0]);
    // It is not there yet.
    let [message] = told(&folder.join("below/out")).try_into().unwrap();
    assert!(message.contains("which holds what `sinks.copy` writes"), "{message}");
    // The folder could be that of a tenant.
    assert_eq!((told(parent.path()).len(), told_of(parent.path(), "['tenant']").len()), (0, 1));
}

#[test]
fn numbers_that_bound_each_other_are_compared() {
    let told = |text: &str| -> Vec<String> {
        let config = read(&format!("nats.url = 'nats://a'\ningest.github.secrets = ['one']\n{text}")).value;
        let problems = config.validate(&[Role::Ingest]).into_iter();
        problems.map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
    };
    assert!(told("retry = { backoff_min_ms = 5, backoff_max_ms = 5 }").is_empty());
    assert_eq!(
        told("retry = { backoff_min_ms = 5, backoff_max_ms = 4 }"),
        ["retry.backoff_max_ms: expected no less than `retry.backoff_min_ms` (5), found 4"]
    );
    assert!(told("ingest.body_max_bytes = 9\ningest.in_flight_max_bytes = 9").is_empty());
    assert_eq!(
        told("ingest.body_max_bytes = 9\ningest.in_flight_max_bytes = 8"),
        ["ingest.in_flight_max_bytes: expected no less than `body_max_bytes` (9), found 8"]
    );
}

#[test]
fn who_connects_to_nats_is_said_once_and_verifying_needs_secrets() {
    let paths = |text: &str| -> Vec<String> {
        let text = format!("nats.url = 'nats://a'\n{text}");
        read(&text).value.validate(&[Role::Pipeline]).into_iter().map(|problem| problem.path).collect()
    };
    assert!(paths("nats.users_dir = '/run/nats'").is_empty());
    assert_eq!(paths("nats.users_dir = '/run/nats'\nnats.user = 'ingest'"), ["nats.users_dir"]);
    assert_eq!(paths("nats.users_dir = '/run/nats'\nnats.token = 't'"), ["nats.users_dir"]);
    assert!(paths("nats.inbox_prefix = '_INBOX.ingest-1'").is_empty());
    for prefix in ["", "_INBOX.", "_INBOX.>", "a b"] {
        assert_eq!(paths(&format!("nats.inbox_prefix = '{prefix}'")), ["nats.inbox_prefix"]);
    }
    assert_eq!(paths("pipeline.verify = true"), ["ingest.github.secrets"]);
    assert!(paths("pipeline.verify = true\ningest.github.secrets = ['one']").is_empty());
}

#[test]
fn a_ca_file_of_nats_that_cannot_be_used_is_a_wrong_value() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    for url in ["tls://a", "nats://a"] {
        for (name, told) in [("absent.pem", "cannot read the CA certificate "), ("empty.pem", "found none in ")] {
            let path = dir.path().join(name).display().to_string();
            let text = format!("nats.url = '{url}'\nnats.ca_path = '{path}'\n");
            let problems = read(&text).value.validate(&[Role::Pipeline]);
            let [problem] = problems.as_slice() else { panic!("expected one problem, found {problems:?}") };
            assert_eq!(problem.path, "nats.ca_path");
            assert!(problem.message.contains(told) && problem.message.contains(&path), "{}", problem.message);
        }
    }
}

#[test]
fn credentials_of_nats_that_are_not_there_are_a_wrong_value() {
    let dir = tempfile::tempdir().unwrap();
    let problems = |path: &std::path::Path| {
        let text = format!("nats.url = 'nats://a'\nnats.credentials_path = '{}'\n", path.display());
        read(&text).value.validate(&[Role::Pipeline])
    };
    let path = dir.path().join("headrace.creds");
    for (path, told) in [(path.as_path(), "cannot read "), (dir.path(), " is no regular file")] {
        let [problem] = problems(path).try_into().unwrap();
        assert_eq!(problem.path, "nats.credentials_path");
        let shown = path.display().to_string();
        assert!(problem.message.contains(told) && problem.message.contains(&shown), "{}", problem.message);
    }
    std::fs::write(&path, "").unwrap();
    assert_eq!(problems(&path), []);
}

#[test]
fn problems_of_form_and_of_value_are_shown_together() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("headrace.toml");
    let text =
        "[ingest]\nanswer_max_ms = 9000\nlisten = 5\n[pipelin]\n[pipeline]\nlanes = 0\n[shutdown]\ngrace_s = \"x\"\n";
    std::fs::write(&path, text).unwrap();
    let problems = load(Some(&path), |config| config.validate(&[Role::Ingest, Role::Pipeline])).unwrap_err();
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "ingest.answer_max_ms",
            "ingest.listen",
            "pipelin",
            "pipeline.lanes",
            "shutdown.grace_s",
            "nats.url",
            "ingest.github.secrets"
        ],
        "{problems}"
    );
}

#[test]
fn limits_may_be_given_in_part() {
    let streams = read("[streams.events]\nmax_bytes = 1048576\n").value.streams;
    assert_eq!((streams.events.max_age_hours, streams.events.max_bytes), (72, 1 << 20));
    assert_eq!(streams.raw.max_bytes, 10 << 30);
    assert!(reference::<Config>(PREFIX).contains("\n#streams.events.max_age_hours = 72\n"));
}

#[test]
fn the_defaults_lack_only_what_nobody_can_guess() {
    let paths: Vec<String> = Config::default()
        .validate(&[Role::Ingest, Role::Pipeline, Role::Sinks])
        .into_iter()
        .map(|problem| problem.path)
        .collect();
    assert_eq!(paths, ["nats.url", "ingest.github.secrets"]);
}

#[test]
fn recovery_needs_the_permanent_record() {
    let text = "[recover]\n[[recover.hooks]]\nkind = 'organization'\norganization = 'acme'\nhook_id = 7\ntoken = 't'\n";
    let paths = |text: &str, roles: &[Role]| -> Vec<String> {
        read(text).value.validate(roles).into_iter().map(|problem| problem.path).collect()
    };
    assert_eq!(paths(text, &[Role::Recover]), ["nats.url", "sinks.clickhouse"]);
    let with_sink = format!("{text}[sinks.clickhouse]\n");
    assert_eq!(paths(&with_sink, &[Role::Recover]), ["nats.url", "sinks.clickhouse.url"]);
    assert_eq!(paths(&with_sink, &[Role::Sinks, Role::Recover]), ["nats.url", "sinks.clickhouse.url"]);
    assert_eq!(paths("", &[Role::Recover]), ["nats.url", "recover"]);
    assert_eq!(paths("", &[Role::Collect]), ["nats.url", "ingest"]);
    assert_eq!(paths("", &[Role::Collect, Role::Sinks]), ["nats.url"]);
    assert_eq!(paths("", &[Role::Sinks, Role::Recover]), ["nats.url"]);
}

#[test]
fn the_duplicate_window_is_longer_than_clocks_may_differ() {
    let paths = |window_s: u64, clock_skew_ms: u64| -> Vec<String> {
        let text = format!(
            "nats.url = 'nats://a'\nnats.clock_skew_ms = {clock_skew_ms}\nstreams.duplicate_window_s = {window_s}\n"
        );
        read(&text).value.validate(&[]).into_iter().map(|problem| problem.path).collect()
    };
    for (window_s, clock_skew_ms, refused) in [
        (120, 2_000, false),
        (8, 2_000, false),
        (7, 2_000, true),
        (2, 500, false),
        (239, 60_000, true),
        (240, 60_000, false),
    ] {
        assert_eq!(paths(window_s, clock_skew_ms).is_empty(), !refused, "{window_s} s, {clock_skew_ms} ms");
    }
}

#[test]
fn what_each_source_takes_in_is_known_to_normalize() {
    let mut sources = headrace_ingest::sources::SOURCES.map(|source| source.name());
    let mut known = headrace_stages::normalize::SOURCES.map(|(source, _)| source);
    sources.sort_unstable();
    known.sort_unstable();
    assert_eq!(sources, known);
}
