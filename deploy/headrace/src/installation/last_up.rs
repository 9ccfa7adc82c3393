//! The configuration of the running or the last `up` of a data directory, for commands that compute the same. The
//! directory keeps it as it was read, secrets included, and only its owner may read it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use headrace_runtime::config::Invalid;
use headrace_settings::{Document, Loaded, Variables};
use serde::{Deserialize, Serialize};

use crate::config::{self, Config};
use crate::installation::locate::Named;
use crate::installation::{kept, private};

/// The file in the data directory.
pub(crate) const FILE: &str = "last-up.json";

/// The configuration of an `up`. It has no Debug, because it holds secrets.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastUp {
    /// The directory in which it was started. Relative paths in the configuration begin there.
    directory: PathBuf,
    /// Its configuration file, if it had one.
    file: Option<ConfigCopy>,
    /// The variables that override it.
    environment: BTreeMap<String, String>,
}

/// A configuration file as it was read.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct ConfigCopy {
    path: PathBuf,
    text: String,
}

impl LastUp {
    /// Loads the configuration of this process from the file `config`, and keeps a copy. It reads the file only once,
    /// because the file may be a pipe, and not at all if its `text` was read before.
    pub(crate) fn of_this(
        config: Option<&Path>,
        text: Option<&str>,
        values: impl Fn(&Config) -> Vec<Invalid>,
    ) -> anyhow::Result<(Self, Loaded<Config>)> {
        let directory = std::env::current_dir().context("cannot find the working directory")?;
        let variables = config::variables();
        let owned = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
        let environment: BTreeMap<String, String> = variables.iter().map(owned).collect();
        let Some(path) = config else {
            let loaded = config::load(None, values)?;
            return Ok((Self { directory, file: None, environment }, loaded));
        };
        let Ok(text) = text.map_or_else(|| std::fs::read_to_string(path), |text| Ok(text.to_owned())) else {
            // This fails with the error that every command shows.
            config::load(config, values)?;
            anyhow::bail!("cannot read the configuration {}", path.display());
        };
        let name = path.display().to_string();
        let loaded = config::load_text(Some(Document { name: &name, text: &text }), &variables, values)?;
        let path = std::path::absolute(path).with_context(|| format!("cannot make the path of {name} absolute"))?;
        Ok((Self { directory, file: Some(ConfigCopy { path, text }), environment }, loaded))
    }

    /// Writes the copy into the data directory.
    pub(crate) fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = data_dir.join(FILE);
        let write = || private::write(&path, &serde_json::to_vec_pretty(self)?);
        write().with_context(|| format!("cannot keep the configuration in {}", path.display()))
    }

    /// Reads the copy in a data directory. `None` if no `up` of this release has run there.
    ///
    /// # Errors
    /// If it is another account's ([`kept::open`]): it names files that hold secrets, and servers that get them.
    pub(crate) fn read(data_dir: &Named) -> anyhow::Result<Option<Self>> {
        let path = data_dir.path.join(FILE);
        let problem = || format!("cannot read the configuration of the last `headrace up` in {}", path.display());
        let Some(file) = kept::open(data_dir, FILE)? else { return Ok(None) };
        serde_json::from_reader(BufReader::new(file)).map(Some).with_context(problem)
    }

    /// Loads the configuration as `up` did. The process changes to the directory where `up` was started, because
    /// relative paths begin there. Variables of this process override those of `up`.
    pub(crate) fn load(&self, values: impl Fn(&Config) -> Vec<Invalid>) -> anyhow::Result<Loaded<Config>> {
        std::env::set_current_dir(&self.directory).with_context(|| {
            format!(
                "expected the directory {} in which `headrace up` was started, where its relative paths begin; name a \
                 configuration with --config",
                self.directory.display()
            )
        })?;
        let kept = self.environment.iter().map(|(name, text)| (OsString::from(name), OsString::from(text)));
        let environment: BTreeMap<OsString, OsString> = kept.chain(std::env::vars_os()).collect();
        let variables = Variables::of(config::PREFIX, environment);
        let name = self.file.as_ref().map(|file| file.path.display().to_string()).unwrap_or_default();
        let document = self.file.as_ref().map(|file| Document { name: &name, text: &file.text });
        Ok(config::load_text(document, &variables, values)?)
    }

    /// Says for a person which configuration this is.
    pub(crate) fn told(&self) -> String {
        let mut told = match &self.file {
            None => "using the configuration of the last `headrace up` here: no file".to_owned(),
            Some(ConfigCopy { path, .. }) => {
                format!("using the configuration of the last `headrace up` here: {} as it was then", path.display())
            }
        };
        if !self.environment.is_empty() {
            let names: Vec<&str> = self.environment.keys().map(String::as_str).collect();
            told.push_str(&format!(", with {}", names.join(", ")));
        }
        // Compare only a regular file, because reading a pipe could wait for ever.
        let changed = |file: &ConfigCopy| {
            file.path.is_file() && std::fs::read_to_string(&file.path).is_ok_and(|text| text != file.text)
        };
        if self.file.as_ref().is_some_and(changed) {
            told.push_str("; the file has changed since, name it with --config to use it as it is now");
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use crate::installation::locate::NamedBy;

    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_a_changed_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = Named { path: dir.path().to_owned(), by: NamedBy::Default };
        assert!(LastUp::read(&data_dir).unwrap().is_none());
        let config = dir.path().join("headrace.toml");
        std::fs::write(&config, "[pipeline]\nlanes = 3\n").unwrap();
        let (kept, _) = LastUp::of_this(Some(&config), None, |_| Vec::new()).unwrap();
        kept.write(dir.path()).unwrap();
        let read = LastUp::read(&data_dir).unwrap().unwrap();
        assert!(read == kept);
        assert!(read.told().ends_with("headrace.toml as it was then"), "{}", read.told());
        std::fs::write(&config, "[pipeline]\nlanes = 4\n").unwrap();
        assert_eq!(read.load(|_| Vec::new()).unwrap().value.pipeline.lanes, 3);
        assert!(read.told().contains("the file has changed since"), "{}", read.told());
    }
}
