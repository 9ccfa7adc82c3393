//! Sinks of any name: how the configuration and variables make them, and what is told of them.

use headrace_settings::{Document, Variables, reference};
use headrace_sinks::{file, splunk};

use super::read;
use crate::config::{Config, PREFIX};
use crate::role::Role;

/// The problems of `text` and `variables`, one in each line.
fn told(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let document = Document { name: "h.toml", text };
    let variables = Variables::of(PREFIX, variables.iter().copied());
    let values = |config: &Config| crate::config::told(config.validate(&[Role::Sinks]));
    match headrace_settings::load(Some(document), &variables, values) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_sink_of_a_name_of_its_own_is_read_as_its_kind_is() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "of the file\n").unwrap();
    let text = format!(
        "[sinks.splunk]\nurl = 'http://a'\ntoken = 'x'\n[sinks.splunk_dr]\nkind = 'splunk'\nurl = 'http://b'\n\
         token_file = '{}'\nstart = 'now'\n[sinks.copy]\nkind = 'file'\ndir = 'out'\n",
        token.display()
    );
    let sinks = read(&text).value.sinks;
    let told = |text: &str| text.contains("http://b") && text.contains("Now");
    assert!(sinks.iter().any(|sink| sink.name() == "splunk_dr" && told(&format!("{sink:?}"))), "{sinks:?}");
    assert!(sinks.first::<splunk::Config>().is_some_and(|splunk| splunk.url == "http://a"));
    assert!(sinks.first::<file::Config>().is_none(), "it has another name");
    let kinds: Vec<(&str, &str)> = sinks.iter().map(|sink| (sink.name(), sink.kind())).collect();
    assert_eq!(kinds, [("copy", "file"), ("splunk", "splunk"), ("splunk_dr", "splunk")]);
}

#[test]
fn problems_of_an_instance_have_their_place() {
    let nats = "nats.url = 'nats://a'\n";
    let dr = "[sinks.splunk_dr]\nkind = 'splunk'\nurl = 'http://b'\ntoken = 't'\n";
    for (text, expected) in [
        (dr.to_owned(), vec![]),
        (dr.replace("url", "ulr"), vec!["h.toml:4:1: sinks.splunk_dr.ulr: unknown key; did you mean `url`?"]),
        (
            format!("{dr}linger_ms = 0\n"),
            vec!["h.toml:6:13: sinks.splunk_dr.linger_ms: out of range: expected an integer from 1 to 60000, found 0"],
        ),
        (
            dr.replace("http://b", "ftp"),
            vec![
                "h.toml:4:7: sinks.splunk_dr.url: expected the receiver's base URL such as \
                 `https://splunk.example.com:8088`, found no URL",
            ],
        ),
        (
            dr.replace("'splunk'", "'splnk'"),
            vec![
                "h.toml:3:8: sinks.splunk_dr.kind: unknown value `splnk`; expected one of `clickhouse`, `file`, `jira`, \
                 `splunk`; did you mean `splunk`?",
            ],
        ),
        (dr.replace("'splunk'", "7"), vec!["h.toml:3:8: sinks.splunk_dr.kind: expected a string, found an integer"]),
        (
            "[sinks.splnk]\nurl = 'http://b'\n".to_owned(),
            vec![
                "h.toml:2:8: sinks.splnk: unknown key; did you mean `splunk`? (a table of another name needs the key `kind`)",
            ],
        ),
        (
            "[sinks.splunk]\nkind = 'jira'\nurl = 'http://a'\ntoken = 't'\n".to_owned(),
            vec!["h.toml:3:8: sinks.splunk.kind: unknown value `jira`; expected one of `splunk`"],
        ),
        (
            dr.replace("splunk_dr", "alert"),
            vec![
                "h.toml:2:1: sinks.alert: expected another name: `alert` is a stage of the pipeline or a user of NATS",
            ],
        ),
    ] {
        assert_eq!(told(&format!("{nats}{text}"), &[]), expected, "{text}");
    }
}

#[test]
fn variables_set_and_make_instances() {
    let dr = "nats.url = 'nats://a'\n[sinks.splunk_dr]\nkind = 'splunk'\n";
    let variables = [("HEADRACE__SINKS__SPLUNK_DR__URL", "http://b"), ("HEADRACE__SINKS__SPLUNK_DR__TOKEN", "0123")];
    assert_eq!(told(dr, &variables), [""; 0]);
    // The name of the last variable sorts behind those that need to know it.
    let whole = [variables[0], variables[1], ("HEADRACE__SINKS__SPLUNK_DR__KIND", "splunk")];
    assert_eq!(told("nats.url = 'nats://a'", &whole), [""; 0]);
    let table = [("HEADRACE__SINKS__COPY", "{ kind = 'file', dir = 'out' }")];
    assert_eq!(told("nats.url = 'nats://a'", &table), [""; 0]);
    let unknown = told("nats.url = 'nats://a'", &variables[..1]);
    assert_eq!(
        unknown,
        ["HEADRACE__SINKS__SPLUNK_DR__URL: sinks.splunk_dr: unknown key; did you mean \
             `HEADRACE__SINKS__SPLUNK__URL`? (a table of another name needs the key `kind`)"]
    );
    let misspelt = told(dr, &[variables[0], variables[1], ("HEADRACE__SINKS__SPLUNK_DR__INDX", "a")]);
    assert_eq!(
        misspelt,
        ["HEADRACE__SINKS__SPLUNK_DR__INDX: sinks.splunk_dr.indx: unknown key; did you mean \
             `HEADRACE__SINKS__SPLUNK_DR__INDEX`?"]
    );
    let kind = told("nats.url = 'nats://a'", &[variables[0], ("HEADRACE__SINKS__SPLUNK_DR__KIND", "splnk")]);
    assert_eq!(
        kind,
        [
            "HEADRACE__SINKS__SPLUNK_DR__KIND: sinks.splunk_dr.kind: unknown value `splnk`; expected one of `clickhouse`, \
             `file`, `jira`, `splunk`; did you mean `splunk`?"
        ]
    );
}

#[test]
fn the_reference_shows_each_kind_once_and_how_to_name_instances() {
    let reference = reference::<Config>(PREFIX);
    for (text, count) in [
        ("#sinks.splunk.url = ", 1),
        ("#sinks.splunk.kind = \"splunk\"\n", 1),
        ("#sinks.jira.start = \"now\"\n", 1),
        ("#sinks.splunk.start = \"stored\"\n", 1),
        ("`[sinks.splunk_dr]` with `kind = \"splunk\"`", 1),
        ("says by its key `kind` which of these it is: \"clickhouse\", \"file\", \"jira\", \"splunk\".", 1),
    ] {
        assert_eq!(reference.matches(text).count(), count, "{text}: {reference}");
    }
}

#[test]
fn no_sink_is_named_like_a_user_of_nats() {
    assert_eq!(crate::config::USERS, crate::nats::users::User::ALL.map(crate::nats::users::User::name));
}
