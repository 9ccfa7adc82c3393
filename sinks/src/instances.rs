//! The configured sinks: named instances of the registered kinds.
//!
//! `[sinks.NAME]` is the instance NAME. Its key `kind` says what it is; without one, NAME is its kind's name. The names
//! of its components follow from its own, so no two instances share a consumer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use headrace_runtime::broker::Stream;
use headrace_runtime::component::subscription::{Owner, Start, WhenBehind};
use headrace_runtime::config::{Invalid, Retry};
use headrace_runtime::consume::leftover::Component;
use headrace_runtime::fault::Fault;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::KINDS;
use crate::kind::described::{Common, KIND, table_of};
use crate::kind::{Configured, Entry, Identity, Kind, Part, Terms};

/// The longest name of an instance, in bytes.
const NAME_BYTES_MAX: usize = 32;

/// The configured sinks, by name.
#[derive(Clone, Debug, Default)]
pub struct Sinks(BTreeMap<String, Instance>);

/// A configured sink.
pub struct Instance {
    name: String,
    kind: &'static Entry,
    common: Common,
    settings: Box<dyn Configured>,
}

impl Sinks {
    /// Every instance, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.0.values()
    }

    /// The settings of every instance of a kind, with their names.
    pub fn of_kind<K: Kind>(&self) -> impl Iterator<Item = (&str, &K)> {
        self.0.iter().filter_map(|(name, instance)| Some((name.as_str(), instance.settings.as_any().downcast_ref()?)))
    }

    /// The settings of the instance that has the name of its kind.
    #[must_use]
    pub fn first<K: Kind>(&self) -> Option<&K> {
        self.0.get(K::NAME)?.settings.as_any().downcast_ref()
    }

    /// The same, to change them.
    pub fn first_mut<K: Kind>(&mut self) -> Option<&mut K> {
        self.0.get_mut(K::NAME)?.settings.as_any_mut().downcast_mut()
    }

    /// The same. An absent instance gets the default settings.
    pub fn first_or_default<K: Kind>(&mut self) -> &mut K {
        let kind = entry(K::NAME).expect("its kind is registered, or there would be no settings of it");
        let absent = || Instance::new(K::NAME, kind, Box::new(K::default()));
        let instance = self.0.entry(K::NAME.to_owned()).or_insert_with(absent);
        instance.settings.as_any_mut().downcast_mut().expect("the instance of a kind's name is of that kind")
    }

    /// Adds the instances that `up` runs besides those of the configuration. `data` is the data directory.
    pub fn complete_for_up(&mut self, data: &Path) {
        // A kind of which `up` would run an instance by itself is no receiver that somebody chose.
        let is_chosen = |instance: &Instance| (instance.kind.of_up)(data, true).is_none();
        let is_alone = !self.iter().any(is_chosen);
        for kind in KINDS.iter().filter(|kind| !self.0.contains_key(kind.name)).collect::<Vec<_>>() {
            if let Some(settings) = (kind.of_up)(data, is_alone) {
                self.0.insert(kind.name.to_owned(), Instance::new(kind.name, kind, settings));
            }
        }
    }

    /// Everything that is wrong with these settings. `path` is where they are in the configuration, `taken` has the
    /// names of consumers and users that are not the sinks'.
    #[must_use]
    pub fn validate(&self, path: &str, taken: &[&str]) -> Vec<Invalid> {
        let mut problems: Vec<Invalid> = self.iter().flat_map(|instance| instance.validate(path, taken)).collect();
        let mut places: BTreeMap<(&str, String), &str> = BTreeMap::new();
        for instance in self.iter() {
            let Some((field, value)) = instance.settings.place() else { continue };
            if let Some(other) = places.insert((instance.kind.name, value), &instance.name) {
                let message = format!("expected another one than that of `{path}.{other}`, found the same");
                problems.push(Invalid::new(format!("{path}.{}.{field}", instance.name), message));
            }
        }
        problems
    }

    /// What is wrong with their pauses, where `[retry]` is `global`.
    #[must_use]
    pub fn validate_retry(&self, path: &str, global: &Retry) -> Vec<Invalid> {
        let problems =
            |instance: &Instance| instance.common.validate_retry(&format!("{path}.{}", instance.name), global);
        self.iter().flat_map(problems).collect()
    }

    /// What is wrong with the instance that has the name of its kind, if there is one.
    #[must_use]
    pub fn validate_first<K: Kind>(&self, path: &str) -> Vec<Invalid> {
        self.0.get(K::NAME).map(|instance| instance.validate(path, &[])).unwrap_or_default()
    }

    /// `instance`, as the owner of its consumer on `stream`.
    #[must_use]
    pub fn owner(&self, instance: &Instance, stream: Stream) -> Owner {
        let when_behind = match stream {
            _ if instance.is_store() => WhenBehind::Store { place: instance.settings.store_place() },
            Stream::Events if self.has_store() => WhenBehind::SetAside,
            // There is no table of alerts, and of bodies no sink catches up.
            _ => WhenBehind::Wait,
        };
        let (name, kind) = (instance.name.clone(), instance.kind.name.to_owned());
        Owner { instance: name, kind, start: instance.common.start, when_behind }
    }

    /// Whether the installation has a store, from which the sinks of events can catch up.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.iter().any(Instance::is_store)
    }

    /// The components that can catch up from the store.
    #[must_use]
    pub fn catching_up(&self) -> Vec<Component> {
        let of = |instance: &Instance| -> Vec<Component> {
            let catches_up =
                |component: &Component| self.owner(instance, component.stream).when_behind == WhenBehind::SetAside;
            instance.components().into_iter().filter(catches_up).collect()
        };
        self.iter().flat_map(of).collect()
    }

    /// Every component of every instance.
    #[must_use]
    pub fn components(&self) -> Vec<Component> {
        self.iter().flat_map(Instance::components).collect()
    }
}

/// The components of the instances that have the names of their kinds, configured or not.
#[must_use]
pub fn usual_components() -> Vec<Component> {
    KINDS.iter().flat_map(|kind| components(kind.name, kind)).collect()
}

fn entry(kind: &str) -> Option<&'static Entry> {
    KINDS.iter().find(|entry| entry.name == kind)
}

fn components(instance: &str, kind: &Entry) -> Vec<Component> {
    let component = |(suffix, stream): &(&str, _)| Component {
        instance: instance.to_owned(),
        kind: kind.name.to_owned(),
        name: format!("{instance}{suffix}"),
        stream: *stream,
    };
    kind.components.iter().map(component).collect()
}

impl Instance {
    fn new(name: &str, kind: &'static Entry, settings: Box<dyn Configured>) -> Self {
        Self { name: name.to_owned(), kind, common: (kind.defaults)(), settings }
    }

    /// Reads the table of the instance `name`.
    fn read(name: &str, mut table: Map<String, Value>) -> Result<Self, String> {
        let kind = match table.remove(KIND) {
            Some(Value::String(kind)) => kind,
            Some(_) => return Err("expected a string as its kind".to_owned()),
            None => name.to_owned(),
        };
        let kind = entry(&kind).ok_or_else(|| format!("`{kind}` is no kind of sink"))?;
        let common = (kind.defaults)().take(&mut table).map_err(|error| error.to_string())?;
        let settings = (kind.read)(Value::Object(table)).map_err(|error| error.to_string())?;
        Ok(Self { name: name.to_owned(), kind, common, settings })
    }

    fn to_json(&self) -> Value {
        let mut table = Map::from_iter([(KIND.to_owned(), Value::from(self.kind.name))]);
        table.extend(self.common.to_json());
        if let Value::Object(own) = self.settings.to_json() {
            table.extend(own);
        }
        Value::Object(table)
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind.name
    }

    /// Whether it is the installation's store.
    fn is_store(&self) -> bool {
        self.kind.first_is_store && self.name == self.kind.name
    }

    /// How its calls are repeated and limited, where `[retry]` is `global`.
    #[must_use]
    pub fn terms(&self, global: &Retry) -> Terms {
        self.common.terms(global)
    }

    /// Its components.
    #[must_use]
    pub fn components(&self) -> Vec<Component> {
        components(&self.name, self.kind)
    }

    /// Builds its components, each with its name, for the installation with this id.
    ///
    /// # Errors
    /// When something that the settings name cannot be used, such as a file of certificates.
    pub fn parts(&self, installation: &str) -> anyhow::Result<Vec<(Component, Part)>> {
        let (components, parts) = (self.components(), self.settings.parts(&self.of(installation))?);
        let are_declared = components.iter().map(|component| component.stream).eq(parts.iter().map(Part::stream));
        anyhow::ensure!(
            are_declared,
            "the components of the sink kind {} are not those that it declares",
            self.kind.name
        );
        let mut parts =
            parts.into_iter().map(|part| self.common.select(part)).collect::<anyhow::Result<Vec<Part>>>()?;
        parts.iter_mut().for_each(|part| part.options.workers = self.common.concurrency);
        Ok(components.into_iter().zip(parts).collect())
    }

    /// Whether the receiver is reachable and accepts our credentials. Changes nothing there.
    ///
    /// # Errors
    /// Transient when it is away, broken when a person must act.
    pub async fn check(&self) -> Result<(), Fault> {
        self.settings.check().await
    }

    /// Makes what the receiver lacks, such as tables. See [`Kind::prepare`].
    /// `installation` is the installation's id, if it is known.
    pub async fn prepare(&self, installation: Option<&str>) -> Option<Result<(), Fault>> {
        self.settings.prepare(installation.map(|id| self.of(id)).as_ref()).await
    }

    fn of(&self, installation: &str) -> Identity {
        Identity { instance: self.name.clone(), installation: installation.to_owned() }
    }

    /// What `up` tells a person about it: a word and a text.
    #[must_use]
    pub fn told(&self) -> Option<(&'static str, String)> {
        self.settings.told()
    }

    fn validate(&self, path: &str, taken: &[&str]) -> Vec<Invalid> {
        let name = self.name.as_str();
        let refuse = |message: String| vec![Invalid::new(format!("{path}.{}", quoted(name)), message)];
        if !is_name(name) {
            let found: String = name.chars().take(NAME_BYTES_MAX).flat_map(char::escape_debug).collect();
            return refuse(format!(
                "expected a name of at most {NAME_BYTES_MAX} bytes, a lower case letter and then such letters, digits or \
                 `_`, found `{found}`"
            ));
        }
        if entry(name).is_some_and(|kind| kind.name != self.kind.name) {
            let kind = self.kind.name;
            return refuse(format!(
                "expected the kind `{name}`, found `{kind}`; a sink with the name of a kind is of it"
            ));
        }
        if let Some(component) = self.components().into_iter().find(|own| taken.contains(&own.name.as_str())) {
            let component = component.name;
            return refuse(format!(
                "expected another name: `{component}` is a stage of the pipeline or a user of NATS"
            ));
        }
        let path = format!("{path}.{name}");
        let mut problems = self.settings.validate(&path);
        problems.extend(self.common.validate(&path, self.kind.components));
        problems.extend(self.common.validate_concurrency(&path, self.kind.one_at_a_time));
        if self.is_store() {
            let message = "expected none, because `[sinks.clickhouse]` is the store that recovery and replay rely on; another \
                           instance of this kind may select";
            let given = self.common.selecting().into_iter();
            problems.extend(given.map(|field| Invalid::new(format!("{path}.{field}"), message)));
            if self.common.start == Start::Now {
                let message =
                    "expected `stored`, because `[sinks.clickhouse]` is the store from which other sinks catch up";
                problems.push(Invalid::new(format!("{path}.start"), message));
            }
        }
        problems
    }
}

/// Whether a sink may have this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    begins && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain)
}

/// A name as it stands in a path.
fn quoted(name: &str) -> Cow<'_, str> {
    let is_bare = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    if !name.is_empty() && name.chars().all(is_bare) { name.into() } else { format!("\"{name}\"").into() }
}

impl Clone for Instance {
    fn clone(&self) -> Self {
        let Self { name, kind, common, settings } = self;
        Self { name: name.clone(), kind, common: common.clone(), settings: settings.boxed() }
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, kind, common, settings } = self;
        let mut out = out.debug_struct("Instance");
        out.field("name", name).field("kind", &kind.name).field("common", common).field("settings", settings).finish()
    }
}

impl<'de> Deserialize<'de> for Sinks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tables = BTreeMap::<String, Map<String, Value>>::deserialize(deserializer)?;
        let read = tables.into_iter().map(|(name, table)| {
            let instance =
                Instance::read(&name, table).map_err(|error| D::Error::custom(format!("{name}: {error}")))?;
            Ok((name, instance))
        });
        read.collect::<Result<_, _>>().map(Self)
    }
}

impl Serialize for Sinks {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|instance| (&instance.name, instance.to_json())))
    }
}

impl JsonSchema for Sinks {
    fn schema_name() -> Cow<'static, str> {
        "Sinks".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        table_of(KINDS.iter().map(|kind| (kind.name, (kind.schema)(generator))))
    }
}

#[cfg(test)]
mod tests;
