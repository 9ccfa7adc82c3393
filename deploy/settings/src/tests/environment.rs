//! Overrides by environment variables.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Config, PREFIX, Secret, lines, load_with, variables};
use crate::{Document, Variables, load};

const SPLUNK: &str = "[sinks.splunk]\nurl = 'http://a'\ntoken = 'hunter2'\n";

/// Checks the problems of one variable that overrides a document.
fn check(cases: &[(&str, &str, &str, &[&str])]) {
    for (text, name, value, expected) in cases {
        assert_eq!(lines(load_with(text, &[(name, value)])), *expected, "with {name}={value} over:\n{text}");
    }
}

#[test]
fn variables_are_read_in_the_form_of_their_settings() {
    let environment = [
        ("HEADRACE__NAME", "12"),
        ("HEADRACE__INGEST__PORT", " 81 "),
        ("HEADRACE__ingest__Compress", "false"),
        ("HEADRACE__INGEST__BODY_BYTES_MAX", "9"),
        ("HEADRACE__INGEST__CHAINS", "[['a'], ['b']]"),
        ("HEADRACE__SINKS__SPLUNK__TOKEN", "0123"),
        ("HEADRACE__LABELS__REGION", "true"),
        ("HEADRACE__LABELS", "{ region = 'eu', zone = 'a' }"),
        ("HEADRACE__RULES", "[{ name = 'a', action = 'drop' }]"),
        ("HEADRACE__RULES__0__NAME", "b"),
        ("HEADRACE_LOG", "other"),
        ("HEADRACE", "other"),
        ("PATH", "/bin"),
    ];
    let value = load_with(SPLUNK, &environment).unwrap().value;
    assert_eq!(value.name, "12");
    assert_eq!(value.ingest.port, 81);
    assert!(!value.ingest.compress);
    assert_eq!(value.ingest.body_bytes_max, Some(9));
    assert_eq!(value.ingest.chains, [["a"], ["b"]]);
    assert_eq!(value.sinks.splunk.unwrap().token, Secret("0123".to_owned()));
    assert_eq!(value.labels["region"], "true");
    assert_eq!(value.labels["zone"], "a");
    assert_eq!(value.rules[0].name, "b");
}

#[test]
fn variables_reach_elements_and_keys_with_dashes_that_the_document_has() {
    let text = "[[rules]]\nname = 'a'\naction = 'drop'\n[labels]\nMy-Org = 'x'\n";
    let environment = [("HEADRACE__RULES__0__NAME", "b"), ("HEADRACE__LABELS__MY_ORG", "y")];
    let value = load_with(text, &environment).unwrap().value;
    assert_eq!(value.rules[0].name, "b");
    assert_eq!(value.labels["My-Org"], "y");
    assert_eq!(value.labels.len(), 1);
}

#[test]
fn names_of_no_setting_are_problems() {
    check(&[
        (
            "",
            "HEADRACE__INGEST__PROT",
            "1",
            &["HEADRACE__INGEST__PROT: ingest.prot: unknown key; did you mean `HEADRACE__INGEST__PORT`?"],
        ),
        (
            SPLUNK,
            "HEADRACE__SINKS__SPLUNK__TOKN_FILE",
            "1",
            &["HEADRACE__SINKS__SPLUNK__TOKN_FILE: sinks.splunk.tokn_file: unknown key; \
             did you mean `HEADRACE__SINKS__SPLUNK__TOKEN_FILE`?"],
        ),
        (
            "",
            "HEADRACE__SINKS__ZZZZZZZ",
            "1",
            &["HEADRACE__SINKS__ZZZZZZZ: sinks.zzzzzzz: unknown key; known here: `splunk`"],
        ),
        ("", "HEADRACE__NAME__X", "1", &["HEADRACE__NAME__X: name.x: unknown key; no key is known here"]),
        ("name = 'a'", "HEADRACE__NAME__X", "1", &["HEADRACE__NAME__X: name.x: unknown key; no key is known here"]),
        ("", "HEADRACE__RULES__0__NAME", "t", &["HEADRACE__RULES__0__NAME: rules: no element `0` in an array of 0"]),
        (
            "rules = []",
            "HEADRACE__RULES__0__NAME",
            "t",
            &["HEADRACE__RULES__0__NAME: rules: no element `0` in an array of 0"],
        ),
        (
            "",
            "HEADRACE__INGEST____PORT",
            "1",
            &["HEADRACE__INGEST____PORT: names no setting: one of its keys is empty"],
        ),
        ("", "HEADRACE__", "1", &["HEADRACE__: names no setting: one of its keys is empty"]),
    ]);
}

#[test]
fn problems_name_the_variable() {
    check(&[
        (
            "",
            "HEADRACE__INGEST__PORT",
            "many",
            &["HEADRACE__INGEST__PORT: ingest.port: expected an integer, found a string"],
        ),
        (
            "",
            "HEADRACE__INGEST__PORT",
            "70000",
            &["HEADRACE__INGEST__PORT: ingest.port: out of range: expected an integer from 0 to 65535, found 70000"],
        ),
        (
            "",
            "HEADRACE__LEVEL",
            "of",
            &[
                "HEADRACE__LEVEL: level: unknown value `of`; expected one of `off`, `info`, `debug`; did you mean `off`?",
            ],
        ),
        (
            "",
            "HEADRACE__INGEST__SECRETS",
            "hunter2,b",
            &["HEADRACE__INGEST__SECRETS: ingest.secrets: expected an array such as [\"a\", \"b\"], found a string"],
        ),
        (
            "",
            "HEADRACE__SINKS__SPLUNK__TOKEN",
            "t",
            &["HEADRACE__SINKS__SPLUNK__TOKEN: sinks.splunk.url: missing required key"],
        ),
        (
            SPLUNK,
            "HEADRACE__SINKS__SPLUNK__URL",
            "ftp",
            &["HEADRACE__SINKS__SPLUNK__URL: sinks.splunk.url: `ftp` is no URL"],
        ),
    ]);
}

#[test]
fn a_variable_keeps_a_key_that_only_looks_like_the_file_of_a_secret() {
    let text = "[labels]\na_file = 'b'\n";
    let value = load_with(text, &[("HEADRACE__LABELS__A", "x")]).unwrap().value;
    assert_eq!(value.labels.len(), 2);
}

#[test]
fn two_spellings_of_one_variable_are_a_problem() {
    let environment = [("HEADRACE__NAME", "a"), ("HEADRACE__name", "b")];
    let expected = ["HEADRACE__name: sets the same setting as `HEADRACE__NAME`; keep one of the two"];
    assert_eq!(lines(load_with("", &environment)), expected);
}

#[test]
fn a_value_that_is_no_text_is_a_problem() {
    let environment = [(OsString::from("HEADRACE__NAME"), OsString::from_vec(vec![0xff]))];
    let loaded = load::<Config>(None, &Variables::of(PREFIX, environment), |_| Vec::new());
    let shown = loaded.unwrap_err().to_string();
    assert_eq!(shown, "HEADRACE__NAME: the value is not UTF-8 text\n1 problem in the environment");
}

#[test]
fn problems_of_file_and_environment_are_counted_together() {
    let document = Document { name: "h.toml", text: "nam = 1" };
    let loaded = load::<Config>(Some(document), &variables(&[("HEADRACE__NAM", "x")]), |_| Vec::new());
    let expected = "\
h.toml:1:1: nam: unknown key; did you mean `name`?
HEADRACE__NAM: nam: unknown key; did you mean `HEADRACE__NAME`?
2 problems in h.toml and the environment";
    assert_eq!(loaded.unwrap_err().to_string(), expected);
}

#[test]
fn a_variable_replaces_a_value_of_the_wrong_type() {
    let value = load_with("ingest = 3", &[("HEADRACE__INGEST__PORT", "9")]).unwrap().value;
    assert_eq!(value.ingest.port, 9);
}
