//! The reference of a configuration: a TOML document written from the doc comments of its types.
//!
//! Prose lines start with `# `. A line that starts with `#` and no space is a setting with its whole path, so that any
//! of them may be uncommented by itself. The document has no table headers: a line below one would change its meaning.

use schemars::JsonSchema;
use serde_json::Value as Json;

use crate::origin::{key_path, quoted_key};
use crate::schema::{Form, Keys, Node, SecretForm, file_key};

/// The reference of the settings of `T`, from its doc comments, ranges, defaults and examples. Variables that override
/// them begin with `prefix`, such as `HEADRACE__`.
///
/// A setting without a default shows its first example (`#[schemars(example = …)]`), else a placeholder.
pub fn reference<T: JsonSchema>(prefix: &str) -> String {
    let root = Node::of::<T>();
    let mut writer = Writer { text: introduction(prefix) };
    if let Form::Table(keys) = &root.form {
        writer.prose("");
        writer.description(&root, "");
        writer.keys(keys, "");
    }
    writer.text
}

fn introduction(prefix: &str) -> String {
    format!(
        "\
# Every setting, with its default. A line that starts with `#` and no space is one: uncomment any of them by itself.
# They stand above the first `[table]` of a file; below one, write the rest of the name alone.
#
# An environment variable overrides the file: {prefix}A__B sets `a.b`.
# A secret `x` may be given as `x_file`, the path of a file that holds it.
"
    )
}

struct Writer {
    text: String,
}

impl Writer {
    /// Describes the settings of a table, then the tables in it.
    fn keys(&mut self, keys: &Keys, path: &str) {
        for (key, node) in &keys.nodes {
            if !matches!(node.form, Form::Table(_)) {
                self.setting(keys, key, node, &key_path(path, key));
            }
        }
        for (key, node) in &keys.nodes {
            if let Form::Table(inner) = &node.form {
                self.section(node, inner, &key_path(path, key));
            }
        }
    }

    fn section(&mut self, node: &Node, keys: &Keys, path: &str) {
        self.text.push_str(&format!("\n# ---- {path} ----\n"));
        self.description(node, "");
        if node.default.is_none() {
            self.prose("Absent by default; any of its settings makes it present.");
        }
        if let Some(named) = &keys.named {
            let kinds: Vec<String> = named.names().into_iter().map(|kind| format!("\"{kind}\"")).collect();
            self.prose(&format!(
                "A table of another name says by its key `{}` which of these it is: {}.",
                named.tag,
                kinds.join(", ")
            ));
        }
        self.keys(keys, path);
    }

    fn setting(&mut self, table: &Keys, key: &str, node: &Node, path: &str) {
        self.text.push('\n');
        self.description(node, "");
        self.words(node, "");
        self.prose(&facts(table, key, node));
        if let Some(keys) = tables_in(node) {
            self.prose("Each has these keys:");
            for (key, node) in &keys.nodes {
                self.prose(&format!("- {key}: {}", facts(keys, key, node)));
                self.description(node, "    ");
                self.words(node, "    ");
            }
        }
        self.text.push_str(&format!("#{path} = {}\n", shown(node)));
    }

    /// Lists the words of an enum that have a description.
    fn words(&mut self, node: &Node, indent: &str) {
        let Form::Word(words) = &node.form else { return };
        for word in words {
            if let Some(description) = &word.description {
                self.prose(&format!("{indent}- \"{}\": {description}", word.text));
            }
        }
    }

    fn description(&mut self, node: &Node, indent: &str) {
        for line in node.description.as_deref().unwrap_or_default().lines() {
            self.prose(&format!("{indent}{line}"));
        }
    }

    /// Writes a comment. The space after `#` distinguishes it from a setting.
    fn prose(&mut self, text: &str) {
        let lines = if text.is_empty() { "\n" } else { text };
        for line in lines.lines() {
            self.text.push_str(format!("# {line}").trim_end());
            self.text.push('\n');
        }
    }
}

/// The keys of the tables that a list holds, if it holds tables.
fn tables_in(node: &Node) -> Option<&Keys> {
    let Form::List(item) = &node.form else { return None };
    let Form::Table(keys) = &item.form else { return None };
    Some(keys)
}

/// A setting's form and range, its default and example, and whether it is required or secret.
fn facts(table: &Keys, key: &str, node: &Node) -> String {
    let default = default(node);
    let mut facts = vec![node.form.to_string()];
    facts.push(match default {
        _ if table.is_required(key) => "required".to_owned(),
        Some(default) => format!("default {}", inline(default)),
        None => "optional".to_owned(),
    });
    // Without a default, the setting's own line shows the example.
    if let (Some(_), Some(example)) = (default, node.examples.first()) {
        facts.push(format!("example {}", inline(example)));
    }
    match node.secret_form() {
        Some(SecretForm::One) => facts.push(format!("secret, or `{}`", file_key(key))),
        Some(SecretForm::Many) => facts.push(format!("secret, or `{}` with one in each line", file_key(key))),
        None => {}
    }
    facts.join("; ")
}

/// The default to show. A secret has none, and for a list of tables an example is more useful.
fn default(node: &Node) -> Option<&Json> {
    node.default.as_ref().filter(|_| node.secret_form().is_none() && tables_in(node).is_none())
}

/// The value in a setting's line.
fn shown(node: &Node) -> String {
    default(node).or(node.examples.first()).map_or_else(|| placeholder(node), inline)
}

/// A value to show for a setting that has neither a default nor an example.
fn placeholder(node: &Node) -> String {
    match &node.form {
        Form::Text | Form::Secret => "\"...\"".to_owned(),
        Form::Word(words) => format!("\"{}\"", words.first().map(|word| word.text.as_str()).unwrap_or_default()),
        Form::Integer(integers) => {
            let first = integers.only.first().copied();
            first.or(integers.min).or(integers.max).unwrap_or_default().to_string()
        }
        Form::Boolean => "false".to_owned(),
        Form::List(item) => format!("[{}]", shown(item)),
        Form::Map(_) => "{}".to_owned(),
        Form::Table(keys) => {
            let required = keys.nodes.iter().filter(|(key, _)| keys.is_required(key));
            let pairs = required.map(|(key, node)| format!("{} = {}", quoted_key(key), shown(node)));
            inline_table(&pairs.collect::<Vec<String>>())
        }
    }
}

/// A JSON value on one line of TOML.
fn inline(value: &Json) -> String {
    match value {
        // TOML has no null. Within a list, write an empty string instead.
        Json::Null => "\"\"".to_owned(),
        Json::String(text) => toml::Value::String(text.clone()).to_string(),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(pairs) => {
            let given = pairs.iter().filter(|(_, value)| !value.is_null());
            let pairs = given.map(|(key, value)| format!("{} = {}", quoted_key(key), inline(value)));
            inline_table(&pairs.collect::<Vec<String>>())
        }
        Json::Bool(_) | Json::Number(_) => value.to_string(),
    }
}

fn inline_table(pairs: &[String]) -> String {
    if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
}
