//! What a configuration may hold: a tree, read once from the JSON schema of its type.
//!
//! Only the forms that settings have are read: tables, maps, lists, texts, words, whole numbers and booleans, each
//! perhaps optional. A table may also take further tables of the user's own names ([`Named`]). Reading a type of another form panics, which any test that loads it shows. `check.rs` walks
//! documents against the tree, `reference.rs` prints it.

use std::fmt;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Number, Value as Json};
use toml::de::DeValue;

use crate::Value;

/// How deep tables may lie in each other; more can only be a type that holds itself.
const DEPTH_MAX: usize = 16;

/// The ending of the key that names a file with a secret.
const FILE_SUFFIX: &str = "_file";

/// A setting, or a table of them.
pub(crate) struct Node {
    pub(crate) form: Form,
    /// The doc comment of the field, else that of its type.
    pub(crate) description: Option<String>,
    pub(crate) default: Option<Json>,
    pub(crate) examples: Vec<Json>,
}

/// What a value may be.
pub(crate) enum Form {
    Table(Keys),
    /// Any keys, each with a value of this form.
    Map(Box<Node>),
    List(Box<Node>),
    Text,
    /// A text that no message shows.
    Secret,
    /// One of these texts.
    Word(Vec<Word>),
    Integer(Integers),
    Boolean,
}

/// A word of an enum, with its doc comment.
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) description: Option<String>,
}

/// The keys of a table, in the order of the type's fields.
pub(crate) struct Keys {
    pub(crate) nodes: Vec<(String, Node)>,
    pub(crate) required: Vec<String>,
    /// Which further tables it takes, if it takes any.
    pub(crate) named: Option<Named>,
}

/// Tables whose names the user chooses. A key in each says of which kind it is.
pub(crate) struct Named {
    /// The key that says it.
    pub(crate) tag: String,
    /// The name and the table of each kind.
    pub(crate) kinds: Vec<(String, Node)>,
}

/// Which whole numbers a setting may have.
pub(crate) struct Integers {
    pub(crate) min: Option<i128>,
    pub(crate) max: Option<i128>,
    /// If not empty, only these are allowed.
    pub(crate) only: Vec<i128>,
}

/// How a secret is given in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretForm {
    /// One text: the whole file, without its last line break.
    One,
    /// A list of texts: one for each line.
    Many,
}

impl Node {
    /// Reads the tree of a type.
    ///
    /// # Panics
    /// When the type, or one inside of it, has a form that settings do not have.
    pub(crate) fn of<T: JsonSchema>() -> Self {
        let root = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value();
        Reader { root: &root }.node(&root, None, "", 0)
    }

    /// How the setting is given in a file, if it is a secret.
    pub(crate) fn secret_form(&self) -> Option<SecretForm> {
        match &self.form {
            Form::Secret => Some(SecretForm::One),
            Form::List(item) if matches!(item.form, Form::Secret) => Some(SecretForm::Many),
            _ => None,
        }
    }
}

impl Keys {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.nodes.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// The setting `key`, or the table of that name if `value` says of which kind it is.
    pub(crate) fn find(&self, key: &str, value: &Value<'_>) -> Option<&Node> {
        self.get(key).or_else(|| {
            let named = self.named.as_ref()?;
            named.get(named.told(value.get_ref())?)
        })
    }

    pub(crate) fn is_required(&self, key: &str) -> bool {
        self.required.iter().any(|required| required == key)
    }

    /// The secret whose file a key names: `token` for `token_file`, unless the table has a key `token_file`.
    pub(crate) fn secret_of<'k>(&self, key: &'k str) -> Option<(&'k str, SecretForm)> {
        if self.get(key).is_some() {
            return None;
        }
        let stem = key.strip_suffix(FILE_SUFFIX)?;
        Some((stem, self.get(stem)?.secret_form()?))
    }

    /// The setting that a key gives, directly or as a file.
    pub(crate) fn setting<'k>(&self, key: &'k str) -> &'k str {
        self.secret_of(key).map_or(key, |(stem, _)| stem)
    }

    /// Every key that the table may have, including those for secrets in files, in alphabetic order.
    pub(crate) fn known(&self) -> Vec<String> {
        let keys = self.nodes.iter().flat_map(|(key, node)| {
            let file = node.secret_form().map(|_| file_key(key));
            std::iter::once(key.clone()).chain(file)
        });
        let mut keys: Vec<String> = keys.collect();
        keys.sort_unstable();
        keys
    }
}

impl Named {
    /// The table of a kind.
    pub(crate) fn get(&self, kind: &str) -> Option<&Node> {
        self.kinds.iter().find(|(name, _)| name == kind).map(|(_, node)| node)
    }

    /// The kind that a table says it is of.
    pub(crate) fn told<'v>(&self, table: &'v DeValue<'_>) -> Option<&'v str> {
        let DeValue::Table(table) = table else { return None };
        match table.get(self.tag.as_str())?.get_ref() {
            DeValue::String(kind) => Some(kind),
            _ => None,
        }
    }

    /// What a table of another name than a known one lacks, as the end of a message.
    pub(crate) fn need(&self) -> String {
        format!(" (a table of another name needs the key `{}`)", self.tag)
    }

    /// The names of all kinds.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.kinds.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// The key that names the file of a secret.
pub(crate) fn file_key(key: &str) -> String {
    format!("{key}{FILE_SUFFIX}")
}

impl Integers {
    pub(crate) fn admits(&self, value: i128) -> bool {
        let is_inside = self.min.is_none_or(|min| min <= value) && self.max.is_none_or(|max| value <= max);
        is_inside && (self.only.is_empty() || self.only.contains(&value))
    }
}

/// The numbers as the reference and messages name them.
impl fmt::Display for Integers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [others @ .., last] = self.only.as_slice() {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            return match others.as_slice() {
                [] => write!(out, "{last}"),
                others => write!(out, "{} or {last}", others.join(", ")),
            };
        }
        match (self.min, self.max) {
            (Some(min), Some(max)) => write!(out, "integer from {min} to {max}"),
            (Some(min), None) => write!(out, "integer of at least {min}"),
            (None, Some(max)) => write!(out, "integer of at most {max}"),
            (None, None) => write!(out, "integer"),
        }
    }
}

/// A form as the reference names it.
impl fmt::Display for Form {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(_) => write!(out, "table"),
            Self::Map(entry) => write!(out, "table of any key = {}", entry.form),
            Self::List(item) if matches!(item.form, Self::Table(_)) => write!(out, "list of tables"),
            Self::List(item) => write!(out, "list of {}", item.form),
            Self::Text | Self::Secret => write!(out, "string"),
            Self::Word(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.text)).collect();
                write!(out, "one of {}", words.join(", "))
            }
            Self::Integer(integers) => write!(out, "{integers}"),
            Self::Boolean => write!(out, "boolean"),
        }
    }
}

/// A schema with the definitions that its references name.
struct Reader<'s> {
    root: &'s Json,
}

/// A schema's own keywords, then those of the schemas that it refers to. The first that has a keyword counts.
struct Layers<'s>(Vec<&'s Map<String, Json>>);

impl<'s> Layers<'s> {
    fn get(&self, keyword: &str) -> Option<&'s Json> {
        self.0.iter().find_map(|layer| layer.get(keyword))
    }

    fn list(&self, keyword: &str) -> impl Iterator<Item = &'s Json> + use<'s> {
        self.get(keyword).and_then(Json::as_array).into_iter().flatten()
    }

    fn text(&self, keyword: &str) -> Option<String> {
        self.get(keyword).and_then(Json::as_str).map(str::to_owned)
    }

    fn integer(&self, keyword: &str) -> Option<i128> {
        self.get(keyword).and_then(whole)
    }

    /// The type that is not null.
    fn kind(&self) -> Option<&'s str> {
        match self.get("type")? {
            Json::Array(kinds) => kinds.iter().filter_map(Json::as_str).find(|kind| *kind != "null"),
            kind => kind.as_str(),
        }
    }
}

impl<'s> Reader<'s> {
    /// Reads a schema. `inherited` is the default of this setting within the default of the table around it. It overrides
    /// the default of the type.
    fn node(&self, schema: &'s Json, inherited: Option<&Json>, path: &str, depth: usize) -> Node {
        assert!(depth < DEPTH_MAX, "`{path}` has a type that holds itself, which no setting may have");
        let layers = self.layers(schema, path);
        let default = inherited.or(layers.get("default")).filter(|default| !default.is_null()).cloned();
        Node {
            form: self.form(&layers, default.as_ref(), path, depth),
            description: layers.text("description"),
            default,
            examples: layers.list("examples").cloned().collect(),
        }
    }

    fn layers(&self, schema: &'s Json, path: &str) -> Layers<'s> {
        let mut layers = Vec::new();
        let mut next = Some(schema);
        while let Some(schema) = next {
            let Json::Object(layer) = schema else { panic!("`{path}` may be anything, which no setting may be") };
            layers.push(layer);
            next = match layer.get("$ref").and_then(Json::as_str) {
                Some(target) => self.root.pointer(target.trim_start_matches('#')),
                None => optional(layer),
            };
        }
        Layers(layers)
    }

    fn form(&self, layers: &Layers<'s>, default: Option<&Json>, path: &str, depth: usize) -> Form {
        if layers.get("x-secret") == Some(&Json::Bool(true)) {
            return Form::Secret;
        }
        let words = words(layers);
        if !words.is_empty() {
            return Form::Word(words);
        }
        match layers.kind() {
            Some("object") => self.table(layers, default, path, depth),
            Some("array") => {
                let Some(item) = layers.get("items") else { panic!("`{path}` is a list of anything") };
                Form::List(Box::new(self.node(item, None, &format!("{path}[]"), depth + 1)))
            }
            Some("string") => Form::Text,
            Some("integer") => Form::Integer(Integers {
                min: layers.integer("minimum"),
                max: layers.integer("maximum"),
                only: layers.list("enum").filter_map(whole).collect(),
            }),
            Some("boolean") => Form::Boolean,
            other => panic!("`{path}` is of the form {other:?}, which no setting has"),
        }
    }

    fn table(&self, layers: &Layers<'s>, default: Option<&Json>, path: &str, depth: usize) -> Form {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match (layers.get("properties").and_then(Json::as_object), layers.get("additionalProperties")) {
            (Some(properties), Some(Json::Bool(false))) => {
                let nodes = properties.iter().map(|(key, schema)| {
                    let inherited = default.and_then(|default| default.get(key));
                    (key.clone(), self.node(schema, inherited, &below(key), depth + 1))
                });
                let required = layers.list("required").filter_map(Json::as_str).map(str::to_owned);
                Form::Table(Keys { nodes: nodes.collect(), required: required.collect(), named: None })
            }
            (Some(properties), Some(others @ Json::Object(_))) => {
                let nodes = properties
                    .iter()
                    .map(|(key, schema)| (key.clone(), self.node(schema, None, &below(key), depth + 1)));
                let named = Some(self.named(others, &below("*"), depth + 1));
                Form::Table(Keys { nodes: nodes.collect(), required: Vec::new(), named })
            }
            (None, Some(entry @ Json::Object(_))) => {
                Form::Map(Box::new(self.node(entry, None, &below("*"), depth + 1)))
            }
            // Such a table would accept a misspelt key.
            _ => panic!("`{path}` is a table that allows any key; give its type `#[serde(deny_unknown_fields)]`"),
        }
    }
}

impl Reader<'_> {
    /// Reads the tables of the user's own names: one of several, told apart by the word in one of their keys.
    fn named(&self, others: &Json, path: &str, depth: usize) -> Named {
        let tag = others.pointer("/discriminator/propertyName").and_then(Json::as_str);
        let tag = tag.unwrap_or_else(|| panic!("`{path}` is a table that allows any key, and none tells its kind"));
        let kinds = others.get("oneOf").and_then(Json::as_array).into_iter().flatten().map(|schema| {
            let node = self.node(schema, None, path, depth);
            let Form::Table(keys) = &node.form else { panic!("a kind of `{path}` is no table") };
            let Some(Form::Word(words)) = keys.get(tag).map(|node| &node.form) else {
                panic!("a kind of `{path}` has no word for its key `{tag}`")
            };
            let [word] = words.as_slice() else { panic!("a kind of `{path}` has several words for its key `{tag}`") };
            (word.text.clone(), node)
        });
        Named { tag: tag.to_owned(), kinds: kinds.collect() }
    }
}

fn whole(number: &Json) -> Option<i128> {
    number.as_number().and_then(Number::as_i128)
}

/// The schema that `anyOf` with null makes optional.
fn optional(layer: &Map<String, Json>) -> Option<&Json> {
    let is_null = |schema: &Json| schema.get("type").and_then(Json::as_str) == Some("null");
    match layer.get("anyOf")?.as_array()?.as_slice() {
        [schema, null] if is_null(null) => Some(schema),
        _ => None,
    }
}

/// The words of an enum. `enum` lists those without a doc comment, `oneOf` those with one.
fn words(layers: &Layers<'_>) -> Vec<Word> {
    let plain = |word: &Json| Some(Word { text: word.as_str()?.to_owned(), description: None });
    let choices = layers.list("oneOf").flat_map(|choice| {
        let description = choice.get("description").and_then(Json::as_str).map(str::to_owned);
        let one = choice.get("const").and_then(Json::as_str).map(str::to_owned);
        let one = one.map(|text| Word { text, description });
        let several = choice.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(plain);
        one.into_iter().chain(several)
    });
    layers.list("enum").filter_map(plain).chain(choices).collect()
}
