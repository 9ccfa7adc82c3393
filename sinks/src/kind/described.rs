//! The settings that every instance has besides its kind's own, and the description of both as one table.

use std::borrow::Cow;
use std::marker::PhantomData;

use headrace_runtime::component::subscription::Start;
use headrace_schemas::event::{Category, Severity};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Kind;
use super::calls::{Breaker, OwnRetry, Rate};
use crate::shared::severity::words;

/// The key with which an instance tells its kind.
pub(crate) const KIND: &str = "kind";

/// The settings that every instance has.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Common {
    /// Where the sink begins when it is new: `stored` at the oldest message that is stored, `now` at the next one. A
    /// sink that has begun goes on where it stopped, and begins at the oldest message if its consumer in NATS is lost.
    pub(crate) start: Start,
    /// Only what is of these tenants, by their names: a login, or what `tenants.by_login` makes of it, in any letter case.
    /// The name `""` means the events of nobody. Empty means all. Example: `["acme", "acme-eu"]`.
    pub(crate) tenants: Vec<String>,
    /// Only events of these categories. Empty means all. Example: `["access", "secrets"]`.
    #[schemars(schema_with = "categories")]
    pub(crate) categories: Vec<Category>,
    /// Only what has this severity or a worse one. `none` takes all. Example: `medium`.
    #[schemars(schema_with = "severity")]
    pub(crate) min_severity: Severity,
    /// Only what has one of these severities, in place of `min_severity`. Example: `["high", "critical"]`.
    #[schemars(schema_with = "severities")]
    pub(crate) severities: Vec<Severity>,
    /// Only what this expression holds for, in the syntax of Jinja, over the fields of an event or alert as the sink
    /// `file` writes them: `actor.login` and `repository.full_name` of an event, `rule`, `actor` and `repository` of an
    /// alert. The page about operating lists all. What subjects can say costs less. Example:
    /// `kind == "push" and repository.full_name == "acme/app"`.
    pub(crate) only: Option<String>,
    /// How many calls are made at once, in each process. With more than one, events do not keep their order. Example: 4.
    #[schemars(range(min = 1, max = 64))]
    pub(crate) concurrency: usize,
    /// The pauses after failures, in place of those of `[retry]`. What is left out is as there.
    pub(crate) retry: OwnRetry,
    /// How much the receiver gets at most, from each consumer of the sink and from each process.
    pub(crate) rate: Rate,
    /// When calls to the receiver stop because they fail: a circuit breaker, which all calls of a process share.
    pub(crate) breaker: Breaker,
}

fn severity(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": words() })
}

fn severities(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": severity(generator) })
}

fn categories(_: &mut SchemaGenerator) -> Schema {
    let words: Vec<&str> = Category::ALL.iter().copied().map(Category::as_str).collect();
    json_schema!({ "type": "array", "items": { "type": "string", "enum": words } })
}

impl Common {
    /// What an instance of the kind `K` has without settings of its own.
    pub(crate) fn of<K: Kind>() -> Self {
        Self { start: K::START, min_severity: K::MIN_SEVERITY, concurrency: K::CONCURRENCY, ..Self::default() }
    }

    /// Takes these settings out of the table of an instance. What the table lacks is as in `self`.
    pub(crate) fn take(self, table: &mut Map<String, Value>) -> Result<Self, serde_json::Error> {
        let mut own = self.to_json();
        for (key, value) in &mut own {
            if let Some(given) = table.remove(key) {
                *value = given;
            }
        }
        serde_json::from_value(Value::Object(own))
    }

    pub(crate) fn to_json(&self) -> Map<String, Value> {
        match json!(self) {
            Value::Object(own) => own,
            _ => Map::new(),
        }
    }
}

/// The table of an instance of the kind `K`, for the checks, the reference and the JSON Schema.
pub(crate) struct Described<K>(PhantomData<K>);

impl<K: Kind> JsonSchema for Described<K> {
    fn schema_name() -> Cow<'static, str> {
        format!("sink_{}", K::NAME).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kind = json!({
            "description": "The kind of this sink.",
            "type": "string",
            "enum": [K::NAME],
            "default": K::NAME,
        });
        let mut properties = Map::from_iter([(KIND.to_owned(), kind)]);
        let defaults = Common::of::<K>().to_json();
        for (key, mut setting) in properties_of(Common::json_schema(generator)) {
            if let Some(setting) = setting.as_object_mut() {
                setting.insert("default".to_owned(), defaults.get(&key).cloned().unwrap_or_default());
            }
            properties.insert(key, setting);
        }
        let mut schema = K::json_schema(generator);
        properties.extend(properties_of(schema.clone()));
        schema.insert("properties".to_owned(), Value::Object(properties));
        schema
    }
}

fn properties_of(mut schema: Schema) -> Map<String, Value> {
    match schema.remove("properties") {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    }
}

/// The schema of a table of instances: one by the name of each of `kinds`, and others that tell their kind.
pub(crate) fn table_of<'k>(kinds: impl Iterator<Item = (&'k str, Schema)>) -> Schema {
    let (mut named, mut others) = (Map::new(), Vec::new());
    for (name, schema) in kinds {
        let mut other = schema.clone();
        other.insert("required".to_owned(), json!([KIND]));
        named.insert(name.to_owned(), schema.to_value());
        others.push(other);
    }
    json_schema!({
        "type": "object",
        "properties": named,
        // For editors. `Instance::validate` says it in words.
        "propertyNames": { "pattern": "^[a-z][a-z0-9_]{0,31}$" },
        "additionalProperties": { "oneOf": others, "discriminator": { "propertyName": KIND } },
    })
}
