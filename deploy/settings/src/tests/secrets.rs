//! Secrets can come from files, and are never in a message.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Config, Secret, lines, load_text, load_with};
use crate::{Document, Origin, Variables, load};

/// Makes a folder with one file of secrets.
fn file(content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn secret(text: &str) -> Secret {
    Secret(text.to_owned())
}

#[test]
fn a_secret_is_read_from_its_file_without_one_line_break() {
    for (content, expected) in [("s\n", "s"), ("s\r\n", "s"), ("s\n\n", "s\n"), (" s ", " s "), ("s", "s"), ("", "")] {
        let (_folder, path) = file(content.as_bytes());
        let text = format!("[sinks.splunk]\nurl = 'http://a'\ntoken_file = '{}'", path.display());
        let loaded = load_text(&text).unwrap();
        assert_eq!(loaded.locate("sinks.splunk.token").to_string(), "h.toml:3:14");
        assert_eq!(loaded.value.sinks.splunk.unwrap().token, secret(expected), "{content:?}");
    }
}

#[test]
fn files_work_in_lists() {
    let (_folder, path) = file(b"one\n\n  \ntwo\r\n");
    let path = path.display();
    let text = format!(
        "ingest.secrets_file = '{path}'\n\
         [[rules]]\nname = 'a'\naction = 'drop'\nheader_file = '{path}'\n"
    );
    let loaded = load_text(&text).unwrap();
    assert_eq!(loaded.locate("ingest.secrets[1]").to_string(), "h.toml:1:23");
    let value = loaded.value;
    let whole = secret("one\n\n  \ntwo");
    assert_eq!(value.ingest.secrets, [secret("one"), secret("two")]);
    assert_eq!(value.rules[0].header.as_ref(), Some(&whole));
}

#[test]
fn a_variable_names_a_file_and_wins_over_the_document() {
    let (_folder, path) = file(b"from-file");
    let path = path.display().to_string();
    let text = "[sinks.splunk]\nurl = 'http://a'\ntoken = 'old'";
    let loaded = load_with(text, &[("HEADRACE__SINKS__SPLUNK__TOKEN_FILE", &path)]).unwrap();
    let origin = Origin::Environment { variable: "HEADRACE__SINKS__SPLUNK__TOKEN_FILE".into() };
    assert_eq!(loaded.locate("sinks.splunk.token"), origin);
    assert_eq!(loaded.value.sinks.splunk.unwrap().token, secret("from-file"));

    let text = "[sinks.splunk]\nurl = 'http://a'\ntoken_file = '/nowhere'";
    let value = load_with(text, &[("HEADRACE__SINKS__SPLUNK__TOKEN", "new")]).unwrap().value;
    assert_eq!(value.sinks.splunk.unwrap().token, secret("new"));

    let value = load_with("", &[("HEADRACE__INGEST__SECRETS_FILE", &path)]).unwrap().value;
    assert_eq!(value.ingest.secrets, [secret("from-file")]);
}

#[test]
fn a_secret_given_twice_is_a_problem() {
    let text = "[sinks.splunk]\nurl = 'http://a'\ntoken = 'hunter2'\ntoken_file = '/nowhere'";
    let expected = ["h.toml:4:1: sinks.splunk.token_file: `token` is given too; keep one of the two"];
    assert_eq!(lines(load_text(text)), expected);

    let environment = [("HEADRACE__INGEST__SECRETS", "['hunter2']"), ("HEADRACE__INGEST__SECRETS_FILE", "/nowhere")];
    let expected = ["HEADRACE__INGEST__SECRETS_FILE: ingest.secrets_file: `secrets` is given too; keep one of the two"];
    assert_eq!(lines(load_with("", &environment)), expected);
}

#[test]
fn an_unreadable_file_is_shown_with_its_path_and_reason() {
    let splunk = |path: &str| format!("[sinks.splunk]\nurl = 'http://a'\ntoken_file = '{path}'");
    let place = "h.toml:3:14: sinks.splunk.token_file: the secret file";
    let (folder, binary) = file(b"\xff");
    let large = folder.path().join("large");
    fs::write(&large, vec![b'a'; 1024 * 1024 + 1]).unwrap();
    let cases = [
        ("/nowhere".to_owned(), "No such file or directory (os error 2)"),
        (folder.path().display().to_string(), "Is a directory (os error 21)"),
        (binary.display().to_string(), "it is not UTF-8 text"),
        (large.display().to_string(), "it is larger than 1048576 bytes"),
    ];
    for (path, reason) in cases {
        let expected = [format!("{place} `{path}` cannot be read: {reason}")];
        assert_eq!(lines(load_text(&splunk(&path))), expected);
    }
    let expected = ["h.toml:1:23: ingest.secrets_file: expected a string, found an integer"];
    assert_eq!(lines(load_text("ingest.secrets_file = 1")), expected);
}

#[test]
fn only_secrets_have_files() {
    let expected =
        ["h.toml:1:1: name_file: unknown key; known here: `ingest`, `labels`, `level`, `name`, `rules`, `sinks`"];
    assert_eq!(lines(load_text("name_file = '/a'")), expected);
}

#[test]
fn no_problem_shows_a_secret() {
    let cases = [
        "[sinks.splunk]\nurl = 'ftp'\ntoken = 'hunter2'",
        "[sinks.splunk]\nurl = 'hunter2'\ntoken = 'hunter2'",
        "[sinks.splunk]\ntoken = ['hunter2']",
        "[sinks.splunk]\ntoken = { hunter2 = 1 }",
        "[sinks.splunk]\ntokn = 'hunter2'",
        "[sinks.splunk]\ntoken = 'hunter2",
        "[sinks.splunk]\ntoken = hunter2",
        "[ingest]\nsecrets = 'hunter2'",
        "[ingest]\nsecrets = ['a', ['hunter2']]",
        "[[rules]]\nname = 'a'\naction = 'dorp'\nheader = 'hunter2'",
        "[[rules]]\nname = 'a'\naction = 'drop'\nheader.hunter2 = 'hunter2'",
    ];
    for text in cases {
        let shown = load_text(text).unwrap_err().to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let shown = load_with("", &[("HEADRACE__SINKS__SPLUNK__TOKEN__X", "hunter2")]).unwrap_err().to_string();
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn serdes_message_about_a_secret_is_not_shown() {
    #[derive(Debug, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
    #[serde(try_from = "String")]
    #[schemars(extend("x-secret" = true))]
    struct Hexadecimal;

    impl TryFrom<String> for Hexadecimal {
        type Error = String;

        fn try_from(text: String) -> Result<Self, String> {
            Err(format!("{text:?} is not hexadecimal"))
        }
    }

    #[derive(Debug, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Keys {
        key: Hexadecimal,
    }
    let document = Document { name: "h.toml", text: "key = 'hunter\"2'" };
    let shown = load::<Keys>(Some(document), &Variables::default(), |_| Vec::new()).unwrap_err().to_string();
    assert!(shown.starts_with("h.toml:1:7: key: the value is refused"), "{shown}");
    assert!(!shown.contains("hunter"), "{shown}");
}

#[test]
fn debug_of_a_loaded_configuration_shows_no_secret() {
    let text = "[sinks.splunk]\nurl = 'http://a'\ntoken = 'hunter2'";
    let loaded: crate::Loaded<Config> = load_text(text).unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
}
