//! Names, components and selections of instances.

use super::*;

fn read(text: &str) -> Sinks {
    serde_json::from_str(text).unwrap()
}

fn problems(text: &str) -> Vec<String> {
    let problems = read(text).validate("sinks", &["alert", "normalize", "subscriber"]).into_iter();
    problems.map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
}

#[test]
fn components_have_the_names_of_their_instance() {
    let names =
        |text: &str| -> Vec<String> { read(text).components().into_iter().map(|component| component.name).collect() };
    let usual: Vec<String> = usual_components().into_iter().map(|component| component.name).collect();
    assert_eq!(usual, ["clickhouse", "clickhouse-raw", "file-events", "file-alerts", "jira", "splunk"]);
    let text = r#"{ "splunk": {}, "splunk_dr": { "kind": "splunk" }, "copy": { "kind": "file", "dir": "a" } }"#;
    assert_eq!(names(text), ["copy-events", "copy-alerts", "splunk", "splunk_dr"]);
}

fn parts_of(instance: &Instance) -> anyhow::Result<Vec<(Component, Part)>> {
    instance.parts("")
}

#[test]
fn what_is_built_is_what_is_declared() {
    let text = r#"{
        "clickhouse": { "url": "http://127.0.0.1:1" }, "file": { "dir": "a" },
        "jira": { "url": "http://127.0.0.1:1" }, "splunk": { "url": "http://127.0.0.1:1", "token": "t" }
    }"#;
    let sinks = read(text);
    assert_eq!(sinks.iter().count(), KINDS.len(), "add the new kind here");
    for instance in sinks.iter() {
        parts_of(instance).unwrap();
    }
}

#[test]
fn a_name_is_plain_and_nobody_elses() {
    let named = |name: &str| problems(&format!(r#"{{ "{name}": {{ "kind": "file", "dir": "a" }} }}"#));
    for name in ["a", "copy_2", &"a".repeat(32)] {
        assert_eq!(named(name), [""; 0], "{name}");
    }
    for name in ["", "2nd", "_a", "Copy", "copy-2", "a b", "é", &"a".repeat(33)] {
        let [problem] = named(name).try_into().unwrap();
        assert!(problem.contains("expected a name of at most 32 bytes"), "{name}: {problem}");
    }
    let [problem] = named("jira").try_into().unwrap();
    assert!(problem.starts_with("sinks.jira: expected the kind `jira`, found `file`"), "{problem}");
    for name in ["alert", "subscriber"] {
        let text = format!(r#"{{ "{name}": {{ "kind": "splunk", "url": "http://a", "token": "t" }} }}"#);
        let [problem] = problems(&text).try_into().unwrap();
        assert!(problem.starts_with(&format!("sinks.{name}: expected another name")), "{problem}");
    }
}

#[test]
fn two_instances_do_not_write_to_one_place() {
    let files = r#"{ "file": { "dir": "a" }, "more": { "kind": "file", "dir": "a" } }"#;
    assert_eq!(problems(files), ["sinks.more.dir: expected another one than that of `sinks.file`, found the same"]);
    let url = "http://127.0.0.1:1";
    let stores = |database: &str| {
        problems(&format!(
            r#"{{ "clickhouse": {{ "url": "{url}" }},
                 "copy": {{ "kind": "clickhouse", "url": "{url}", "database": "{database}" }} }}"#
        ))
    };
    assert_eq!(stores("headrace").len(), 1);
    assert_eq!(stores("copy"), [""; 0]);
    let spelt = |one: &str, other: &str| {
        problems(&format!(
            r#"{{ "clickhouse": {{ "url": "{one}" }}, "copy": {{ "kind": "clickhouse", "url": "{other}" }} }}"#
        ))
    };
    for (one, other, are_one) in [
        ("http://localhost:8123", "http://127.0.0.1:8123", true),
        ("http://localhost:8123", "http://[::1]:8123/", true),
        ("http://a:8123", "http://reader:secret@A:8123/", true),
        ("http://a.", "http://a:80", true),
        ("https://a/below/", "https://a:443/below", true),
        ("http://a:8123", "http://b:8123", false),
        ("http://a:8123", "http://a:8124", false),
        ("http://a/one", "http://a/other", false),
    ] {
        assert_eq!(spelt(one, other).len(), usize::from(are_one), "{one} {other}");
    }
}

#[test]
fn up_adds_files_only_where_no_receiver_was_chosen() {
    let names = |text: &str| -> Vec<String> {
        let mut sinks = read(text);
        sinks.complete_for_up(Path::new("data"));
        sinks.iter().map(|instance| instance.name().to_owned()).collect()
    };
    assert_eq!(names("{}"), ["clickhouse", "file"]);
    assert_eq!(names(r#"{ "splunk": {} }"#), ["clickhouse", "splunk"]);
    assert_eq!(names(r#"{ "tickets": { "kind": "jira" } }"#), ["clickhouse", "tickets"]);
    assert_eq!(names(r#"{ "copy": { "kind": "clickhouse" } }"#), ["clickhouse", "copy", "file"]);
}

#[test]
fn a_selection_becomes_the_filters_of_each_consumer() {
    let filters = |text: &str| -> Vec<Vec<String>> {
        let sinks = read(text);
        assert!(sinks.validate("sinks", &[]).is_empty(), "{text}: {:?}", sinks.validate("sinks", &[]));
        let parts = sinks.iter().flat_map(|instance| parts_of(instance).unwrap());
        parts.map(|(_, part)| part.options.filters).collect()
    };
    let file = |more: &str| filters(&format!(r#"{{ "file": {{ "dir": "a"{more} }} }}"#));
    assert_eq!(file(""), [["events.scored.>"], ["alerts.>"]]);
    let high = file(r#", "min_severity": "high", "tenants": ["Acme"]"#);
    assert_eq!(high[0], ["events.scored.acme.*.critical", "events.scored.acme.*.high"]);
    assert_eq!(high[1], ["alerts.acme.critical.*", "alerts.acme.high.*"]);
    assert_eq!(file(r#", "min_severity": "high", "severities": ["low"]"#)[1], ["alerts.*.low.*"]);
    let store = r#"{ "copy": { "kind": "clickhouse", "url": "http://127.0.0.1:1", "tenants": ["acme"] } }"#;
    assert_eq!(filters(store), [["events.scored.acme.*.*"], ["raw.acme.>"]]);
    let jira = r#"{ "jira": { "url": "https://a", "email": "a@b", "api_token": "t", "project": "SEC" } }"#;
    assert_eq!(filters(jira), [["alerts.*.critical.*", "alerts.*.high.*"]]);
}

#[test]
fn a_tenant_is_selected_by_its_name_whatever_the_name() {
    use headrace_schemas::subject;
    use headrace_schemas::token::of_tenant;
    use headrace_tests::harness::samples::Sample as _;
    let mut event = headrace_schemas::event::Event::sample(1);
    for name in ["acme", "Corp EU", "mona_dev", "a_2eb", "none", "", &"a".repeat(128)] {
        let text =
            serde_json::json!({ "copy": { "kind": "splunk", "url": "http://a", "token": "t", "tenants": [name] } });
        let (_, part) = parts_of(read(&text.to_string()).iter().next().unwrap()).unwrap().remove(0);
        event.tenant = of_tenant(name);
        let mut other = event.clone();
        other.tenant = of_tenant(&event.tenant);
        let subject = subject::scored(&event.tenant, event.category, event.severity());
        let filter = format!("events.scored.{}.*.*", subject::tenant_of(&subject));
        assert_eq!(part.options.filters, [filter], "{name}");
        let crate::kind::AnySink::Events(sink) = part.sink else { panic!("Splunk takes events") };
        let wants = |event| headrace_runtime::component::sink::Sink::wants(&sink, event);
        assert!(wants(&event), "{name}");
        assert_eq!(wants(&other), name == "acme", "{name}: a tenant with the name that is its token");
    }
}

#[test]
fn a_selection_that_subjects_cannot_say_is_refused() {
    let paths = |text: &str| -> Vec<String> {
        read(text).validate("sinks", &[]).into_iter().map(|problem| problem.path).collect()
    };
    let url = r#""url": "http://127.0.0.1:1""#;
    assert_eq!(paths(r#"{ "file": { "dir": "a", "categories": ["code"] } }"#), ["sinks.file.categories"]);
    let copy = format!(r#"{{ "copy": {{ "kind": "clickhouse", {url}, "min_severity": "low" }} }}"#);
    assert_eq!(paths(&copy), ["sinks.copy.min_severity"]);
    let own = format!(r#"{{ "clickhouse": {{ {url}, "tenants": ["acme"] }} }}"#);
    assert_eq!(paths(&own), ["sinks.clickhouse.tenants"]);
    let tenants = |count: usize| {
        let tenants: Vec<String> = (0..count).map(|number| format!("tenant-{number}")).collect();
        let tenants = serde_json::to_string(&tenants).unwrap();
        problems(&format!(
            r#"{{ "splunk": {{ {url}, "token": "t", "severities": ["high", "critical"], "tenants": {tenants} }} }}"#
        ))
    };
    assert_eq!(tenants(32), [""; 0]);
    let [problem] = tenants(33).try_into().unwrap();
    assert!(problem.starts_with("sinks.splunk: expected at most 64 combinations") && problem.contains("found 66"));
}

#[test]
fn what_passes_another_configurations_filters_is_looked_at_again() {
    use headrace_tests::harness::samples::Sample as _;
    let text = r#"{ "splunk": { "url": "http://127.0.0.1:1", "token": "t", "categories": ["audit"] } }"#;
    let only = r#"{ "splunk": { "url": "http://127.0.0.1:1", "token": "t", "only": "category == 'audit'" } }"#;
    let event = headrace_schemas::event::Event::sample(1);
    let own = |text: &str| text.replace("audit", event.category.as_str());
    for (text, wanted) in [(text.to_owned(), false), (own(text), true), (only.to_owned(), false), (own(only), true)] {
        let sinks = read(&text);
        let (_, part) = parts_of(sinks.iter().next().unwrap()).unwrap().remove(0);
        let crate::kind::AnySink::Events(sink) = part.sink else { panic!("Splunk takes events") };
        assert_eq!(headrace_runtime::component::sink::Sink::wants(&sink, &event), wanted, "{text}");
    }
}

#[test]
fn calls_are_repeated_and_limited_as_the_instance_says_and_else_as_all() {
    use std::time::Duration;
    let terms = |text: &str| {
        let sinks = read(&format!(r#"{{ "splunk": {{ "url": "http://127.0.0.1:1", "token": "t"{text} }} }}"#));
        assert!(sinks.validate("sinks", &[]).is_empty(), "{text}: {:?}", sinks.validate("sinks", &[]));
        let instance = sinks.iter().next().unwrap();
        (instance.terms(&Retry::default()), parts_of(instance).unwrap()[0].1.options.workers)
    };
    let ms = Duration::from_millis;
    let (usual, workers) = terms("");
    assert_eq!((usual.retry, workers), (Retry::default().policy(), 2));
    let breaker = usual.limits.breaker;
    assert_eq!((breaker.failures_max, breaker.open), (5, usual.retry.backoff_max));
    assert_eq!((usual.limits.rate.per_call, usual.limits.rate.per_event), (Duration::ZERO, Duration::ZERO));

    let (own, workers) = terms(
        r#", "concurrency": 7, "retry": { "backoff_max_ms": 7000, "retry_after_max_s": 9 },
             "rate": { "calls_per_minute": 30, "events_per_s": 500 }, "breaker": { "failures_max": 2 }"#,
    );
    assert_eq!((own.retry.backoff_max, own.retry.retry_after_max, workers), (ms(7_000), ms(9_000), 7));
    assert_eq!((own.retry.attempts_max, own.retry.backoff_min), (usual.retry.attempts_max, usual.retry.backoff_min));
    assert_eq!((own.limits.breaker.failures_max, own.limits.breaker.open), (2, ms(7_000)));
    assert_eq!((own.limits.rate.per_call, own.limits.rate.per_event), (ms(2_000), ms(2)));
    assert_eq!(terms(r#", "breaker": { "open_ms": 5 }"#).0.limits.breaker.open, ms(5));
}

#[test]
fn settings_of_calls_that_do_not_fit_are_refused() {
    for kind in ["clickhouse", "file", "jira"] {
        let found = problems(&format!(r#"{{ "{kind}": {{ "concurrency": 2 }} }}"#));
        let told = |problem: &String| problem.starts_with(&format!("sinks.{kind}.concurrency: expected 1, because "));
        assert_eq!(found.iter().filter(|problem| told(problem)).count(), 1, "{found:?}");
    }
    let wrong = |text: &str| -> Vec<String> {
        let problems = read(text).validate_retry("sinks", &Retry::default()).into_iter();
        problems.map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
    };
    assert_eq!(wrong(r#"{ "splunk": { "retry": { "backoff_max_ms": 500 } } }"#), [""; 0]);
    for (own, told) in [
        (
            r#"{ "backoff_max_ms": 499 }"#,
            "sinks.splunk.retry.backoff_max_ms: expected no less than `retry.backoff_min_ms` (500), found 499",
        ),
        (
            r#"{ "backoff_min_ms": 9, "backoff_max_ms": 8 }"#,
            "sinks.splunk.retry.backoff_max_ms: expected no less than `sinks.splunk.retry.backoff_min_ms` (9), found 8",
        ),
        (
            r#"{ "backoff_min_ms": 60001 }"#,
            "sinks.splunk.retry.backoff_min_ms: expected no more than `retry.backoff_max_ms` (60000), found 60001",
        ),
    ] {
        assert_eq!(wrong(&format!(r#"{{ "splunk": {{ "retry": {own} }} }}"#)), [told]);
    }
    assert!(serde_json::from_str::<Sinks>(r#"{ "splunk": { "rate": { "calls_per_second": 1 } } }"#).is_err());
}
