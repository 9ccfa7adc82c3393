//! The generated reference.

use super::{Config, PREFIX, lines, load_text};
use crate::{Origin, reference};

/// The lines of a reference that are settings, without their `#`.
fn settings(text: &str) -> Vec<&str> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    lines.filter(|line| !line.is_empty() && !line.starts_with(' ')).collect()
}

#[test]
fn the_reference_sets_nothing_while_it_is_commented() {
    let text = reference::<Config>(PREFIX);
    assert_eq!(lines(load_text(&text)), Vec::<String>::new(), "{text}");
    assert_eq!(load_text(&text).unwrap().value, Config::default());
    assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
}

#[test]
fn every_line_may_be_uncommented_by_itself_and_sets_nothing_else() {
    let text = reference::<Config>(PREFIX);
    let path = |line: &str| line.split_once(" = ").unwrap().0.to_owned();
    let paths: Vec<String> = settings(&text).into_iter().map(path).collect();
    for (line, own) in settings(&text).into_iter().zip(&paths) {
        match load_text(line) {
            Ok(loaded) => {
                let set: Vec<&String> = paths.iter().filter(|path| loaded.locate(path) != Origin::Default).collect();
                assert_eq!(set, [own], "{line}");
            }
            // Once `sinks.splunk` is given, it must have all its required keys.
            Err(problems) => assert!(
                own.starts_with("sinks.splunk.")
                    && problems.iter().all(|problem| problem.message.starts_with("missing required key")),
                "{line}: {problems}"
            ),
        }
    }
    assert_eq!(paths.len(), 14, "{paths:?}");
}

#[test]
fn the_lines_may_be_uncommented_together_in_any_order() {
    let text = reference::<Config>(PREFIX);
    let lines = settings(&text);
    // These steps have no divisor in common with the number of lines, so each visits every line once.
    for step in [1, 3, 5, 9, 11, 13] {
        let shuffled: Vec<&str> = (0..lines.len()).map(|index| lines[index * step % lines.len()]).collect();
        let text = shuffled.join("\n");
        let value = load_text(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}")).value;
        assert_eq!((value.ingest.port, value.ingest.replicas, value.rules.len()), (8080, 1, 1));
        assert!(value.sinks.splunk.is_some());
    }
}

#[test]
fn every_table_and_key_is_described() {
    let text = reference::<Config>(PREFIX);
    let expected = [
        "# An environment variable overrides the file: HEADRACE__A__B sets `a.b`.\n",
        "\n# How much is logged.\n# - \"info\": Lifecycle only.\n",
        "\n# one of \"off\", \"info\", \"debug\"; default \"info\"\n#level = \"info\"\n",
        "\n# ---- ingest ----\n# The gateway.\n",
        "\n# The port to listen on.\n# integer from 0 to 65535; default 8080\n#ingest.port = 8080\n",
        "\n# integer from 1 to 64; default 2\n#ingest.workers = 2\n",
        "\n# 1, 3 or 5; default 1\n#ingest.replicas = 1\n",
        "\n# list of list of string; default [[\"normalize\"]]\n#ingest.chains = [[\"normalize\"]]\n",
        "\n# integer of at least 0; optional\n#ingest.body_bytes_max = 0\n",
        "\n# list of string; optional; secret, or `secrets_file` with one in each line\n#ingest.secrets = [\"...\"]\n",
        "\n# ---- sinks.splunk ----\n# Forwards to Splunk.\n# Absent by default; any of its settings makes it present.\n",
        "\n# string; required; secret, or `token_file`\n#sinks.splunk.token = \"...\"\n",
        "\n# string; required\n#sinks.splunk.url = \"https://example.com\"\n",
        "\n# table of any key = string; default {}; example { \"two words\" = \"yes\" }\n#labels = {}\n",
        "\n# list of tables; optional\n",
        "\n# - action: one of \"drop\", \"tag\"; required\n#     What it does.\n",
        "\n#rules = [{ name = \"...\", action = \"drop\" }]\n",
    ];
    for lines in expected {
        assert!(text.contains(lines), "{lines:?} is not in:\n{text}");
    }
}
