//! Tables whose names the user chooses, each of one of several kinds.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::{Document, Variables, load};
use crate::{Loaded, Problems};

/// A document with such tables.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Places to send to.
    outputs: Outputs,
}

/// Read as texts: which values are right is the schema's matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
struct Outputs(BTreeMap<String, BTreeMap<String, String>>);

impl JsonSchema for Outputs {
    fn schema_name() -> Cow<'static, str> {
        "Outputs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let kind = |name: &str, key: &str| {
            json_schema!({
                "type": "object",
                "properties": {
                    "kind": { "type": "string", "enum": [name] },
                    key: { "type": "string", "x-secret": key == "token" },
                },
                "additionalProperties": false,
            })
        };
        let (mail, chat) = (kind("mail", "to"), kind("chat", "token"));
        json_schema!({
            "type": "object",
            "default": {},
            "properties": { "mail": mail, "chat": chat },
            "additionalProperties": { "oneOf": [mail, chat], "discriminator": { "propertyName": "kind" } },
        })
    }
}

fn loaded(text: &str, variables: &[(&str, &str)]) -> Result<Loaded<Config>, Problems> {
    let variables = Variables::of("APP__", variables.iter().copied());
    load(Some(Document { name: "h.toml", text }), &variables, |_| Vec::new())
}

fn told(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let problems = loaded(text, variables).expect_err("it is refused");
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_table_of_another_name_has_the_keys_of_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "hunter2\n").unwrap();
    let text = format!("[outputs.mail]\nto = 'a'\n[outputs.team]\nkind = 'chat'\ntoken_file = '{}'", path.display());
    let config = loaded(&text, &[]).unwrap();
    assert_eq!(config.value.outputs.0["team"]["token"], "hunter2");
    assert_eq!(config.locate("outputs.team.token").to_string(), "h.toml:5:14");
    let config = loaded(&text, &[("APP__OUTPUTS__TEAM__TOKEN", "other"), ("APP__OUTPUTS__MAIL__TO", "b")]).unwrap();
    assert_eq!((&*config.value.outputs.0["team"]["token"], &*config.value.outputs.0["mail"]["to"]), ("other", "b"));
}

#[test]
fn what_is_wrong_has_its_place() {
    for (text, expected) in [
        (
            "[outputs.team]\nkind = 'chat'\nto = 'a'",
            "h.toml:3:1: outputs.team.to: unknown key; known here: `kind`, `token`, `token_file`",
        ),
        (
            "[outputs.team]\nkind = 'chta'",
            "h.toml:2:8: outputs.team.kind: unknown value `chta`; expected one of `mail`, `chat`; did you mean `chat`?",
        ),
        (
            "[outputs.team]\nto = 'a'",
            "h.toml:1:10: outputs.team: unknown key; known here: `chat`, `mail` (a table of another name needs the key `kind`)",
        ),
        (
            "outputs.mial.to = 'a'",
            "h.toml:1:9: outputs.mial: unknown key; did you mean `mail`? (a table of another name needs the key `kind`)",
        ),
        (
            "outputs.team = 7",
            "h.toml:1:9: outputs.team: unknown key; known here: `chat`, `mail` (a table of another name needs the key `kind`)",
        ),
    ] {
        assert_eq!(told(text, &[]), [expected], "{text}");
    }
}

#[test]
fn variables_tell_the_kind_in_any_order() {
    let variables = [("APP__OUTPUTS__TEAM__TOKEN", "0123"), ("APP__OUTPUTS__TEAM__KIND", "chat")];
    assert_eq!(loaded("", &variables).unwrap().value.outputs.0["team"]["token"], "0123");
    let wrong = [("APP__OUTPUTS__TEAM__A", "1"), ("APP__OUTPUTS__TEAM__KIND", "cha")];
    let expected = "APP__OUTPUTS__TEAM__KIND: outputs.team.kind: unknown value `cha`; expected one of `mail`, `chat`; did \
                    you mean `chat`?";
    assert_eq!(told("", &wrong), [expected]);
    let without = [("APP__OUTPUTS__TEAM__TOKEN", "hunter2")];
    let expected = "APP__OUTPUTS__TEAM__TOKEN: outputs.team: unknown key; known here: `chat`, `mail` (a table of another \
                    name needs the key `kind`)";
    assert_eq!(told("", &without), [expected]);
}
