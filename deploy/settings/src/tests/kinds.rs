//! Each kind of problem, with its exact position and message.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Action, Config, Sinks, check, lines, load_text, variables};
use crate::{Document, Invalid, Loaded, Problems, Variables, load, read};

#[test]
fn a_sound_document_has_no_problems() {
    let text = r#"
name = "a"
level = "debug"
[ingest]
port = 1
replicas = 3
body_bytes_max = 18446744073709551615
chains = [["a"], []]
[sinks.splunk]
url = "http://a"
token = "t"
[labels]
"two words" = "yes"
[[rules]]
name = "a"
action = "drop"
[[rules]]
name = "b"
action = "tag"
"#;
    assert_eq!(lines(load_text(text)), Vec::<String>::new());
    let value = load_text(text).unwrap().value;
    assert_eq!((value.ingest.replicas, value.ingest.body_bytes_max), (3, Some(u64::MAX)));
    assert_eq!(value.ingest.workers, 2);
    assert_eq!(value.rules[1].action, Action::Tag);
}

#[test]
fn unknown_keys_are_shown_with_the_nearest_known_key() {
    check(&[
        ("nam = 1", &["h.toml:1:1: nam: unknown key; did you mean `name`?"]),
        ("[ingest]\n  Port = 1", &["h.toml:2:3: ingest.Port: unknown key; did you mean `port`?"]),
        (
            "[sinks.splunk]\nurl = 'http://a'\ntokn = 'x'\ntoken = 't'",
            &["h.toml:3:1: sinks.splunk.tokn: unknown key; did you mean `token`?"],
        ),
        ("sinks = { splonk = 1 }", &["h.toml:1:11: sinks.splonk: unknown key; did you mean `splunk`?"]),
        ("[sinks]\nzzzzzzz = 1", &["h.toml:2:1: sinks.zzzzzzz: unknown key; known here: `splunk`"]),
        ("[sinkz.splunk]\na = 1", &["h.toml:1:2: sinkz: unknown key; did you mean `sinks`?"]),
        (
            "'a b' = 1",
            &["h.toml:1:1: \"a b\": unknown key; known here: `ingest`, `labels`, `level`, `name`, `rules`, `sinks`"],
        ),
        (
            "rules = [{ name = 'é', action = 'tag', nam = 2 }]",
            &["h.toml:1:40: rules[0].nam: unknown key; did you mean `name`?"],
        ),
        (
            "[ingest]\nlevel.x = 1\nsinks.splunk.index = 'a'",
            &[
                "h.toml:2:1: ingest.level: unknown key; lines that begin with `level` belong above the first `[table]` of the file",
                "h.toml:3:1: ingest.sinks: unknown key; lines that begin with `sinks` belong above the first `[table]` of the file",
            ],
        ),
        ("labels = { 'é' = 'x', b = 1 }", &["h.toml:1:27: labels.b: expected a string, found an integer"]),
    ]);
}

#[test]
fn values_of_a_wrong_type_are_shown_without_the_value() {
    check(&[
        ("name = 3", &["h.toml:1:8: name: expected a string, found an integer"]),
        ("[ingest]\nport = '1'", &["h.toml:2:8: ingest.port: expected an integer, found a string"]),
        ("ingest.port = 1.5", &["h.toml:1:15: ingest.port: expected an integer, found a float"]),
        ("ingest.compress = 1", &["h.toml:1:19: ingest.compress: expected a boolean, found an integer"]),
        ("ingest.workers = []", &["h.toml:1:18: ingest.workers: expected an integer, found an array"]),
        ("level = true", &["h.toml:1:9: level: expected a string, found a boolean"]),
        ("ingest.body_bytes_max = 'x'", &["h.toml:1:25: ingest.body_bytes_max: expected an integer, found a string"]),
        (
            "ingest.chains = [['a', 2], 3]",
            &[
                "h.toml:1:24: ingest.chains[0][1]: expected a string, found an integer",
                "h.toml:1:28: ingest.chains[1]: expected an array such as [\"a\", \"b\"], found an integer",
            ],
        ),
        ("ingest = 1", &["h.toml:1:10: ingest: expected a table, found an integer"]),
        ("name = 2020-01-01", &["h.toml:1:8: name: expected a string, found a date-time"]),
        ("[name]", &["h.toml:1:1: name: expected a string, found a table"]),
        ("[rules]", &["h.toml:1:1: rules: expected an array such as [\"a\", \"b\"], found a table"]),
    ]);
}

#[test]
fn numbers_out_of_range_name_the_range() {
    check(&[
        (
            "ingest.port = 70_000",
            &["h.toml:1:15: ingest.port: out of range: expected an integer from 0 to 65535, found 70000"],
        ),
        (
            "ingest.port = -1",
            &["h.toml:1:15: ingest.port: out of range: expected an integer from 0 to 65535, found -1"],
        ),
        (
            "ingest.workers = 0x41",
            &["h.toml:1:18: ingest.workers: out of range: expected an integer from 1 to 64, found 0x41"],
        ),
        (
            "ingest.body_bytes_max = -1",
            &["h.toml:1:25: ingest.body_bytes_max: out of range: expected an integer of at least 0, found -1"],
        ),
        (
            "ingest.body_bytes_max = 99999999999999999999999999999999999999999",
            &[
                "h.toml:1:25: ingest.body_bytes_max: out of range: expected an integer of 64 bits, found 99999999999999999999999999999999999999999",
            ],
        ),
        ("ingest.replicas = 2", &["h.toml:1:19: ingest.replicas: out of range: expected 1, 3 or 5, found 2"]),
    ]);
}

#[test]
fn unknown_variants_are_shown_with_the_known_ones() {
    check(&[
        (
            "level = 'debg'",
            &["h.toml:1:9: level: unknown value `debg`; expected one of `off`, `info`, `debug`; did you mean `debug`?"],
        ),
        ("level = 'x\\n'", &["h.toml:1:9: level: unknown value `x\\\\n`; expected one of `off`, `info`, `debug`"]),
        (
            "rules = [{ name = 'a', action = 'tab' }]",
            &["h.toml:1:33: rules[0].action: unknown value `tab`; expected one of `drop`, `tag`; did you mean `tag`?"],
        ),
        ("level = 1", &["h.toml:1:9: level: expected a string, found an integer"]),
    ]);
}

#[test]
fn missing_keys_are_shown_at_the_table_that_lacks_them() {
    check(&[
        ("\n[sinks.splunk]\ntoken = 't'", &["h.toml:2:1: sinks.splunk.url: missing required key"]),
        (
            "sinks.splunk = { url = 'http://a' }",
            &["h.toml:1:16: sinks.splunk.token: missing required key; give it or `token_file`"],
        ),
        (
            "[[rules]]\nname = 'a'\naction = 'drop'\n[[rules]]\nname = 'b'",
            &["h.toml:4:1: rules[1].action: missing required key"],
        ),
    ]);
}

#[test]
fn a_required_key_of_the_document_is_shown_at_the_file() {
    #[derive(Debug, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        name: String,
    }
    let loaded: Result<Loaded<Strict>, Problems> =
        load(Some(Document { name: "s.toml", text: "" }), &Variables::default(), |_| Vec::new());
    assert_eq!(loaded.unwrap_err().to_string(), "s.toml: name: missing required key\n1 problem in s.toml");
    let loaded: Result<Loaded<Strict>, Problems> = load(None, &Variables::default(), |_| Vec::new());
    assert_eq!(
        loaded.unwrap_err().to_string(),
        "configuration: name: missing required key\n1 problem in the configuration"
    );
}

#[test]
fn syntax_errors_are_shown_together_and_with_other_problems() {
    check(&[
        (
            "a = \nname = 3",
            &[
                "h.toml:1:5: not valid TOML: string values must be quoted, expected literal string",
                "h.toml:2:8: name: expected a string, found an integer",
            ],
        ),
        ("name = 'a'\nname = 'b'", &["h.toml:2:1: not valid TOML: duplicate key"]),
        (
            "nam = 1\n[ingest\nport = 1\n[sinks]\nsplonk = 1\n",
            &[
                "h.toml:1:1: nam: unknown key; did you mean `name`?",
                "h.toml:2:8: not valid TOML: unclosed table, expected `]`",
                "h.toml:5:1: sinks.splonk: unknown key; did you mean `splunk`?",
            ],
        ),
        ("name = [1,\nlevel = 3", &["h.toml:2:7: not valid TOML: unexpected `=` in array, expected value, `]`"]),
        ("[sinks.splunk]\ntoken = 'x", &["h.toml:2:11: not valid TOML: invalid literal string, expected `'`"]),
        ("\u{feff}nam = 1", &["h.toml:1:1: nam: unknown key; did you mean `name`?"]),
        ("", &[]),
    ]);
}

#[test]
fn a_value_that_serde_refuses_is_shown_with_its_position() {
    check(&[("[sinks.splunk]\nurl = 'ftp'\ntoken = 't-1'", &["h.toml:2:7: sinks.splunk.url: `ftp` is no URL"])]);
}

#[test]
fn values_that_serde_refuses_are_shown_with_all_other_problems() {
    #[derive(Debug, Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    struct Served {
        name: String,
        admin: Admin,
        sinks: Sinks,
    }
    #[derive(Debug, Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields, default)]
    struct Admin {
        listen: SocketAddr,
    }
    impl Default for Served {
        fn default() -> Self {
            Self { name: "a".to_owned(), admin: Admin::default(), sinks: Sinks::default() }
        }
    }
    impl Default for Admin {
        fn default() -> Self {
            Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
        }
    }
    let told = |text: &str| -> Vec<String> {
        let values = |served: &Served| {
            let wrong = Invalid { path: "name".to_owned(), message: "is wrong".to_owned() };
            served.name.is_empty().then_some(wrong).into_iter().collect()
        };
        let document = Document { name: "h.toml", text };
        let loaded: Result<Loaded<Served>, Problems> = load(Some(document), &Variables::default(), values);
        loaded.unwrap_err().iter().map(ToString::to_string).collect()
    };
    let admin = "admin.listen: invalid socket address syntax; the default is \"127.0.0.1:9464\"";
    let url = "sinks.splunk.url: `ftp` is no URL";
    assert_eq!(
        told("admin.listen = '127.0.0.1:99999'\nname = ''"),
        [&format!("h.toml:1:16: {admin}"), "h.toml:2:8: name: is wrong"]
    );
    assert_eq!(
        told("nam = ''\nadmin.listen = 'a'"),
        ["h.toml:1:1: nam: unknown key; did you mean `name`?", &format!("h.toml:2:16: {admin}")]
    );
    // Without its URL the sink is not whole. So nobody knows what else is wrong.
    assert_eq!(
        told("admin.listen = 'a'\nsinks.splunk = { token = 't-1', url = 'ftp' }\nname = ''"),
        [format!("h.toml:1:16: {admin}"), format!("h.toml:2:39: {url}")]
    );
}

#[test]
fn all_problems_of_a_file_are_shown_in_order_and_counted() {
    let text = "level = 'x'\nnam = 1\n\n[sinks.splunk]\nurl = 3\n[ingest]\nport = 99999\n";
    let shown = load_text(text).unwrap_err().to_string();
    let expected = "\
h.toml:1:9: level: unknown value `x`; expected one of `off`, `info`, `debug`
h.toml:2:1: nam: unknown key; did you mean `name`?
h.toml:4:1: sinks.splunk.token: missing required key; give it or `token_file`
h.toml:5:7: sinks.splunk.url: expected a string, found an integer
h.toml:7:8: ingest.port: out of range: expected an integer from 0 to 65535, found 99999
5 problems in h.toml";
    assert_eq!(shown, expected);
}

#[test]
fn a_key_that_was_misspelt_is_not_reported_as_missing() {
    check(&[
        ("rules = [{ nam = 'a', action = 'tag' }]", &["h.toml:1:12: rules[0].nam: unknown key; did you mean `name`?"]),
        (
            "[sinks.splunk]\nurl = 'http://a'\ntokn_file = '/nowhere'",
            &["h.toml:3:1: sinks.splunk.tokn_file: unknown key; did you mean `token_file`?"],
        ),
        (
            "[sinks.splunk]\nurll = 'http://a'\nurl = 'http://b'\nindx = 'a'",
            &[
                "h.toml:1:1: sinks.splunk.token: missing required key; give it or `token_file`",
                "h.toml:2:1: sinks.splunk.urll: unknown key; did you mean `url`?",
                "h.toml:4:1: sinks.splunk.indx: unknown key; did you mean `index`?",
            ],
        ),
    ]);
}

#[test]
fn problems_of_values_that_follow_from_the_form_are_left_out() {
    let refused = |text: &str, environment: &[(&str, &str)]| {
        let values = |config: &Config| {
            let wrong = |path: &str| Invalid { path: path.to_owned(), message: "is wrong".to_owned() };
            let needs_secret = config.ingest.secrets.is_empty().then(|| wrong("ingest.secrets"));
            let needs_name = config.name.is_empty().then(|| wrong("name"));
            needs_name.into_iter().chain(needs_secret).collect()
        };
        let loaded: Result<Loaded<Config>, Problems> =
            load(Some(Document { name: "h.toml", text }), &variables(environment), values);
        lines(loaded)
    };
    // The name has a problem of its own, which comes after those of the form.
    assert_eq!(
        refused("[ingest]\nsecrets_file = '/nowhere'", &[]),
        [
            "h.toml:2:16: ingest.secrets_file: the secret file `/nowhere` cannot be read: No such file or directory (os error 2)",
            "h.toml: name: is wrong",
        ]
    );
    assert_eq!(
        refused("nam = 'a'\n[ingest]\nsecrts = ['a']", &[]),
        [
            "h.toml:1:1: nam: unknown key; did you mean `name`?",
            "h.toml:3:1: ingest.secrts: unknown key; did you mean `secrets`?",
        ]
    );
    assert_eq!(
        refused("", &[("HEADRACE__NAM", "a"), ("HEADRACE__INGEST__SECRET_FILE", "/nowhere")]),
        [
            "HEADRACE__INGEST__SECRET_FILE: ingest.secret_file: unknown key; did you mean `HEADRACE__INGEST__SECRETS_FILE`?",
            "HEADRACE__NAM: nam: unknown key; did you mean `HEADRACE__NAME`?",
        ]
    );
    // The name is given and empty. So the misspelt key is not the reason.
    assert_eq!(
        refused("name = ''\nnamee = 'a'\ningest.secrets = ['a']", &[]),
        ["h.toml:2:1: namee: unknown key; did you mean `name`?", "h.toml:1:8: name: is wrong"]
    );
}

#[test]
fn an_unreadable_file_is_a_problem_of_the_file() {
    let path = std::path::Path::new("/nowhere/h.toml");
    let shown = read::<Config>(Some(path), &Variables::default(), |_| Vec::new()).unwrap_err().to_string();
    assert!(shown.starts_with("/nowhere/h.toml: the configuration cannot be read: No such file"), "{shown}");
    assert!(shown.ends_with("\n1 problem in /nowhere/h.toml"), "{shown}");
}
