//! The environment variables and the directory that help to find the installation.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The variables that name an installation, or the place where contexts are kept.
const VARIABLES: [&str; 6] = [CONFIG, DATA_DIR, CONTEXT, CONFIG_DIR, "XDG_CONFIG_HOME", "HOME"];
pub(crate) const CONFIG: &str = "HEADRACE_CONFIG";
pub(crate) const DATA_DIR: &str = "HEADRACE_DATA_DIR";
pub(crate) const CONTEXT: &str = "HEADRACE_CONTEXT";
pub(crate) const CONFIG_DIR: &str = "HEADRACE_CONFIG_DIR";

/// The variables of a command, and its current directory.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    variables: BTreeMap<&'static str, OsString>,
    directory: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    pub(crate) fn of_this_process() -> Self {
        let found = VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        // Scripts set a variable to nothing to say that there is none.
        Self { variables: found.filter(|(_, value)| !value.is_empty()).collect(), directory: PathBuf::new() }
    }

    /// The directory of a person's own configuration and contexts.
    pub(crate) fn config_dir(&self) -> Option<PathBuf> {
        let of_user = || Some(self.path("XDG_CONFIG_HOME").filter(|path| path.is_absolute())?.join("headrace"));
        let of_home = || Some(self.path("HOME")?.join(".config/headrace"));
        self.path(CONFIG_DIR).or_else(of_user).or_else(of_home)
    }

    /// The directory in which relative paths begin.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name)
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(name).map(PathBuf::from)
    }

    #[cfg(test)]
    pub(crate) fn of_test(directory: &Path) -> Self {
        Self { variables: BTreeMap::new(), directory: directory.to_owned() }
    }

    #[cfg(test)]
    pub(crate) fn set(mut self, name: &'static str, value: OsString) -> Self {
        self.variables.insert(name, value);
        self
    }
}

/// The command line does not say clearly which installation is meant.
#[derive(Debug)]
pub(crate) struct Unclear(pub(crate) String);

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unclear {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_has_one_directory_for_all_this() {
        let of = |variables: &[(&'static str, &str)]| {
            let none = Surroundings::of_test(Path::new("/work"));
            let all = variables.iter().fold(none, |all, &(name, value)| all.set(name, OsString::from(value)));
            all.config_dir().map(|dir| dir.display().to_string()).unwrap_or_default()
        };
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[("HOME", "/home/mona")]), "/home/mona/.config/headrace");
        assert_eq!(of(&[("HOME", "/home/mona"), ("XDG_CONFIG_HOME", "/etc/xdg")]), "/etc/xdg/headrace");
        // The XDG specification says to ignore a relative path.
        assert_eq!(of(&[("HOME", "/home/mona"), ("XDG_CONFIG_HOME", "xdg")]), "/home/mona/.config/headrace");
        assert_eq!(of(&[("HOME", "/home/mona"), (CONFIG_DIR, "here")]), "here");
    }
}
