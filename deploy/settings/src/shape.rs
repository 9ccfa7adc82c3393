//! A shape: one alternative of a schema, with its references followed and its parts merged.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Number, Value as Json};
use toml::de::DeValue;

/// A set of kinds of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const STRING: Self = Self(1);
    pub(crate) const INTEGER: Self = Self(1 << 1);
    pub(crate) const FLOAT: Self = Self(1 << 2);
    pub(crate) const BOOLEAN: Self = Self(1 << 3);
    pub(crate) const ARRAY: Self = Self(1 << 4);
    pub(crate) const TABLE: Self = Self(1 << 5);
    pub(crate) const DATETIME: Self = Self(1 << 6);
    /// Serde reads the integer `1` as the float 1.0, so a number is either.
    pub(crate) const NUMBER: Self = Self(Self::INTEGER.0 | Self::FLOAT.0);
    /// What TOML can write; JSON's null is not among it.
    pub(crate) const ALL: Self = Self((1 << 7) - 1);
    const NULL: Self = Self(1 << 7);

    pub(crate) fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(_) => Self::STRING,
            DeValue::Integer(_) => Self::INTEGER,
            DeValue::Float(_) => Self::FLOAT,
            DeValue::Boolean(_) => Self::BOOLEAN,
            DeValue::Datetime(_) => Self::DATETIME,
            DeValue::Array(_) => Self::ARRAY,
            DeValue::Table(_) => Self::TABLE,
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "string" => Self::STRING,
            "integer" => Self::INTEGER,
            "number" => Self::NUMBER,
            "boolean" => Self::BOOLEAN,
            "array" => Self::ARRAY,
            "object" => Self::TABLE,
            "null" => Self::NULL,
            _ => Self::NONE,
        }
    }

    fn of_json(value: &Json) -> Self {
        match value {
            Json::Null => Self::NULL,
            Json::Bool(_) => Self::BOOLEAN,
            Json::Number(number) if number.is_f64() => Self::FLOAT,
            Json::Number(_) => Self::INTEGER,
            Json::String(_) => Self::STRING,
            Json::Array(_) => Self::ARRAY,
            Json::Object(_) => Self::TABLE,
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn admits(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// What a table allows beside its properties.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Additional<'s> {
    /// Nothing is said: keys are free only if no property is declared either.
    Unsaid,
    Denied,
    Each(&'s Json),
}

/// The bounds of a value, each of them if the schema has it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds<'s> {
    pub(crate) minimum: Option<&'s Number>,
    pub(crate) maximum: Option<&'s Number>,
    pub(crate) format: Option<&'s str>,
    pub(crate) characters_min: Option<u64>,
    pub(crate) characters_max: Option<u64>,
    pub(crate) items_min: Option<u64>,
    pub(crate) items_max: Option<u64>,
}

/// One alternative of a schema.
#[derive(Clone, Debug)]
pub(crate) struct Shape<'s> {
    pub(crate) kinds: Kinds,
    /// The only values allowed, if any is listed.
    pub(crate) constants: Vec<&'s Json>,
    /// Keys in the order of the schema.
    pub(crate) properties: Vec<(&'s str, &'s Json)>,
    pub(crate) required: BTreeSet<&'s str>,
    pub(crate) additional: Additional<'s>,
    pub(crate) items: Option<&'s Json>,
    pub(crate) leading_items: Vec<&'s Json>,
    pub(crate) bounds: Bounds<'s>,
    pub(crate) is_secret: bool,
    /// From the outermost to the innermost.
    pub(crate) descriptions: Vec<&'s str>,
    pub(crate) default: Option<&'s Json>,
    pub(crate) examples: Vec<&'s Json>,
}

impl<'s> Shape<'s> {
    /// A shape that allows anything.
    pub(crate) fn any() -> Self {
        Self {
            kinds: Kinds::ALL,
            constants: Vec::new(),
            properties: Vec::new(),
            required: BTreeSet::new(),
            additional: Additional::Unsaid,
            items: None,
            leading_items: Vec::new(),
            bounds: Bounds::default(),
            is_secret: false,
            descriptions: Vec::new(),
            default: None,
            examples: Vec::new(),
        }
    }

    /// What a schema object says itself, without its references and alternatives.
    pub(crate) fn own(schema: &'s Map<String, Json>) -> Self {
        let list = |key| schema.get(key).and_then(Json::as_array).into_iter().flatten();
        let constants: Vec<&Json> = schema.get("const").into_iter().chain(list("enum")).collect();
        let properties = schema.get("properties").and_then(Json::as_object);
        let number = |key| schema.get(key).and_then(Json::as_number);
        let length = |key| schema.get(key).and_then(Json::as_u64);
        Self {
            kinds: own_kinds(schema, &constants),
            constants,
            properties: properties.into_iter().flatten().map(|(key, node)| (key.as_str(), node)).collect(),
            required: list("required").filter_map(Json::as_str).collect(),
            additional: own_additional(schema),
            items: schema.get("items"),
            leading_items: list("prefixItems").collect(),
            bounds: Bounds {
                minimum: number("minimum"),
                maximum: number("maximum"),
                format: schema.get("format").and_then(Json::as_str),
                characters_min: length("minLength"),
                characters_max: length("maxLength"),
                items_min: length("minItems"),
                items_max: length("maxItems"),
            },
            is_secret: schema.get("x-secret").and_then(Json::as_bool).unwrap_or_default(),
            descriptions: schema.get("description").and_then(Json::as_str).into_iter().collect(),
            default: schema.get("default"),
            examples: list("examples").collect(),
        }
    }

    /// The shape of a value that has both shapes, if there can be one; `self` is the outer one.
    pub(crate) fn merge(&self, inner: &Self) -> Option<Self> {
        let mut merged = self.clone();
        merged.kinds = self.kinds.common(inner.kinds);
        if merged.kinds == Kinds::NONE {
            return None;
        }
        if merged.constants.is_empty() {
            merged.constants = inner.constants.clone();
        }
        merged.properties.extend(inner.properties.iter().filter(|(key, _)| self.property(key).is_none()));
        merged.required.extend(&inner.required);
        if let Additional::Unsaid = merged.additional {
            merged.additional = inner.additional;
        }
        merged.items = self.items.or(inner.items);
        if merged.leading_items.is_empty() {
            merged.leading_items = inner.leading_items.clone();
        }
        merged.bounds = self.bounds.or(inner.bounds);
        merged.is_secret |= inner.is_secret;
        merged.descriptions.extend(&inner.descriptions);
        merged.default = self.default.or(inner.default);
        merged.examples.extend(&inner.examples);
        Some(merged)
    }

    pub(crate) fn property(&self, key: &str) -> Option<&'s Json> {
        self.properties.iter().find(|(name, _)| *name == key).map(|(_, node)| *node)
    }

    /// The schema of a key, if the table may have it; `None` inside is a key with any value.
    pub(crate) fn child(&self, key: &str) -> Option<&'s Json> {
        match (self.property(key), self.additional) {
            (Some(node), _) => Some(node),
            (None, Additional::Each(node)) => Some(node),
            // A struct that forgot to deny unknown keys must not swallow a typing error.
            (None, Additional::Unsaid) if self.properties.is_empty() => Some(&Json::Bool(true)),
            (None, Additional::Unsaid | Additional::Denied) => None,
        }
    }

    /// The schema of an element of an array.
    pub(crate) fn item(&self, index: usize) -> Option<&'s Json> {
        self.leading_items.get(index).copied().or(self.items)
    }

    /// The string constants, for enums.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'s str> {
        self.constants.iter().filter_map(|constant| constant.as_str())
    }

    /// The required key whose only value names the alternative, with that value.
    pub(crate) fn tags(&self) -> BTreeMap<&'s str, &'s str> {
        let word = |node: &'s Json| node.get("const").and_then(Json::as_str);
        let tags = self.properties.iter().filter(|(key, _)| self.required.contains(key));
        tags.filter_map(|(key, node)| Some((*key, word(node)?))).collect()
    }
}

impl Bounds<'_> {
    fn or(self, inner: Self) -> Self {
        Self {
            minimum: self.minimum.or(inner.minimum),
            maximum: self.maximum.or(inner.maximum),
            format: self.format.or(inner.format),
            characters_min: self.characters_min.or(inner.characters_min),
            characters_max: self.characters_max.or(inner.characters_max),
            items_min: self.items_min.or(inner.items_min),
            items_max: self.items_max.or(inner.items_max),
        }
    }
}

fn own_kinds(schema: &Map<String, Json>, constants: &[&Json]) -> Kinds {
    let union = |kinds: &mut dyn Iterator<Item = Kinds>| kinds.fold(Kinds::NONE, Kinds::and);
    match schema.get("type") {
        Some(Json::String(name)) => Kinds::named(name),
        Some(Json::Array(names)) => union(&mut names.iter().filter_map(Json::as_str).map(Kinds::named)),
        _ if !constants.is_empty() => union(&mut constants.iter().map(|constant| Kinds::of_json(constant))),
        _ if schema.contains_key("properties") => Kinds::TABLE,
        _ => Kinds::ALL.and(Kinds::NULL),
    }
}

fn own_additional(schema: &Map<String, Json>) -> Additional<'_> {
    let patterns = schema.get("patternProperties").and_then(Json::as_object);
    // A map whose keys are numbers is written as a pattern; which keys it takes is left to serde.
    if let Some(node) = patterns.and_then(|patterns| patterns.values().next()) {
        return Additional::Each(node);
    }
    match schema.get("additionalProperties") {
        None => Additional::Unsaid,
        Some(Json::Bool(false)) => Additional::Denied,
        Some(node) => Additional::Each(node),
    }
}
