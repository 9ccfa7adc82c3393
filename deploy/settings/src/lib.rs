//! Settings: one TOML file, overridden by environment variables, read into any `T`.
//!
//! [`load`] shows every problem of a configuration at once, each with its line and column or its variable, and never
//! prints the value of a secret. The JSON schema of `T` is the only description of what is allowed: the checks, the
//! overrides, the [`reference()`] and the [`json_schema()`] for editors all come from it. Nothing here knows the
//! product. Start at [`load`], then `schema.rs` and `check.rs`.
//!
//! A field states its range once: `#[schemars(range(min = 1, max = 64))]`. A text is a secret when its type's schema has
//! `"x-secret": true`. It may then be given as `x_file`.

mod check;
mod document;
mod editor;
mod environment;
mod origin;
mod problem;
mod reference;
mod schema;
mod secret;
mod suggest;
#[cfg(test)]
mod tests;
mod values;

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::DeTable;

pub use editor::json_schema;
pub use environment::Variables;
pub use origin::{Origin, item_path, key_path};
pub use problem::{Problem, Problems};
pub use reference::reference;

use check::Checker;
use origin::{Origins, Sources};
use schema::Node;

/// A value of the right form that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where it is: `sinks.splunk.url`, `ingest.secrets[0]`.
    pub path: String,
    /// What was expected, what was found, and what to do.
    pub message: String,
}

/// The text of a configuration file and the name shown in its problems.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    /// How problems name the file, usually the path as the user gave it.
    pub name: &'a str,
    /// The TOML text.
    pub text: &'a str,
}

/// A configuration without problems, with the origin of each of its settings.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    origins: Origins,
}

impl<T> Loaded<T> {
    /// Where the setting at `path` was given, such as `sinks.splunk.url` or `ingest.secrets[0]`.
    ///
    /// [`Origin::Default`] for a setting that was not given. Keys in `path` may be bare or quoted.
    pub fn locate(&self, path: &str) -> Origin {
        self.origins.exact(path)
    }

    /// Refuses invalid values that were filled in after loading, in the form of [`load`].
    ///
    /// # Errors
    /// Every problem at once, if there is one.
    pub fn refuse(&self, invalid: Vec<Invalid>) -> Result<(), Problems> {
        self.origins.refuse(invalid)
    }
}

/// Reads the file at `path`, if a path is given, and loads it as [`load`] does.
///
/// # Errors
/// Every problem at once.
pub fn read<T: DeserializeOwned + JsonSchema>(
    path: Option<&Path>,
    variables: &Variables,
    values: impl Fn(&T) -> Vec<Invalid>,
) -> Result<Loaded<T>, Problems> {
    let Some(path) = path else {
        return load(None, variables, values);
    };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => load(Some(Document { name: &name, text: &text }), variables, values),
        Err(error) => {
            let file: Arc<str> = name.into();
            let origin = Origin::whole(Some(&file));
            let message = format!("the configuration cannot be read: {error}");
            Err(Problems::new(Some(file), vec![Problem { origin, path: String::new(), message }], Vec::new()))
        }
    }
}

/// Loads a configuration from a document and the environment, which wins over the document.
///
/// `values` finds what is wrong with values of the right form. It is called even when other values have the wrong form, so
/// that all problems are reported at once. A problem of a setting that was not given is reported at the nearest table
/// around it that was given. Any secret `x` may be given as `x_file`, the path of a file that holds it. A relative path
/// starts at the working directory.
///
/// # Errors
/// Every problem at once, causes before problems that may follow from them.
pub fn load<T: DeserializeOwned + JsonSchema>(
    document: Option<Document<'_>>,
    variables: &Variables,
    values: impl Fn(&T) -> Vec<Invalid>,
) -> Result<Loaded<T>, Problems> {
    let root = Node::of::<T>();
    let mut sources = Sources::new(document);
    let file = sources.file();
    let text = document.map_or("", |document| document.text);

    let (mut table, broken) = document::parse(text);
    let mut checker = Checker::new(&root);
    environment::overlay(&mut table, variables, &root, &mut sources, &mut checker.findings);
    checker.document(&mut table);
    let mut findings = problem::without_consequences(document::without_echoes(checker.findings, broken, &sources));
    let secrets = checker.secrets;
    if findings.is_empty()
        && variables.unreadable.is_empty()
        && let Ok(value) = values::read(&table)
    {
        let origins = Origins::new(&origin::paths(&table), &sources);
        origins.refuse(values(&value))?;
        return Ok(Loaded { value, origins });
    }
    let further = values::problems(table, &mut findings, &sources, &secrets, &root, values);
    let mut causes = variables.unreadable.clone();
    causes.extend(findings.into_iter().map(|finding| finding.at(&sources)));
    Err(Problems::new(file, causes, further))
}

type Table<'i> = DeTable<'i>;
type Value<'i> = Spanned<toml::de::DeValue<'i>>;
