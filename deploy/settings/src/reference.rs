//! The reference of a configuration: a TOML document written from the doc comments of its types.
//!
//! Prose lines start with `# `; a line that starts with `#` and no space is a setting to uncomment.
//! Only tables whose presence changes nothing stand uncommented, so the document as it is loads
//! like an empty one.

use schemars::JsonSchema;
use serde_json::Value as Json;

use crate::choice::common_tag;
use crate::origin::{key_path, quoted_key};
use crate::schema::{Schema, SecretForm};
use crate::shape::{Additional, Kinds, Shape};
use crate::words::{self, inline};

/// How deep tables are described, so that a type that holds itself ends.
const DEPTH_MAX: usize = 8;

/// The key shown where a map takes any.
const EXAMPLE_KEY: &str = "example";

/// The reference of the settings of `T`, from its doc comments, defaults and examples.
///
/// Variables that override it begin with `prefix`, such as `HEADRACE__`. A required setting shows the first example of its type (`#[schemars(example = …)]`), else a placeholder.
pub fn reference<T: JsonSchema>(prefix: &str) -> String {
    let schema = Schema::of::<T>();
    let mut writer = Writer { schema: &schema, text: introduction(prefix), depth: 0 };
    let shapes = schema.shapes(schema.root());
    if let Some(shape) = shapes.first() {
        if !shape.descriptions.is_empty() {
            writer.text.push_str("#\n");
            writer.description(&shape.descriptions);
        }
        writer.properties(shape, shape.default, "", Style::Live);
    }
    writer.text
}

fn introduction(prefix: &str) -> String {
    format!(
        "\
# Every setting, with its default. Uncomment a line that starts with `#` and no space to change it.
#
# An environment variable overrides the file: {prefix}TABLE__KEY sets `key` in `[table]`.
# A secret `x` may be given as `x_file`, the path of a file that holds it.
"
    )
}

/// How much of a table is commented out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Its header stands, its keys are to be uncommented.
    Live,
    /// Header and keys are to be uncommented.
    Commented,
}

/// A property to describe.
struct Entry<'s> {
    key: &'s str,
    shapes: Vec<Shape<'s>>,
    secret: Option<SecretForm>,
    presence: Presence<'s>,
}

/// What holds where a property is not given.
#[derive(Clone, Copy)]
enum Presence<'s> {
    Required,
    Default(&'s Json),
    Optional,
    /// The property stands for every entry of a map.
    Entry,
}

impl<'s> Entry<'s> {
    fn default(&self) -> Option<&'s Json> {
        match self.presence {
            Presence::Default(default) => Some(default),
            Presence::Required | Presence::Optional | Presence::Entry => None,
        }
    }
}

struct Writer<'s> {
    schema: &'s Schema,
    text: String,
    depth: usize,
}

impl<'s> Writer<'s> {
    /// Describes the keys of a table, then the tables in it, as TOML wants them ordered.
    fn properties(&mut self, shape: &Shape<'s>, default: Option<&'s Json>, path: &str, style: Style) {
        if self.depth == DEPTH_MAX {
            return;
        }
        self.depth += 1;
        let properties = shape.properties.iter();
        let entries = properties.map(|(key, node)| self.entry(shape, key, node, default));
        let (tables, leaves): (Vec<_>, Vec<_>) = entries.partition(|entry| self.is_section(&entry.shapes));
        for entry in &leaves {
            self.leaf(entry);
        }
        for entry in &tables {
            self.section(entry, &key_path(path, entry.key), style);
        }
        self.depth -= 1;
    }

    fn entry(&self, table: &Shape<'s>, key: &'s str, node: &'s Json, outer: Option<&'s Json>) -> Entry<'s> {
        let shapes = self.schema.shapes(node);
        let secret = self.schema.secret_form(node);
        // The table's own default says more than its type's: it is the default in this place.
        let inherited = outer.and_then(|table| table.get(key));
        let own = node.get("default").or_else(|| shapes.first().and_then(|shape| shape.default));
        let default = inherited.or(own).filter(|default| !default.is_null() && secret.is_none());
        let presence = match default {
            _ if table.required.contains(key) => Presence::Required,
            Some(default) => Presence::Default(default),
            None => Presence::Optional,
        };
        Entry { key, shapes, secret, presence }
    }

    /// Whether a property is written with a header: a table, a map, or a list of tables.
    fn is_section(&self, shapes: &[Shape<'s>]) -> bool {
        let is_table = |shape: &Shape<'s>| shape.kinds == Kinds::TABLE;
        let is_list = |shape: &Shape<'s>| {
            let items = shape.item(0).map(|item| self.schema.shapes(item)).unwrap_or_default();
            shape.kinds == Kinds::ARRAY && !items.is_empty() && items.iter().all(is_table)
        };
        !shapes.is_empty() && (shapes.iter().all(is_table) || shapes.iter().all(is_list))
    }

    fn leaf(&mut self, entry: &Entry<'s>) {
        self.text.push('\n');
        let shared = common_descriptions(&entry.shapes);
        self.description(&shared);
        for shape in entry.shapes.iter().filter(|_| entry.shapes.len() > 1) {
            let own = shape.descriptions.get(shared.len());
            if let (Some(word), Some(own)) = (shape.words().next(), own) {
                self.prose(&format!("- \"{word}\": {own}"));
            }
        }
        self.prose(&self.facts(entry));
        // A default comes first: an example would change what it stands for.
        let mut examples = entry.shapes.iter().flat_map(|shape| &shape.examples).copied();
        let value = match (entry.default().or_else(|| examples.next()), entry.shapes.first()) {
            (Some(value), _) => inline(value),
            (None, Some(shape)) => words::placeholder(self.schema, shape),
            (None, None) => "\"\"".to_owned(),
        };
        self.setting(&format!("{} = {value}", quoted_key(entry.key)));
    }

    /// The line that says type, default and whether a key is required or secret.
    fn facts(&self, entry: &Entry<'s>) -> String {
        let presence = match entry.presence {
            Presence::Required => "required".to_owned(),
            Presence::Default(default) => format!("default {}", inline(default)),
            Presence::Optional => "optional".to_owned(),
            Presence::Entry => format!("`{}` stands for any key", entry.key),
        };
        let file = Schema::file_key(entry.key);
        let secret = match entry.secret {
            Some(SecretForm::One) => format!("; secret, or `{file}`"),
            Some(SecretForm::Many) => format!("; secret, or `{file}` with one in each line"),
            None => String::new(),
        };
        format!("{}; {presence}{secret}", words::kinds(self.schema, &entry.shapes))
    }

    fn section(&mut self, entry: &Entry<'s>, path: &str, outer: Style) {
        let Some(first) = entry.shapes.first() else {
            return;
        };
        self.text.push('\n');
        self.description(&common_descriptions(&entry.shapes));
        match entry.presence {
            Presence::Required => self.prose("Required."),
            Presence::Optional => self.prose("Optional: absent by default."),
            Presence::Entry => self.prose(&format!("`{}` stands for any key.", entry.key)),
            // The keys of a map or list have no lines of their own for what is there by default.
            Presence::Default(default) if first.properties.is_empty() && is_filled(default) => {
                self.prose(&format!("Default: {}", inline(default)));
            }
            Presence::Default(_) => {}
        }
        let style = if self.stands_alone(entry) { outer } else { Style::Commented };
        if first.kinds == Kinds::ARRAY {
            let items = first.item(0).map(|item| self.schema.shapes(item)).unwrap_or_default();
            self.alternatives(&items, None, path, &format!("[[{path}]]"), style);
        } else {
            self.alternatives(&entry.shapes, entry.default(), path, &format!("[{path}]"), style);
        }
    }

    /// Describes a table: its first alternative to be uncommented, the others to be read.
    fn alternatives(
        &mut self,
        shapes: &[Shape<'s>],
        default: Option<&'s Json>,
        path: &str,
        header: &str,
        style: Style,
    ) {
        let shared = common_descriptions(shapes).len();
        let shapes = default_first(shapes, default);
        let tag = common_tag(&shapes).filter(|_| shapes.len() > 1);
        for (index, shape) in shapes.iter().enumerate() {
            let own = shape.descriptions.get(shared..).unwrap_or_default();
            if index == 0 {
                self.description(own);
                self.header(header, style);
                self.table(shape, default, path, style);
                continue;
            }
            let tag = tag.and_then(|key| Some(format!("With {key} = \"{}\":", shape.tags().get(key)?)));
            self.text.push_str("#\n");
            self.prose(tag.as_deref().unwrap_or("Or:"));
            let mut inner = Writer { schema: self.schema, text: String::new(), depth: self.depth };
            inner.description(own);
            inner.header(header, Style::Commented);
            inner.table(shape, None, path, Style::Commented);
            for line in inner.text.lines() {
                let line = if line.starts_with("# ") { line } else { line.strip_prefix('#').unwrap_or(line) };
                self.prose(&format!("    {line}"));
            }
        }
    }

    fn table(&mut self, shape: &Shape<'s>, default: Option<&'s Json>, path: &str, style: Style) {
        let Additional::Each(node) = shape.additional else {
            return self.properties(shape, default, path, style);
        };
        self.properties(shape, default, path, style);
        let entry = Entry {
            key: EXAMPLE_KEY,
            shapes: self.schema.shapes(node),
            secret: self.schema.secret_form(node),
            presence: Presence::Entry,
        };
        if self.is_section(&entry.shapes) {
            self.section(&entry, &key_path(path, EXAMPLE_KEY), Style::Commented);
        } else {
            self.leaf(&entry);
        }
    }

    /// Whether the header may stand uncommented: an empty table must mean the same as no table.
    fn stands_alone(&self, entry: &Entry<'s>) -> bool {
        let ([shape], Some(default)) = (entry.shapes.as_slice(), entry.default()) else {
            return false;
        };
        let is_own = |(key, node): &(&str, &Json)| default.get(key) == node.get("default");
        let is_same = match shape.properties.as_slice() {
            [] => !is_filled(default),
            properties => properties.iter().all(is_own),
        };
        shape.kinds == Kinds::TABLE && shape.required.is_empty() && is_same
    }

    fn header(&mut self, header: &str, style: Style) {
        match style {
            Style::Live => self.text.push_str(&format!("{header}\n")),
            Style::Commented => self.setting(header),
        }
    }

    fn setting(&mut self, line: &str) {
        self.text.push_str(&format!("#{line}\n"));
    }

    /// Writes the outermost description: a field's comment says what its type's says, for this place.
    fn description(&mut self, descriptions: &[&str]) {
        if let Some(description) = descriptions.first() {
            self.prose(description);
        }
    }

    fn prose(&mut self, text: &str) {
        for line in text.lines() {
            self.text.push_str(format!("# {line}").trim_end());
            self.text.push('\n');
        }
    }
}

fn is_filled(default: &Json) -> bool {
    match default {
        Json::Object(pairs) => !pairs.is_empty(),
        Json::Array(items) => !items.is_empty(),
        _ => true,
    }
}

/// The alternatives with the one that the default has in front.
fn default_first<'c, 's>(shapes: &'c [Shape<'s>], default: Option<&Json>) -> Vec<&'c Shape<'s>> {
    let mut shapes: Vec<&Shape<'s>> = shapes.iter().collect();
    if let (Some(tag), Some(default)) = (common_tag(&shapes), default) {
        let word = default.get(tag).and_then(Json::as_str);
        // The sort is stable, so the others keep their order.
        shapes.sort_by_key(|shape| shape.tags().get(tag).copied() != word);
    }
    shapes
}

/// The descriptions that all alternatives share: those of the property and its type.
fn common_descriptions<'s>(shapes: &[Shape<'s>]) -> Vec<&'s str> {
    let Some(first) = shapes.first() else {
        return Vec::new();
    };
    let is_common =
        |(index, text): &(usize, &&str)| shapes.iter().all(|shape| shape.descriptions.get(*index) == Some(*text));
    let common = first.descriptions.iter().enumerate().take_while(is_common);
    common.map(|(_, text)| *text).collect()
}
