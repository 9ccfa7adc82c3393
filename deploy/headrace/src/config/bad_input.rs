//! Texts that are no configuration become problems, never a panic, on a stack of usual size.

use headrace_settings::{Document, Variables, load, reference};
use proptest::prelude::*;

use super::{Config, PREFIX, told};

/// Loads `text` and `variables`, and returns the problems as a user would see them.
fn check(text: &str, variables: &[(String, String)]) -> String {
    let document = Document { name: "headrace.toml", text };
    let variables = Variables::of(PREFIX, variables.iter().cloned());
    match load(Some(document), &variables, |config: &Config| told(config.validate(&crate::role::ALL_ROLES))) {
        Ok(loaded) => format!("{loaded:?}"),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn deep_nesting_ends_no_process() {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(|| {
        for depth in [1_000, 50_000] {
            let texts = [
                format!("a = {}", "[".repeat(depth)),
                format!("a = {}{}", "[".repeat(depth), "]".repeat(depth)),
                format!("a = {}1{}", "{a = ".repeat(depth), "}".repeat(depth)),
                format!("{}a = 1", "a.".repeat(depth)),
                format!("[{}a]\nx = 1", "a.".repeat(depth)),
                format!("[[{}a]]\nx = 1", "a.".repeat(depth)),
                format!("a = {{ {}a = 1 }}", "a.".repeat(depth)),
            ];
            for text in texts {
                assert!(!check(&text, &[]).is_empty());
                let variables = [("HEADRACE__INGEST__LISTEN".to_owned(), text.clone())];
                assert!(!check("", &variables).is_empty());
                let nested = [("HEADRACE__PIPELINE__CHAINS".to_owned(), text)];
                assert!(!check("", &nested).is_empty());
            }
            assert!(!check("", &[(format!("HEADRACE__{}A", "A__".repeat(depth)), "1".to_owned())]).is_empty());
        }
    });
    thread.unwrap().join().unwrap();
}

/// Lines that look like those of a configuration.
fn texts() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "\\[{1,2}(sinks|ingest|pipeline|nats|splunk|a|\\.|\"){1,4}\\]{1,2}",
        "(listen|url|token|secrets|chains|scoped|by_login|[a-z.\"' ]{1,12}) ?= ?(\"[^\"\n]{0,12}\"|[0-9_.eE+-]{1,12}|true|\\[.{0,12}|\\{.{0,12}\\}|'''|\"\"\")",
        "\\PC{0,40}",
        "[\\x00-\\x7f]{0,40}",
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_text_is_read_or_told(text in texts(), name in "(SINKS__SPLUNK|INGEST__GITHUB|NATS|PIPELINE|[A-Z_é]{0,12})__[A-Z0-9_]{0,12}", value in "\\PC{0,40}") {
        check(&text, &[]);
        check(&text, &[(format!("HEADRACE__{name}"), value)]);
    }

    #[test]
    fn a_spoilt_reference_is_read_or_told(at in any::<prop::sample::Index>(), spoil in "[\\[\\]{}=\"'#.,\n\\\\é\u{0}]{1,3}") {
        let reference = reference::<Config>(PREFIX);
        let settings = reference.lines().filter_map(|line| line.strip_prefix('#'));
        let mut text = settings.filter(|line| !line.starts_with(' ')).collect::<Vec<&str>>().join("\n");
        let mut at = at.index(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.insert_str(at, &spoil);
        check(&text, &[]);
        check(&text[..at], &[]);
    }
}
