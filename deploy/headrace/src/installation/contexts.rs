//! Names for installations, in `contexts.toml` beside a person's own configuration.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use crate::installation::opened::{self, OTHERS_WRITE, Trust};
use crate::installation::private;
use crate::installation::surroundings::{CONFIG_DIR, Surroundings, Unclear};

/// The file, in [`Surroundings::config_dir`].
const FILE: &str = "contexts.toml";
/// The file beside it that is locked by whoever changes it. `FILE` itself is replaced with each change.
const LOCK: &str = "contexts.lock";
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
    ///
    /// # Errors
    /// [`Unclear`] if the file cannot be read, is another account's, or may be written by others.
    pub(crate) fn read(surroundings: &Surroundings) -> anyhow::Result<Self> {
        let Some(path) = path(surroundings) else { return Ok(Self::default()) };
        let owner = |path: &Path, owner: u32| refuse_foreign(path, owner, surroundings);
        let read = opened::read_to_string(&path, &Trust { owner: &owner, closed: OTHERS_WRITE });
        let read = read.map_err(|error| {
            Unclear(format!("{error:#}; or name the directory of your contexts with ${CONFIG_DIR}"))
        })?;
        let Some(text) = read else { return Ok(Self::default()) };
        toml::from_str(&text).map_err(|error| {
            Unclear(format!("expected contexts as `headrace context add` writes them in {}: {error}", path.display()))
                .into()
        })
    }

    /// Keeps other commands from changing the file until the answer is dropped. Otherwise two that read it at once would
    /// each write without the other's change.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub(crate) fn lock(surroundings: &Surroundings) -> anyhow::Result<File> {
        let path = place(surroundings)?.with_file_name(LOCK);
        let lock = || -> anyhow::Result<File> {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            // Not through a link: that of another account would choose which file is made.
            let follows = OFlags::NOFOLLOW.bits().cast_signed();
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).custom_flags(follows).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        lock().with_context(|| format!("cannot lock the contexts by {}", path.display()))
    }

    /// Writes the file, which only its owner may read. Returns its path.
    pub(crate) fn write(&self, surroundings: &Surroundings) -> anyhow::Result<PathBuf> {
        let path = place(surroundings)?;
        let write = || -> anyhow::Result<()> {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            private::write(&path, toml::to_string(self)?.as_bytes())
        };
        write().with_context(|| format!("cannot keep the contexts in {}", path.display()))?;
        Ok(path)
    }

    /// The context `name`.
    ///
    /// # Errors
    /// [`Unclear`] if there is none, or if somebody wrote one that names nothing.
    pub(crate) fn get(&self, name: &str) -> Result<Context, Unclear> {
        let problem = match self.contexts.get(name) {
            Some(context) if context.config.is_some() || context.data_dir.is_some() => return Ok(context.clone()),
            Some(_) => format!(
                "context `{name}` names no server: it has neither a configuration nor a data directory; make it anew \
                 (`headrace context remove {name}`, then `headrace context add {name} --config FILE`)"
            ),
            None if self.contexts.is_empty() => {
                format!("expected a context that `headrace context add` made, found `{name}`; there is no context yet")
            }
            None => {
                let names: Vec<String> = self.contexts.keys().map(|name| format!("`{name}`")).collect();
                format!("expected one of the contexts {}, found `{name}`", names.join(", "))
            }
        };
        Err(Unclear(problem))
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
fn refuse_foreign(path: &Path, owner: u32, surroundings: &Surroundings) -> anyhow::Result<()> {
    let own = geteuid().as_raw();
    anyhow::ensure!(
        surroundings.variable(CONFIG_DIR).is_some() || [own, 0].contains(&owner),
        "expected {} to belong to this account (user id {own}) or to root, found it to be that of user id {owner}, whose \
         contexts would choose the servers",
        path.display()
    );
    Ok(())
}

fn place(surroundings: &Surroundings) -> anyhow::Result<PathBuf> {
    path(surroundings)
        .context("expected $HOME, $XDG_CONFIG_HOME or $HEADRACE_CONFIG_DIR, where contexts are kept, found none")
}

fn path(surroundings: &Surroundings) -> Option<PathBuf> {
    surroundings.config_dir().map(|dir| dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::fs::{DirBuilder, Permissions};
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, lchown, symlink};

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
    fn a_context_that_is_unknown_or_names_nothing_is_refused() {
        let told = |text: &str| toml::from_str::<Contexts>(text).unwrap().get("nope").unwrap_err().to_string();
        let known = "[contexts.live]\nconfig = '/a'\n[contexts.test]\ndata_dir = '/b'\n";
        assert_eq!(told(known), "expected one of the contexts `live`, `test`, found `nope`");
        assert!(told("").ends_with("found `nope`; there is no context yet"), "{}", told(""));
        let empty = told("[contexts.nope]\n");
        assert!(empty.starts_with("context `nope` names no server: it has neither"), "{empty}");
    }

    /// A home with contexts, and their directory.
    fn home() -> (tempfile::TempDir, PathBuf, Surroundings) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join(".config/headrace");
        std::fs::create_dir_all(&dir).unwrap();
        let text = b"current = 'live'\n[contexts.live]\nconfig = '/etc/live.toml'\n";
        private::write(&dir.join(FILE), text).unwrap();
        let surroundings = Surroundings::of_test(home.path()).set("HOME", home.path().as_os_str().to_owned());
        assert_eq!(Contexts::read(&surroundings).unwrap().current.as_deref(), Some("live"));
        (home, dir, surroundings)
    }

    #[test]
    fn contexts_that_others_may_write_or_that_cannot_be_read_are_refused() {
        let (_home, dir, surroundings) = home();
        let file = dir.join(FILE);
        std::fs::set_permissions(&file, Permissions::from_mode(0o620)).unwrap();
        let refused = Contexts::read(&surroundings).unwrap_err();
        assert!(refused.is::<Unclear>() && refused.to_string().contains("chmod go-w"), "{refused}");
        let named = surroundings.clone().set(CONFIG_DIR, dir.into_os_string());
        assert!(Contexts::read(&named).is_err(), "whoever named it");
        // What is not a file hides the contexts that were meant.
        std::fs::remove_file(&file).unwrap();
        assert_eq!(Contexts::read(&surroundings).unwrap(), Contexts::default());
        DirBuilder::new().mode(0o700).create(&file).unwrap();
        let refused = Contexts::read(&surroundings).unwrap_err().to_string();
        assert!(refused.contains("expected a regular file") && refused.contains("$HEADRACE_CONFIG_DIR"), "{refused}");
    }

    #[test]
    fn contexts_of_another_account_name_nothing_here() {
        // Only root can give something away.
        if !geteuid().is_root() {
            return;
        }
        let (_home, dir, surroundings) = home();
        std::os::unix::fs::chown(dir.join(FILE), Some(65_534), None).unwrap();
        let refused = Contexts::read(&surroundings).unwrap_err().to_string();
        assert!(refused.contains("user id 65534") && refused.contains("$HEADRACE_CONFIG_DIR"), "{refused}");
        let named = surroundings.clone().set(CONFIG_DIR, dir.clone().into_os_string());
        assert_eq!(Contexts::read(&named).unwrap().current.as_deref(), Some("live"), "somebody named it");
        // A link of another account, to a file of ours.
        std::os::unix::fs::chown(dir.join(FILE), Some(0), None).unwrap();
        std::fs::rename(dir.join(FILE), dir.join("own.toml")).unwrap();
        symlink("own.toml", dir.join(FILE)).unwrap();
        assert_eq!(Contexts::read(&surroundings).unwrap().current.as_deref(), Some("live"));
        lchown(dir.join(FILE), Some(65_534), None).unwrap();
        let refused = Contexts::read(&surroundings).unwrap_err().to_string();
        assert!(refused.contains("user id 65534"), "{refused}");
    }

    #[test]
    fn a_name_can_be_typed_everywhere() {
        for (text, allowed) in [("test", true), ("eu-1.live_2", true), ("", false), ("a b", false), ("ä", false)] {
            assert_eq!(name(text).is_ok(), allowed, "{text}");
        }
        assert!(name(&"x".repeat(65)).is_err());
    }
}
