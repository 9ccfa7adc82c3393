//! Which servers a command asks: those that the configuration names, else those of an `up`. It must never ask servers
//! of another installation than the one that was named. `locate.rs` finds the installation.

use std::sync::Arc;

use headrace_settings::{Loaded, Origin};

use crate::config::Config;
use crate::installation::locate::{Located, Named, NamedBy};
use crate::installation::surroundings::{DATA_DIR, Unclear};

/// The setting with the address of NATS.
pub(crate) const NATS: &str = "nats.url";
/// The setting with the address of ClickHouse.
pub(crate) const CLICKHOUSE: &str = "sinks.clickhouse.url";

/// Loads the configuration for a command that asks servers. Values are not checked, because the configuration may be one
/// for `up`.
///
/// # Errors
/// All problems at once, or that of [`ensure_own`].
pub(crate) fn load(located: &Located) -> anyhow::Result<Loaded<Config>> {
    let loaded = located.load(|_| Vec::new())?;
    ensure_own(located, &loaded)?;
    Ok(loaded)
}

/// Makes sure that no environment variable names a server beside a data directory or a context that was named. The
/// variable would win, and it may still be set for another installation.
///
/// # Errors
/// [`Unclear`] if one does.
pub(crate) fn ensure_own(located: &Located, loaded: &Loaded<Config>) -> Result<(), Unclear> {
    let place = match (&located.context, &located.data_dir.by) {
        (Some(name), _) => format!("the context `{name}`"),
        (None, NamedBy::CommandLine) => "--data-dir".to_owned(),
        (None, NamedBy::Environment) => format!("${DATA_DIR}"),
        (None, NamedBy::Context(_) | NamedBy::Default) => return Ok(()),
    };
    match [NATS, CLICKHOUSE].into_iter().find_map(|setting| variable(loaded, setting)) {
        None => Ok(()),
        Some(variable) => Err(Unclear(format!(
            "expected one installation, found {variable} in the environment and {place}; unset the variable, or name \
             only a configuration with --config, which it overrides"
        ))),
    }
}

/// The environment variable that gave `setting` its value, if one did.
pub(crate) fn variable(loaded: &Loaded<Config>, setting: &str) -> Option<Arc<str>> {
    let Origin::Environment { variable } = loaded.locate(setting) else { return None };
    // A replay also loads the variables of the last `up`, which this process does not have.
    let value = std::env::var_os(&*variable)?;
    (!value.is_empty()).then_some(variable)
}

/// The data directory whose `up` is asked, because the configuration has no `setting`.
///
/// # Errors
/// Those of [`of_up_because`].
pub(crate) fn of_up<'a>(located: &'a Located, setting: &str) -> Result<&'a Named, Unclear> {
    let config = located.config().map(|path| format!(" {}", path.display())).unwrap_or_default();
    of_up_because(located, &format!("its configuration{config} has no {setting}"))
}

/// The same for another reason, in words.
///
/// # Errors
/// [`Unclear`] if a context names no data directory. The default one may be another installation's.
pub(crate) fn of_up_because<'a>(located: &'a Located, why: &str) -> Result<&'a Named, Unclear> {
    let context = located.context.as_ref().filter(|_| located.data_dir.by == NamedBy::Default);
    let Some(name) = context else { return Ok(&located.data_dir) };
    let config = located.config().map(|path| format!(" --config {}", path.display())).unwrap_or_default();
    Err(Unclear(format!(
        "context `{name}` names no server: {why}; add --data-dir to the context (`headrace context remove {name}`, then \
         `headrace context add {name}{config} --data-dir DIR`)"
    )))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::installation::locate::{Purpose, Request, locate};
    use crate::installation::private;
    use crate::installation::surroundings::{CONFIG_DIR, Surroundings};

    #[test]
    fn a_context_without_a_data_directory_has_no_up_to_ask() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[contexts.live]\nconfig = '/etc/live.toml'\n[contexts.test]\ndata_dir = '/srv/test'\n";
        private::write(&dir.path().join("contexts.toml"), text.as_bytes()).unwrap();
        let surroundings = Surroundings::of_test(dir.path()).set(CONFIG_DIR, dir.path().as_os_str().to_owned());
        let asked = |config: Option<&str>, context: Option<&str>| {
            let request = Request { purpose: Purpose::Ask, config: config.map(Path::new), data_dir: None, context };
            let located = locate(&request, &surroundings).unwrap();
            let data_dir = of_up(&located, NATS).map_err(|problem| problem.to_string());
            data_dir.map(|named| named.path.display().to_string())
        };
        assert_eq!(asked(None, Some("test")), Ok("/srv/test".to_owned()));
        assert_eq!(asked(Some("up.toml"), None), Ok("headrace-data".to_owned()));
        let expected = "context `live` names no server: its configuration /etc/live.toml has no nats.url; add --data-dir \
                        to the context (`headrace context remove live`, then `headrace context add live --config \
                        /etc/live.toml --data-dir DIR`)";
        assert_eq!(asked(None, Some("live")), Err(expected.to_owned()));
    }
}
