//! Walks a document along the tree of the schema. It finds everything that is wrong, and reads the files of secrets.

use std::borrow::Cow;
use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeArray, DeInteger, DeString, DeValue};

use crate::origin::{ROOT, Span, item_path, key_path};
use crate::problem::Finding;
use crate::schema::{Form, Integers, Keys, Named, Node, SecretForm, Word, file_key};
use crate::secret::{self, Content, Secrets};
use crate::{Table, Value, suggest};

/// A walk, with its findings so far.
pub(crate) struct Checker<'n> {
    root: &'n Node,
    pub(crate) findings: Vec<Finding>,
    pub(crate) secrets: Secrets,
}

impl<'n> Checker<'n> {
    pub(crate) fn new(root: &'n Node) -> Self {
        Self { root, findings: Vec::new(), secrets: Secrets::default() }
    }

    /// Checks a whole document and puts the content of files where their secrets belong.
    pub(crate) fn document(&mut self, table: &mut Table<'_>) {
        let root = self.root;
        if let Form::Table(keys) = &root.form {
            self.table(table, &ROOT, keys, "");
        }
    }

    fn value(&mut self, value: &mut Value<'_>, node: &Node, path: &str) {
        let span = value.span();
        match (&node.form, value.get_mut()) {
            (Form::Table(keys), DeValue::Table(table)) => self.table(table, &span, keys, path),
            (Form::Map(entry), DeValue::Table(table)) => {
                for (key, value) in table.iter_mut() {
                    self.value(value, entry, &key_path(path, key.get_ref()));
                }
            }
            (Form::List(item), DeValue::Array(items)) => {
                for (index, value) in items.iter_mut().enumerate() {
                    self.value(value, item, &item_path(path, index));
                }
            }
            (Form::Secret, DeValue::String(text)) => self.secrets.add(span, text),
            (Form::Text, DeValue::String(_)) | (Form::Boolean, DeValue::Boolean(_)) => {}
            (Form::Word(words), DeValue::String(text)) => {
                if let Err(message) = among(text, words) {
                    self.find(span, path, message);
                }
            }
            (Form::Integer(integers), DeValue::Integer(number)) => {
                if let Err(message) = in_range(number, integers) {
                    self.find(span, path, message);
                }
            }
            (form, found) => self.find(span, path, wrong_form(form, found)),
        }
    }

    fn table(&mut self, table: &mut Table<'_>, span: &Span, keys: &Keys, path: &str) {
        let by_file = self.read_secrets(table, keys, path);
        for (key, value) in table.iter().filter(|(key, value)| keys.find(key.get_ref(), value).is_none()) {
            match keys.named.as_ref().map(|named| (named, kind_of(value, named))) {
                Some((named, Some(kind))) => self.unknown_kind(kind, named, &key_path(path, key.get_ref())),
                _ => self.unknown_key(key, table, keys, path),
            }
        }
        for (key, value) in table.iter_mut() {
            if let Some(node) = keys.find(key.get_ref(), value) {
                self.value(value, node, &key_path(path, key.get_ref()));
            }
        }
        for key in &keys.required {
            if !table.contains_key(key.as_str()) && !by_file.contains(key) {
                let message = match keys.get(key).and_then(Node::secret_form) {
                    Some(_) => format!("missing required key; give it or `{}`", file_key(key)),
                    None => "missing required key".to_owned(),
                };
                self.findings.push(Finding::missing(span.clone(), key_path(path, key), message));
            }
        }
    }

    /// Reports an unknown key. The key that was meant then counts as given, unless it is given itself.
    fn unknown_key(&mut self, key: &Spanned<DeString<'_>>, table: &Table<'_>, keys: &Keys, path: &str) {
        let name: &str = key.get_ref();
        let known = keys.known();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let meant = suggest::nearest(name, &known);
        let needs = keys.named.as_ref().map(Named::need).unwrap_or_default();
        let is_on_top = matches!(&self.root.form, Form::Table(top) if !path.is_empty() && top.get(name).is_some());
        let message = match meant {
            // The lines of the reference have their whole path, and mean something else below a table's header.
            None if is_on_top => {
                format!("unknown key; lines that begin with `{name}` belong above the first `[table]` of the file")
            }
            _ => suggest::unknown_key(name, &known) + &needs,
        };
        let finding = Finding::new(key.span(), key_path(path, name), message);
        self.findings.push(match meant.map(|meant| keys.setting(meant)).filter(|meant| !table.contains_key(*meant)) {
            Some(meant) => finding.meaning(key_path(path, meant)),
            None => finding,
        });
    }

    /// Reports a kind that there is not. The other keys of its table are not checked, because nobody knows which it has.
    fn unknown_kind(&mut self, kind: &Value<'_>, named: &Named, path: &str) {
        let message = match kind.get_ref() {
            DeValue::String(text) => suggest::unknown_word(text, &named.names()),
            found => wrong_form(&Form::Text, found),
        };
        let finding = Finding::new(kind.span(), key_path(path, &named.tag), message);
        self.findings.push(finding.meaning(path.to_owned()));
    }

    /// Puts the content of each `x_file` at `x`. Returns every `x` that is given so, also when its file is unreadable.
    fn read_secrets(&mut self, table: &mut Table<'_>, keys: &Keys, path: &str) -> BTreeSet<String> {
        let owned = |key: &Spanned<DeString<'_>>| {
            let (stem, form) = keys.secret_of(key.get_ref())?;
            Some((key.get_ref().to_string(), stem.to_owned(), form))
        };
        let files: Vec<(String, String, SecretForm)> = table.keys().filter_map(owned).collect();
        let mut given = BTreeSet::new();
        for (name, stem, form) in files {
            let Some((key, value)) = table.remove_entry(name.as_str()) else { continue };
            let file_path = key_path(path, &name);
            if table.contains_key(stem.as_str()) {
                self.find(key.span(), &file_path, format!("`{stem}` is given too; keep one of the two"));
            } else {
                match read_secret(&value, form) {
                    Ok(content) => {
                        // Later messages about the secret point at the file's path.
                        let stem = Cow::Owned(stem.clone());
                        table.insert(Spanned::new(key.span(), stem), Spanned::new(value.span(), content));
                    }
                    Err(message) => {
                        let finding = Finding::new(value.span(), file_path, message);
                        self.findings.push(finding.meaning(key_path(path, &stem)));
                    }
                }
            }
            given.insert(stem);
        }
        given
    }

    fn find(&mut self, span: Span, path: &str, message: String) {
        self.findings.push(Finding::new(span, path, message));
    }
}

/// What a table gives as its kind, if it gives one.
fn kind_of<'v, 'i>(value: &'v Value<'i>, named: &Named) -> Option<&'v Value<'i>> {
    let DeValue::Table(table) = value.get_ref() else { return None };
    table.get(named.tag.as_str())
}

fn read_secret<'i>(value: &Value<'_>, form: SecretForm) -> Result<DeValue<'i>, String> {
    let DeValue::String(file) = value.get_ref() else { return Err(wrong_form(&Form::Text, value.get_ref())) };
    Ok(match secret::read(file, form)? {
        Content::One(text) => DeValue::String(Cow::Owned(text)),
        Content::Many(texts) => {
            let mut items = DeArray::new();
            for text in texts {
                items.push(Spanned::new(value.span(), DeValue::String(Cow::Owned(text))));
            }
            DeValue::Array(items)
        }
    })
}

/// Refuses a text that is not one of `words`.
fn among(text: &str, words: &[Word]) -> Result<(), String> {
    if words.iter().any(|word| word.text == text) {
        return Ok(());
    }
    let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    Err(suggest::unknown_word(text, &words))
}

/// Refuses a number that its field does not allow. The message may show the number, because every secret is a text.
fn in_range(number: &DeInteger<'_>, integers: &Integers) -> Result<(), String> {
    // Also refuse numbers of more than 64 bits here, because serde would stop at the first of them.
    let bits = i128::from(i64::MIN)..=i128::from(u64::MAX);
    match i128::from_str_radix(number.as_str(), number.radix()).ok().filter(|value| bits.contains(value)) {
        Some(value) if integers.admits(value) => Ok(()),
        Some(_) if !integers.only.is_empty() => Err(format!("out of range: expected {integers}, found {number}")),
        Some(_) => Err(format!("out of range: expected an {integers}, found {number}")),
        None => Err(format!("out of range: expected an integer of 64 bits, found {number}")),
    }
}

/// The message for a value of the wrong form. It does not show the value.
fn wrong_form(form: &Form, found: &DeValue<'_>) -> String {
    let expected = match form {
        Form::Table(_) | Form::Map(_) => "a table",
        // Show an example, because this is the most frequent mistake in variables.
        Form::List(_) => "an array such as [\"a\", \"b\"]",
        Form::Text | Form::Secret | Form::Word(_) => "a string",
        Form::Integer(_) => "an integer",
        Form::Boolean => "a boolean",
    };
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date-time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    format!("expected {expected}, found {found}")
}
