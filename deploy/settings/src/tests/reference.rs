//! The generated reference.

use super::{Config, Ingest, Level, PREFIX, Store, Timeout, lines, load_text};
use crate::reference;

/// The reference with every setting uncommented.
fn uncommented(text: &str) -> String {
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
    let lines = text.lines().map(|line| if is_setting(&line) { &line[1..] } else { line });
    lines.collect::<Vec<&str>>().join("\n")
}

#[test]
fn the_reference_as_it_is_changes_nothing() {
    let text = reference::<Config>(PREFIX);
    assert_eq!(lines(load_text(&text)), Vec::<String>::new(), "{text}");
    assert_eq!(load_text(&text).unwrap().value, Config::default());
}

#[test]
fn the_reference_uncommented_has_no_problems_and_the_defaults() {
    let text = uncommented(&reference::<Config>(PREFIX));
    assert_eq!(lines(load_text(&text)), Vec::<String>::new(), "{text}");
    let value = load_text(&text).unwrap().value;
    assert_eq!(value.level, Level::Info);
    assert_eq!(value.store, Store::Nowhere);
    assert_eq!(value.ingest.timeout, Timeout::Seconds(10));
    assert_eq!(Ingest { secrets: Vec::new(), body_bytes_max: None, ..value.ingest }, Ingest::default());
    assert_eq!(value.tenants.len(), 1);
    assert_eq!(value.rules.len(), 1);
    assert!(value.sinks.splunk.is_some());
}

#[test]
fn every_table_and_key_is_described() {
    let text = reference::<Config>(PREFIX);
    let expected = [
        "\n# How much is logged.\n# - \"info\": Lifecycle only.\n",
        "\n# one of \"off\", \"info\", \"debug\"; default \"info\"\n#level = \"info\"\n",
        "\n# The gateway.\n[ingest]\n",
        "\n# The port to listen on.\n# integer from 0 to 65535; default 8080\n#port = 8080\n",
        "\n# integer of at least 0 or string; default 10\n#timeout = 10\n",
        "\n# list of list of string; default [[\"normalize\"]]\n#chains = [[\"normalize\"]]\n",
        "\n# integer of at least 0; optional\n#body_bytes_max = 0\n",
        "\n# list of string; optional; secret, or `secrets_file` with one in each line\n",
        "\n# Forwards to Splunk.\n# Optional: absent by default.\n#[sinks.splunk]\n",
        "\n# string; required; secret, or `token_file`\n#token = \"...\"\n",
        "\n# string; required\n#url = \"https://example.com\"\n",
        "\n#[tenants.example]\n",
        "\n#[[rules]]\n",
        "\n# With kind = \"bucket\":\n#     # A bucket.\n#     [store]\n",
        "\n#     # The bucket's name.\n#     # string; required\n#     bucket = \"...\"\n",
        "\n# \"drop\" or { tag = \"...\" } or { raise = { by = 0 } }; required\n#action = \"drop\"\n",
        "\n# `example` stands for any key.\n#[tenants.example]\n",
    ];
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
