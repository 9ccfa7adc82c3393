//! A configuration with every kind of setting, and the checks that its tests share.

mod editor;
mod environment;
mod forms;
mod kinds;
mod named;
mod places;
mod reference;
mod secrets;

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{Document, Loaded, Problems, Variables, load};

/// A secret as in the product: its schema marks it, and nothing prints it.
#[derive(Clone, Default, Deserialize, Serialize, PartialEq)]
#[serde(transparent)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Secret")
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "x-secret": true})
    }
}

/// An address that serde refuses although its schema allows it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(try_from = "String")]
#[schemars(example = "https://example.com")]
struct Url(String);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with("http") { Ok(Self(text)) } else { Err(format!("`{text}` is no URL")) }
    }
}

/// A sample of a product.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// A name for this instance.
    name: String,
    /// How much is logged.
    level: Level,
    /// The gateway.
    ingest: Ingest,
    /// Where events go.
    sinks: Sinks,
    /// Free labels.
    #[schemars(example = serde_json::json!({ "two words": "yes" }))]
    labels: BTreeMap<String, String>,
    /// Rules, in the order in which they apply.
    rules: Vec<Rule>,
}

/// The gateway's settings.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Ingest {
    /// The port to listen on.
    port: u16,
    /// The workers.
    #[schemars(range(min = 1, max = 64))]
    workers: u32,
    /// The replicas.
    #[schemars(extend("enum" = [1, 3, 5]))]
    replicas: usize,
    /// Whether to compress.
    compress: bool,
    /// The largest body, if there is a limit.
    body_bytes_max: Option<u64>,
    /// The webhook secrets, newest first.
    secrets: Vec<Secret>,
    /// Chains of stages.
    chains: Vec<Vec<String>>,
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            port: 8080,
            workers: 2,
            replicas: 1,
            compress: true,
            body_bytes_max: None,
            secrets: Vec::new(),
            chains: vec![vec!["normalize".to_owned()]],
        }
    }
}

/// The sinks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Sinks {
    /// Forwards to Splunk.
    splunk: Option<Splunk>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
struct Splunk {
    /// The collector's address.
    url: Url,
    /// The collector's token.
    token: Secret,
    /// The index to write to.
    #[serde(default)]
    index: Option<String>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// Lifecycle only.
    #[default]
    Info,
    /// Every detail.
    Debug,
    Off,
}

#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// The rule's name.
    name: String,
    /// What it does.
    action: Action,
    /// The header sent along.
    #[serde(default)]
    header: Option<Secret>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Action {
    Drop,
    Tag,
}

const PREFIX: &str = "HEADRACE__";

fn load_text(text: &str) -> Result<Loaded<Config>, Problems> {
    load(Some(Document { name: "h.toml", text }), &Variables::default(), |_| Vec::new())
}

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded<Config>, Problems> {
    load(Some(Document { name: "h.toml", text }), &variables(environment), |_| Vec::new())
}

fn variables(environment: &[(&str, &str)]) -> Variables {
    Variables::of(PREFIX, environment.iter().copied())
}

/// The lines that a refused configuration shows, without the last.
fn lines(loaded: Result<Loaded<Config>, Problems>) -> Vec<String> {
    match loaded {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// Checks the problems of each document in a table.
fn check(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        assert_eq!(lines(load_text(text)), *expected, "in the document:\n{text}");
    }
}
