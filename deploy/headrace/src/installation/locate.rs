//! Finds the installation that a command means: a configuration, a data directory, or both.
//!
//! The first of these counts: `--context`, then `--config` and `--data-dir`, then their variables, then
//! `$HEADRACE_CONTEXT`, then the context in use, then the default files. A command that asks servers takes both from
//! the same place, so that it never mixes two installations. `contexts.rs` keeps the names, and `servers.rs` tells which
//! servers are asked.

use std::fmt;
use std::path::{Path, PathBuf};

use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;
use headrace_settings::{Document, Loaded, Problems};
use rustix::process::geteuid;

use crate::config::{self, Config};
use crate::installation::contexts::{Context, Contexts};
use crate::installation::opened::{self, ALL_WRITE, Trust};
use crate::installation::surroundings::{self, Surroundings, Unclear};

/// The configuration file if none is named: in the current directory, then in [`Surroundings::config_dir`].
const CONFIG_FILE: &str = "headrace.toml";
/// The data directory if none is named.
const DATA_DIR: &str = "headrace-data";

/// What a command does with an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The command asks the servers.
    Ask,
    /// The command checks the configuration.
    Check,
    /// The command runs roles. It ignores the context in use, which people choose for looking and which must not start
    /// anything.
    Run,
    /// The command starts everything on this machine. It ignores the context in use, as in [`Purpose::Run`].
    Up,
}

/// The options of the command line that name the installation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) config: Option<&'a Path>,
    pub(crate) data_dir: Option<&'a Path>,
    pub(crate) context: Option<&'a str>,
}

/// A path, and where it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) path: PathBuf,
    pub(crate) by: NamedBy,
}

/// Where a path was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NamedBy {
    CommandLine,
    Environment,
    Context(String),
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for NamedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("the command line"),
            Self::Environment => f.write_str("the environment"),
            Self::Context(name) => write!(f, "the context `{name}`"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The installation that is meant.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    /// The configuration file, if there is one.
    pub(crate) config: Option<Named>,
    /// The data directory of `up`.
    pub(crate) data_dir: Named,
    /// The context that was chosen, if there is one.
    pub(crate) context: Option<String>,
    /// The text of a default configuration file. It was read when the file was checked, so that no other file can take
    /// its place in between. Secret, because a configuration may hold passwords.
    default_text: Option<Secret>,
}

impl Located {
    /// Loads the configuration. `values` returns its wrong values.
    ///
    /// # Errors
    /// All problems at once.
    pub(crate) fn load(&self, values: impl Fn(&Config) -> Vec<Invalid>) -> Result<Loaded<Config>, Problems> {
        match (&self.config, self.default_text()) {
            (Some(Named { path, .. }), Some(text)) => {
                let name = path.display().to_string();
                config::load_text(Some(Document { name: &name, text }), &config::variables(), values)
            }
            _ => config::load(self.config(), values),
        }
    }

    /// The text of the configuration file, if it is a default.
    pub(crate) fn default_text(&self) -> Option<&str> {
        self.default_text.as_ref().map(Secret::expose)
    }

    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_ref().map(|config| config.path.as_path())
    }

    /// The configuration file, if it was named and is not a default.
    pub(crate) fn named_config(&self) -> Option<&Path> {
        self.config.as_ref().filter(|config| config.by != NamedBy::Default).map(|config| config.path.as_path())
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir.path
    }

    /// Logs which file is read, because a process that runs for weeks must show what it was started with.
    pub(crate) fn log(&self) {
        match &self.config {
            Some(Named { path, by }) => {
                tracing::info!(file = %path.display(), named_by = %by, "reading the configuration");
            }
            None => tracing::info!("no configuration file: settings are defaults or come from environment variables"),
        }
    }
}

/// Finds the installation that is meant.
///
/// # Errors
/// [`Unclear`] if a context does not exist or lacks what the command needs, or if the contexts or a default file
/// cannot be read or could come from another account.
pub(crate) fn locate(request: &Request<'_>, surroundings: &Surroundings) -> anyhow::Result<Located> {
    let named = match context(request, surroundings)? {
        Some((name, context)) => of_context(request.purpose, name, context)?,
        None => of_paths(request, surroundings),
    };
    let is_silent = named.config.is_none() && named.data_dir.is_none();
    let may_default = match request.purpose {
        // The `up` of a named data directory says where its servers are. A default file may be about other servers.
        Purpose::Ask => is_silent,
        Purpose::Check | Purpose::Run | Purpose::Up => named.context.is_none(),
    };
    let (config, default_text) = match named.config {
        None if may_default => default_file(surroundings)?.unzip(),
        config => (config, None),
    };
    let default_dir = || Named { path: DATA_DIR.into(), by: NamedBy::Default };
    let data_dir = named.data_dir.unwrap_or_else(default_dir);
    let located = Located { config, data_dir, context: named.context, default_text };
    tracing::debug!(
        config = ?located.config.as_ref().map(|config| &config.path),
        config_named_by = ?located.config.as_ref().map(|config| config.by.to_string()),
        data_dir = %located.data_dir().display(),
        data_dir_named_by = %located.data_dir.by,
        "using this installation"
    );
    Ok(located)
}

/// What the command line, the variables or a context name.
#[derive(Default)]
struct Naming {
    config: Option<Named>,
    data_dir: Option<Named>,
    context: Option<String>,
}

/// The context that counts, if there is one.
fn context(request: &Request<'_>, surroundings: &Surroundings) -> anyhow::Result<Option<(String, Context)>> {
    let is_named = |name: &str| surroundings.variable(name).is_some();
    let heeds_data_dir = matches!(request.purpose, Purpose::Ask | Purpose::Up);
    let by_path = request.config.is_some()
        || request.data_dir.is_some()
        || is_named(surroundings::CONFIG)
        || (heeds_data_dir && is_named(surroundings::DATA_DIR));
    let variable = || surroundings.variable(surroundings::CONTEXT).map(|name| name.to_string_lossy().into_owned());
    let name = match request.context {
        Some(name) => Some(name.to_owned()),
        None if by_path => return Ok(None),
        None => variable(),
    };
    if name.is_none() && matches!(request.purpose, Purpose::Run | Purpose::Up) {
        return Ok(None);
    }
    let contexts = Contexts::read(surroundings)?;
    let Some(name) = name.or_else(|| contexts.current.clone()) else { return Ok(None) };
    let context = contexts.get(&name)?;
    Ok(Some((name, context)))
}

fn of_context(purpose: Purpose, name: String, context: Context) -> Result<Naming, Unclear> {
    if matches!(purpose, Purpose::Check | Purpose::Run) && context.config.is_none() {
        let problem = format!(
            "expected a configuration, found only a data directory in the context `{name}`; name a configuration with \
             --config"
        );
        return Err(Unclear(problem));
    }
    let by = NamedBy::Context(name.clone());
    let named = |path: Option<PathBuf>| path.map(|path| Named { path, by: by.clone() });
    Ok(Naming { config: named(context.config), data_dir: named(context.data_dir), context: Some(name) })
}

fn of_paths(request: &Request<'_>, surroundings: &Surroundings) -> Naming {
    let line = |path: Option<&Path>| path.map(|path| Named { path: path.to_owned(), by: NamedBy::CommandLine });
    let variable = |name| surroundings.path(name).map(|path| Named { path, by: NamedBy::Environment });
    let (config, data_dir) = (line(request.config), line(request.data_dir));
    if request.purpose == Purpose::Ask && (config.is_some() || data_dir.is_some()) {
        return Naming { config, data_dir, context: None };
    }
    let (config, data_dir) =
        (config.or_else(|| variable(surroundings::CONFIG)), data_dir.or_else(|| variable(surroundings::DATA_DIR)));
    Naming { config, data_dir, context: None }
}

/// The configuration file in a default place, and its text.
fn default_file(surroundings: &Surroundings) -> Result<Option<(Named, Secret)>, Unclear> {
    let own = geteuid().as_raw();
    // In a directory such as /tmp, others could place a file that sends our secrets to their servers.
    let owner = |path: &Path, owner: u32| -> anyhow::Result<()> {
        anyhow::ensure!(
            [own, 0].contains(&owner),
            "expected {} to belong to this account (user id {own}) or to root, because nobody named it, found it to be \
             that of user id {owner}",
            path.display()
        );
        Ok(())
    };
    // People write this file themselves. On many systems their group, which has no other member, may then write it.
    let trust = Trust { owner: &owner, closed: ALL_WRITE };
    let of_user = surroundings.config_dir().map(|dir| dir.join(CONFIG_FILE));
    for path in [Some(surroundings.directory().join(CONFIG_FILE)), of_user].into_iter().flatten() {
        let text = opened::read_to_string(&path, &trust)
            .map_err(|error| Unclear(format!("{error:#}; name it with --config if you trust it, or name another")))?;
        if let Some(text) = text {
            return Ok(Some((Named { path, by: NamedBy::Default }, Secret::new(text))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::installation::private;
    use crate::installation::surroundings::{CONFIG, CONTEXT};

    /// A directory with a configuration, and a person's directory with the contexts `test` and `live`.
    struct Testbed {
        dir: tempfile::TempDir,
        surroundings: Surroundings,
    }

    impl Testbed {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let text = "[contexts.test]\ndata_dir = '/srv/test'\n[contexts.live]\nconfig = '/etc/live.toml'\n";
            std::fs::create_dir(dir.path().join("own")).unwrap();
            private::write(&dir.path().join("own/contexts.toml"), text.as_bytes()).unwrap();
            let own = dir.path().join("own").into_os_string();
            let surroundings = Surroundings::of_test(dir.path()).set(surroundings::CONFIG_DIR, own);
            Self { dir, surroundings }
        }

        fn set(mut self, name: &'static str, value: &str) -> Self {
            self.surroundings = self.surroundings.set(name, value.into());
            self
        }

        fn write(self, name: &str, text: &str) -> Self {
            private::write(&self.dir.path().join(name), text.as_bytes()).unwrap();
            self
        }

        /// The located configuration and data directory, relative to the test's directory.
        fn told(&self, purpose: Purpose, [config, data_dir, context]: [&str; 3]) -> Result<[String; 2], String> {
            let given = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
            let (config, data_dir) = (given(config), given(data_dir));
            let context = Some(context).filter(|context| !context.is_empty());
            let request = Request { purpose, config: config.as_deref(), data_dir: data_dir.as_deref(), context };
            let located = locate(&request, &self.surroundings).map_err(|error| format!("{error:#}"))?;
            let shown = |path: &Path| path.strip_prefix(self.dir.path()).unwrap_or(path).display().to_string();
            Ok([located.config().map(shown).unwrap_or_default(), shown(located.data_dir())])
        }
    }

    fn found(config: &str, data_dir: &str) -> Result<[String; 2], String> {
        Ok([config.to_owned(), data_dir.to_owned()])
    }

    const NOTHING: [&str; 3] = ["", "", ""];

    #[test]
    fn what_is_named_first_counts_and_nothing_is_mixed() {
        let testbed = Testbed::new().write("headrace.toml", "").set(CONFIG, "/etc/env.toml").set(CONTEXT, "test");
        for (given, expected) in [
            (NOTHING, found("/etc/env.toml", DATA_DIR)),
            (["a.toml", "", ""], found("a.toml", DATA_DIR)),
            (["", "d", ""], found("", "d")),
            (["a.toml", "d", ""], found("a.toml", "d")),
            (["", "", "test"], found("", "/srv/test")),
            (["", "", "live"], found("/etc/live.toml", DATA_DIR)),
        ] {
            assert_eq!(testbed.told(Purpose::Ask, given), expected, "{given:?}");
        }
        // `up` takes its configuration and its directory from different places.
        assert_eq!(testbed.told(Purpose::Up, ["", "d", ""]), found("/etc/env.toml", "d"));
    }

    #[test]
    fn a_file_that_lies_here_is_read_only_when_nothing_is_named() {
        let testbed = Testbed::new().write("own/headrace.toml", "");
        assert_eq!(testbed.told(Purpose::Ask, NOTHING), found("own/headrace.toml", DATA_DIR));
        let testbed = testbed.write("headrace.toml", "");
        for purpose in [Purpose::Ask, Purpose::Check, Purpose::Run, Purpose::Up] {
            assert_eq!(testbed.told(purpose, NOTHING), found("headrace.toml", DATA_DIR), "{purpose:?}");
        }
        assert_eq!(testbed.told(Purpose::Ask, ["", "d", ""]), found("", "d"));
        assert_eq!(testbed.told(Purpose::Up, ["", "d", ""]), found("headrace.toml", "d"));
        assert_eq!(testbed.told(Purpose::Up, ["", "", "test"]), found("", "/srv/test"));
    }

    #[test]
    fn the_context_in_use_starts_nothing() {
        let text = "current = 'live'\n[contexts.live]\nconfig = '/etc/live.toml'\n";
        let testbed = Testbed::new().write("own/contexts.toml", text);
        for (purpose, config) in [
            (Purpose::Ask, "/etc/live.toml"),
            (Purpose::Check, "/etc/live.toml"),
            (Purpose::Run, ""),
            (Purpose::Up, ""),
        ] {
            assert_eq!(testbed.told(purpose, NOTHING), found(config, DATA_DIR), "{purpose:?}");
        }
        let testbed = testbed.set(CONTEXT, "live");
        assert_eq!(testbed.told(Purpose::Run, NOTHING), found("/etc/live.toml", DATA_DIR), "it was named");
    }

    #[test]
    fn a_context_that_says_too_little_is_refused() {
        let testbed = Testbed::new();
        let absent = testbed.told(Purpose::Ask, ["", "", "tset"]).unwrap_err();
        assert!(absent.contains("`tset`") && absent.contains("`live`, `test`"), "{absent}");
        let partial = testbed.told(Purpose::Run, ["", "", "test"]).unwrap_err();
        assert!(partial.contains("only a data directory in the context `test`"), "{partial}");
    }

    #[test]
    fn a_file_of_another_account_is_not_taken_for_ours() {
        // Only root can change the owner of a file.
        if !geteuid().is_root() {
            return;
        }
        let testbed = Testbed::new().write("headrace.toml", "");
        let path = testbed.dir.path().join("headrace.toml");
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let refused = testbed.told(Purpose::Up, NOTHING).unwrap_err();
        assert!(refused.contains("user id 12345") && refused.contains("--config"), "{refused}");
    }

    #[test]
    fn a_default_file_that_anybody_may_write_is_refused_and_one_that_is_missing_is_not() {
        let testbed = Testbed::new();
        let path = testbed.dir.path().join("headrace.toml");
        symlink("nowhere.toml", &path).unwrap();
        assert_eq!(testbed.told(Purpose::Up, NOTHING), found("", DATA_DIR));
        let testbed = testbed.write("nowhere.toml", "");
        for (mode, is_refused) in [(0o600, false), (0o664, false), (0o666, true)] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let told = testbed.told(Purpose::Up, NOTHING);
            assert_eq!(told.is_err(), is_refused, "{mode:o}: {told:?}");
            assert!(told.is_ok() || told.unwrap_err().contains("chmod go-w"));
        }
        assert_eq!(testbed.told(Purpose::Up, ["headrace.toml", "", ""]), found("headrace.toml", DATA_DIR), "named");
    }

    #[test]
    fn a_default_file_is_loaded_as_it_was_when_it_was_checked() {
        let testbed = Testbed::new().write("headrace.toml", "pipeline.lanes = 3\n");
        let request = Request { purpose: Purpose::Up, config: None, data_dir: None, context: None };
        let located = locate(&request, &testbed.surroundings).unwrap();
        let testbed = testbed.write("headrace.toml", "pipeline.lanes = 4\n");
        assert_eq!(located.load(|_| Vec::new()).unwrap().value.pipeline.lanes, 3);
        assert_eq!(located.config(), Some(testbed.dir.path().join("headrace.toml").as_path()));
    }
}
