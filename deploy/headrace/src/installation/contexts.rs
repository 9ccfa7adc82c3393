//! Names for installations, in `contexts.toml` beside a person's own configuration.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::installation::private;
use crate::installation::surroundings::{CONFIG_DIR, Surroundings, Unclear};

/// The file, in [`Surroundings::config_dir`].
const FILE: &str = "contexts.toml";
/// The longest name.
const NAME_CHARS_MAX: usize = 64;

/// An installation that has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Its configuration file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<PathBuf>,
    /// The data directory of its `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The context in use if a command names no installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// The installations by name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// Reads the file. Without a file, there are no contexts.
    pub(crate) fn read(surroundings: &Surroundings) -> anyhow::Result<Self> {
        let Some(path) = path(surroundings) else { return Ok(Self::default()) };
        refuse_foreign(&path, surroundings)?;
        let Ok(text) = std::fs::read_to_string(&path) else {
            // If we may not even see the file, as in another account's home, there are no contexts for us.
            anyhow::ensure!(!path.is_file(), "cannot read the contexts in {}", path.display());
            return Ok(Self::default());
        };
        toml::from_str(&text).map_err(|error| {
            Unclear(format!("expected contexts as `headrace context add` writes them in {}: {error}", path.display()))
                .into()
        })
    }

    /// Writes the file, which only its owner may read. Returns its path.
    pub(crate) fn write(&self, surroundings: &Surroundings) -> anyhow::Result<PathBuf> {
        let path = path(surroundings)
            .context("expected $HOME, $XDG_CONFIG_HOME or $HEADRACE_CONFIG_DIR, where contexts are kept, found none")?;
        let write = || -> anyhow::Result<()> {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            private::write(&path, toml::to_string(self)?.as_bytes())
        };
        write().with_context(|| format!("cannot keep the contexts in {}", path.display()))?;
        Ok(path)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Context, Unclear> {
        self.contexts.get(name).cloned().ok_or_else(|| {
            let names: Vec<String> = self.contexts.keys().map(|name| format!("`{name}`")).collect();
            let there = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
            Unclear(format!("expected a context that `headrace context add` made, found `{name}`; {there}"))
        })
    }
}

/// Checks a name on the command line.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.');
    if text.is_empty() || text.len() > NAME_CHARS_MAX || !text.chars().all(plain) {
        return Err(format!("expected up to {NAME_CHARS_MAX} letters, digits, `_`, `-` and `.`"));
    }
    Ok(text.to_owned())
}

/// Refuses contexts that are another account's, as root's `$HOME` may be: they would choose our servers. A directory
/// that somebody named may be anybody's.
fn refuse_foreign(path: &Path, surroundings: &Surroundings) -> Result<(), Unclear> {
    if surroundings.variable(CONFIG_DIR).is_some() {
        return Ok(());
    }
    let own = geteuid().as_raw();
    // Whoever owns a link decides where it leads.
    let found = [path.metadata(), path.symlink_metadata()].into_iter().flatten();
    match found.map(|found| found.uid()).find(|owner| ![own, 0].contains(owner)) {
        None => Ok(()),
        Some(owner) => Err(Unclear(format!(
            "expected {} to belong to this account (user id {own}) or to root, found it to be that of user id {owner}, \
             whose contexts would choose the servers; name its directory with ${CONFIG_DIR} if you trust it",
            path.display()
        ))),
    }
}

fn path(surroundings: &Surroundings) -> Option<PathBuf> {
    surroundings.config_dir().map(|dir| dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = "current = \"a.b\"\n\n[contexts.\"a.b\"]\nconfig = \"/etc/headrace.toml\"\n\n[contexts.test]\ndata_dir = \"/srv\"\n";
        let contexts: Contexts = toml::from_str(text).unwrap();
        assert_eq!(contexts.get("test").unwrap().data_dir.as_deref(), Some(Path::new("/srv")));
        assert_eq!(toml::from_str::<Contexts>(&toml::to_string(&contexts).unwrap()).unwrap(), contexts);
        assert_eq!(toml::from_str::<Contexts>("").unwrap(), Contexts::default());
        assert!(toml::from_str::<Contexts>("[contexts.test]\ndata = '/srv'\n").is_err());
    }

    #[test]
    fn contexts_of_another_account_name_nothing_here() {
        // Only root can give something away.
        if !geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".config/headrace");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(FILE), "current = 'live'\n[contexts.live]\nconfig = '/etc/live.toml'\n").unwrap();
        let surroundings = Surroundings::of_test(home.path()).set("HOME", home.path().as_os_str().to_owned());
        assert_eq!(Contexts::read(&surroundings).unwrap().current.as_deref(), Some("live"));
        std::os::unix::fs::chown(dir.join(FILE), Some(65_534), None).unwrap();
        let refused = Contexts::read(&surroundings).unwrap_err().to_string();
        assert!(refused.contains("user id 65534") && refused.contains("$HEADRACE_CONFIG_DIR"), "{refused}");
        let named = surroundings.set(CONFIG_DIR, dir.into_os_string());
        assert_eq!(Contexts::read(&named).unwrap().current.as_deref(), Some("live"), "somebody named it");
    }

    #[test]
    fn a_name_can_be_typed_everywhere() {
        for (text, allowed) in [("test", true), ("eu-1.live_2", true), ("", false), ("a b", false), ("ä", false)] {
            assert_eq!(name(text).is_ok(), allowed, "{text}");
        }
        assert!(name(&"x".repeat(65)).is_err());
    }
}
