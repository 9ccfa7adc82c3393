//! Where rules come from: Headrace's own, and the operator's directories.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use headrace_runtime::config::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::score::builtin;
use crate::score::rules::{DISABLED, Loader, Problem, Refused, Rules};

/// The largest rule file, in bytes. SigmaHQ's largest has 30 KB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How deep directories are searched. This also ends the search of a directory that contains itself.
const DEPTH_MAX: usize = 16;

/// Which detection rules score uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directories with Sigma rules (`*.yml`, `*.yaml`, searched in depth) to use besides those that
    /// Headrace brings along. A rule is tried on the events of the source that its
    /// `logsource.product` names, `github` or `ndjson`. Rules for other products are left out.
    /// Example: `["/etc/headrace/rules"]`.
    pub rules_dirs: Vec<PathBuf>,
    /// Ids of rules not to use, of Headrace's or of your own. Example:
    /// `["0f5c1b8e-6a0d-4c0b-9f57-6f2f0c7f3b11"]`.
    pub disabled: Vec<String>,
    /// Fields that rules may test though Headrace knows none of that name, for rules that are also used elsewhere. Any
    /// other unknown field is refused, because a rule with a misspelt one never matches.
    /// Example: `["user_agent_parsed"]`.
    pub foreign_fields: Vec<String>,
}

impl Config {
    /// What is wrong with these values and the files they name, below `path`.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let invalid = |Problem { place, message }: Problem| match place.as_str() {
            DISABLED => Invalid::new(format!("{path}.disabled"), message),
            file => Invalid::new(format!("{path}.rules_dirs"), format!("{file}: {message}")),
        };
        let problems = Rules::load(self).err().map(|refused| refused.problems);
        problems.into_iter().flatten().map(invalid).collect()
    }
}

impl Rules {
    /// Reads the rules of Headrace and those that `config` names.
    ///
    /// # Errors
    /// [`Refused`] with every problem of every file.
    pub fn load(config: &Config) -> Result<Self, Refused> {
        let mut loader = Loader::default();
        for (file, yaml) in builtin::RULES {
            loader.read(file, yaml);
        }
        for directory in &config.rules_dirs {
            search(&mut loader, directory, DEPTH_MAX);
        }
        loader.disable(&config.disabled);
        loader.allow(&config.foreign_fields);
        loader.compile()
    }
}

/// Reads all rule files below `directory`, in order of their names.
fn search(loader: &mut Loader, directory: &Path, depth: usize) {
    let entries = fs::read_dir(directory).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut paths: Vec<PathBuf> = match entries {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).filter(|path| !is_hidden(path)).collect(),
        Err(error) => return loader.problem(&told(directory), format!("cannot read the directory: {error}")),
    };
    paths.sort_unstable();
    for path in paths {
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth == 0 => {
                loader.problem(&told(&path), format!("expected directories at most {DEPTH_MAX} deep"));
            }
            Ok(metadata) if metadata.is_dir() => search(loader, &path, depth - 1),
            Ok(_) if !is_rule(&path) => {}
            // Reading a pipe would wait for its writer.
            Ok(metadata) if !metadata.is_file() => {
                loader.problem(&told(&path), "expected a regular file, found something else".to_owned());
            }
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                loader.problem(&told(&path), format!("expected at most {FILE_BYTES_MAX} bytes"));
            }
            Ok(_) => match fs::read_to_string(&path) {
                Ok(yaml) => loader.read(&told(&path), &yaml),
                Err(error) => loader.problem(&told(&path), format!("cannot read the file: {error}")),
            },
            Err(error) => loader.problem(&told(&path), format!("cannot read the file: {error}")),
        }
    }
}

/// A mounted Kubernetes ConfigMap keeps the same files once more below `..data`.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_rule(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yml" || extension == "yaml")
}

fn told(path: &Path) -> String {
    path.display().to_string()
}
