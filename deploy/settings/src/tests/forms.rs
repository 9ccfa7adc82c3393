//! The less common forms of schemas.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PREFIX, Secret};
use crate::{Document, Loaded, Problems, Variables, load, reference};

#[derive(Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Forms {
    anything: Option<serde_json::Value>,
    pair: Option<(u8, String)>,
    numbered: BTreeMap<u32, bool>,
    keys: BTreeMap<String, Secret>,
    hidden: Option<Vec<Secret>>,
    tree: Option<Box<Tree>>,
    large: u64,
    signed: i8,
    loose: Option<Loose>,
    adjacent: Option<Adjacent>,
    #[schemars(extend("x-secret" = true))]
    vault: Option<Vault>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
struct Tree {
    left: Option<Box<Tree>>,
    children: Vec<Tree>,
}

/// A struct that forgot to deny unknown keys.
#[derive(Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
struct Loose {
    name: Option<String>,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(tag = "type", content = "with", rename_all = "snake_case")]
enum Adjacent {
    Count(u8),
    Text(String),
}

#[derive(Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Vault {
    Pin { pin: u8 },
    Word { word: String },
}

fn load_forms(text: &str) -> Result<Loaded<Forms>, Problems> {
    load(Some(Document { name: "f.toml", text }), &Variables::default(), |_| Vec::new())
}

#[test]
fn unusual_forms_are_accepted() {
    let cases = [
        "anything = 1",
        "anything = { a = [1, 'b'] }",
        "pair = [1, 'a']",
        "numbered = { 1 = true }",
        "hidden = ['a']",
        "large = 18446744073709551615",
        "signed = -128",
        "tree = { children = [{ children = [] }] }",
        "adjacent = { type = 'count', with = 3 }",
        "vault = { kind = 'pin', pin = 3 }",
    ];
    for text in cases {
        if let Err(problems) = load_forms(text) {
            panic!("{text}: {problems}");
        }
    }
}

#[test]
fn unusual_forms_are_refused_with_their_position() {
    let cases = [
        ("pair = [1]", "f.toml:1:8: pair: needs at least 2 elements"),
        ("pair = [1, 2]", "f.toml:1:12: pair[1]: expected a string, found an integer"),
        ("numbered = { 1 = 2 }", "f.toml:1:18: numbered.1: expected a boolean, found an integer"),
        ("numbered = { a = true }", "f.toml:1:14: numbered.a: invalid digit found in string"),
        (
            "tree = { children = [{ left = 1 }] }",
            "f.toml:1:31: tree.children[0].left: expected a table, found an integer",
        ),
        ("loose.nam = 'a'", "f.toml:1:7: loose.nam: unknown key; did you mean `name`?"),
        (
            "adjacent = { type = 'count', with = 'a' }",
            "f.toml:1:37: adjacent.with: expected an integer, found a string",
        ),
        (
            "large = 99999999999999999999999999999999999999999",
            "f.toml:1:9: large: out of range: expected an integer from 0 to 18446744073709551615, found 99999999999999999999999999999999999999999",
        ),
        ("vault.kind = 'hunter2'", "f.toml:1:14: vault.kind: unknown value; expected one of `pin`, `word`"),
        (
            "vault = { kind = 'pin', pin = 1234 }",
            "f.toml:1:31: vault.pin: out of range: expected an integer from 0 to 255",
        ),
    ];
    for (text, expected) in cases {
        let shown = load_forms(text).unwrap_err();
        let shown: Vec<String> = shown.iter().map(ToString::to_string).collect();
        assert!(shown.iter().any(|line| line == expected), "{text}: {shown:?}");
    }
}

#[test]
fn maps_of_secrets_take_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "s\n").unwrap();
    let text = format!("[keys]\na = 'x'\nb_file = '{}'", path.display());
    let keys = load_forms(&text).unwrap().value.keys;
    let secret = |text: &str| Secret(text.to_owned());
    assert_eq!(keys, BTreeMap::from([("a".to_owned(), secret("x")), ("b".to_owned(), secret("s"))]));
}

#[test]
fn the_reference_of_a_type_that_holds_itself_ends() {
    let text = reference::<Forms>(PREFIX);
    let loaded = load_forms(&text);
    assert_eq!(loaded.unwrap().value, Forms::default(), "{text}");
}
