//! Where settings come from, and problems that the product's validation finds.

use super::{Config, load_text, load_with};
use crate::{Document, Invalid, Origin, Variables, item_path, key_path, load};

const TEXT: &str = r#"name = "a"
[ingest]
secrets = ["a",
  "b"]
[sinks]
splunk.url = "http://a"
splunk.token = "t"
[labels]
"two words" = "x"
[[rules]]
name = "a"
action = "drop"
"#;

#[test]
fn every_setting_is_located() {
    let cases = [
        ("name", "h.toml:1:8"),
        ("ingest", "h.toml:2:1"),
        ("ingest.secrets", "h.toml:3:11"),
        ("ingest.secrets[1]", "h.toml:4:3"),
        ("sinks.splunk", "h.toml:6:1"),
        ("sinks.splunk.url", "h.toml:6:14"),
        ("labels.\"two words\"", "h.toml:9:15"),
        ("labels.two words", "h.toml:9:15"),
        ("rules[0]", "h.toml:10:1"),
        ("rules[0].action", "h.toml:12:10"),
        ("ingest.port", "HEADRACE__INGEST__PORT"),
        ("ingest.workers", "default"),
        ("level", "default"),
    ];
    let loaded = load_with(TEXT, &[("HEADRACE__INGEST__PORT", "1")]).unwrap();
    for (path, expected) in cases {
        assert_eq!(loaded.locate(path).to_string(), expected, "{path}");
    }
}

#[test]
fn invalid_settings_are_shown_like_other_problems() {
    let invalid = |path: &str| Invalid { path: path.to_owned(), message: "is wrong".to_owned() };
    let loaded = load_with(TEXT, &[("HEADRACE__INGEST__PORT", "1")]).unwrap();
    assert!(loaded.refuse(Vec::new()).is_ok());
    let paths = ["ingest.port", "level", "ingest.workers", "ingest.secrets[1]", "rules[0].header"];
    let shown = loaded.refuse(paths.map(invalid).to_vec()).unwrap_err().to_string();
    let expected = "\
h.toml: level: is wrong
h.toml:2:1: ingest.workers: is wrong
h.toml:4:3: ingest.secrets[1]: is wrong
h.toml:10:1: rules[0].header: is wrong
HEADRACE__INGEST__PORT: ingest.port: is wrong
5 problems in h.toml and the environment";
    assert_eq!(shown, expected);
}

#[test]
fn values_are_validated_when_the_form_is_right() {
    let document = Document { name: "h.toml", text: "\nname = 'a'" };
    let invalid = |config: &Config| vec![Invalid { path: "name".to_owned(), message: format!("is {}", config.name) }];
    let shown = load(Some(document), &Variables::default(), invalid).unwrap_err().to_string();
    assert_eq!(shown, "h.toml:2:8: name: is a\n1 problem in h.toml");
}

#[test]
fn without_a_file_a_default_is_shown_as_the_configuration() {
    let loaded = load::<Config>(None, &Variables::default(), |_| Vec::new()).unwrap();
    assert_eq!(loaded.value, Config::default());
    assert_eq!(loaded.locate("ingest.secrets"), Origin::Default);
    let invalid = Invalid { path: "ingest.secrets".to_owned(), message: "needs one secret".to_owned() };
    let shown = loaded.refuse(vec![invalid]).unwrap_err().to_string();
    assert_eq!(shown, "configuration: ingest.secrets: needs one secret\n1 problem in the configuration");
}

#[test]
fn paths_quote_what_toml_quotes() {
    assert_eq!(key_path("", "a"), "a");
    assert_eq!(key_path("a", "b-c_1"), "a.b-c_1");
    assert_eq!(key_path("a", "two words"), "a.\"two words\"");
    assert_eq!(key_path("a", ""), "a.\"\"");
    assert_eq!(key_path("", "it's\t\"é\""), r#""it's\u0009\"é\"""#);
    assert_eq!(item_path("a.b", 3), "a.b[3]");
}

#[test]
fn the_document_is_the_origin_only_of_its_own_settings() {
    let loaded = load_text("ingest.port = 3").unwrap();
    assert_eq!(loaded.locate("ingest.port"), Origin::Position { file: "h.toml".into(), line: 1, column: 15 });
    assert_eq!(loaded.locate("ingest.workers"), Origin::Default);
}

#[test]
fn no_more_than_a_screen_of_problems_is_shown() {
    let text: String = (0..60).map(|number| format!("wrong_{number:02} = 1\n")).collect();
    let shown = load_text(&text).unwrap_err().to_string();
    assert_eq!(shown.lines().count(), 52, "{shown}");
    assert!(shown.ends_with("… and 10 more\n60 problems in h.toml"), "{shown}");
}
