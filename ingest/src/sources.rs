//! The registry of sources. Everything else learns of them here alone. To add one, add a folder and a line.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use headrace_runtime::config::Invalid;
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::secret::Secret;

use crate::config::Config;
use crate::github::GitHub;
use crate::ndjson::Ndjson;
use crate::receive::Mount;
use crate::source::pull::Pull;
use crate::source::{CheckStored, Common, MakeSecret, Source};
use crate::tenant::Tenants;

/// Every source, with the place of its settings.
pub static SOURCES: [&dyn Registered; 2] = [
    &Line::<GitHub> { settings: |config| &config.github, settings_mut: |config| &mut config.github },
    &Line::<Ndjson> { settings: |config| &config.ndjson, settings_mut: |config| &mut config.ndjson },
];

/// A source in the registry.
struct Line<S: Source> {
    settings: fn(&Config) -> &S::Config,
    settings_mut: fn(&mut Config) -> &mut S::Config,
}

/// A source, as the registry knows it: [`Source`], with the whole configuration instead of its own settings.
pub trait Registered: Sync {
    /// [`Source::NAME`]
    fn name(&self) -> &'static str;
    /// [`Source::is_configured`]
    fn is_configured(&self, config: &Config) -> bool;
    /// [`Source::validate`]; `path` is that of `config`.
    fn validate(&self, config: &Config, path: &str) -> Vec<Invalid>;
    /// [`Source::push`]
    fn mount(&self, config: &Config, common: Common<'_>) -> Option<Mount>;
    /// [`Source::pulls`]
    ///
    /// # Errors
    /// When something that it needs cannot be set up.
    fn pulls(&self, config: &Config, common: Common<'_>) -> anyhow::Result<Vec<Arc<dyn Pull>>>;
    /// [`Source::give_secret`]
    ///
    /// # Errors
    /// Those of `make`.
    fn give_secret(&self, config: &mut Config, make: &mut MakeSecret<'_>) -> anyhow::Result<()>;
    /// [`Source::secret`]
    fn secret<'c>(&self, config: &'c Config) -> Option<&'c Secret>;
    /// [`Source::check_stored`]
    fn check_stored(&self, config: &Config, tenants: &Tenants) -> Option<CheckStored>;
}

impl<S: Source> Registered for Line<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn is_configured(&self, config: &Config) -> bool {
        S::is_configured((self.settings)(config))
    }

    fn validate(&self, config: &Config, path: &str) -> Vec<Invalid> {
        S::validate((self.settings)(config), &format!("{path}.{}", S::NAME))
    }

    fn mount(&self, config: &Config, common: Common<'_>) -> Option<Mount> {
        S::push((self.settings)(config), common).map(Mount::of)
    }

    fn pulls(&self, config: &Config, common: Common<'_>) -> anyhow::Result<Vec<Arc<dyn Pull>>> {
        S::pulls((self.settings)(config), common)
    }

    fn give_secret(&self, config: &mut Config, make: &mut MakeSecret<'_>) -> anyhow::Result<()> {
        S::give_secret((self.settings_mut)(config), make)
    }

    fn secret<'c>(&self, config: &'c Config) -> Option<&'c Secret> {
        S::secret((self.settings)(config))
    }

    fn check_stored(&self, config: &Config, tenants: &Tenants) -> Option<CheckStored> {
        S::check_stored((self.settings)(config), tenants)
    }
}

/// The sources that the configuration asks for.
fn configured(config: &Config) -> impl Iterator<Item = &'static dyn Registered> {
    SOURCES.iter().copied().filter(|source| source.is_configured(config))
}

/// What is wrong with the settings of the sources, below `path`, the path of `config`.
#[must_use]
pub fn validate(config: &Config, path: &str) -> Vec<Invalid> {
    configured(config).flat_map(|source| source.validate(config, path)).collect()
}

/// What is wrong when nobody can send anything to a gateway with `config`, whose path is `path`.
#[must_use]
pub fn missing(config: &Config, path: &str) -> Option<Invalid> {
    let message = "expected at least one webhook secret, or a token in `ingest.ndjson.tokens`, found neither; use the \
                   secret that is set at GitHub, or make one with `openssl rand -hex 32`";
    let common = Common { tenants: &Tenants::default(), duplicate_window: Duration::ZERO };
    let is_missing = mounts(config, common).is_empty();
    is_missing.then(|| Invalid::new(format!("{path}.github.secrets"), message))
}

/// Whether the configuration has what it takes to check a signature again.
#[must_use]
pub fn can_check_stored(config: &Config) -> bool {
    configured(config).any(|source| source.check_stored(config, &Tenants::default()).is_some())
}

/// Where requests go.
pub(crate) fn mounts(config: &Config, common: Common<'_>) -> Vec<Mount> {
    configured(config).filter_map(|source| source.mount(config, common)).collect()
}

/// Everything that is asked for, of all sources.
///
/// # Errors
/// When something that a source needs cannot be set up, such as certificates.
pub fn pulls(config: &Config, common: Common<'_>) -> anyhow::Result<Vec<Arc<dyn Pull>>> {
    let pulls = configured(config).map(|source| source.pulls(config, common));
    let pulls: Vec<_> = pulls.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect();
    for pull in &pulls {
        let name = pull.name();
        let is_key = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        anyhow::ensure!(
            !name.is_empty() && name.bytes().all(is_key),
            "expected a name of `a` to `z`, digits, `_` and `-` for what the source {} asks, found `{}`",
            pull.source(),
            name.escape_debug()
        );
    }
    Ok(pulls)
}

/// The sources that others send to, by name, with the paths that each serves.
#[must_use]
pub fn pushes(config: &Config, common: Common<'_>) -> Vec<(&'static str, Vec<String>)> {
    let mount = |source: &dyn Registered| Some((source.name(), source.mount(config, common)?.paths()));
    configured(config).filter_map(mount).collect()
}

/// Checks stored records again, each as its source does.
#[derive(Clone)]
pub struct StoredCheck(Arc<HashMap<&'static str, Option<CheckStored>>>);

impl StoredCheck {
    /// The check for the sources that the configuration asks for.
    #[must_use]
    pub fn new(config: &Config, tenants: &Tenants) -> Self {
        let checks = configured(config).map(|source| (source.name(), source.check_stored(config, tenants)));
        Self(Arc::new(checks.collect()))
    }

    /// Checks whether the gateway would accept `raw`. A source whose records hold no proof passes if it is configured.
    ///
    /// # Errors
    /// Why the gateway would refuse it, in words.
    pub fn check(&self, raw: &RawDelivery) -> Result<(), String> {
        let Some(check) = self.0.get(raw.source.as_str()) else {
            let mut known: Vec<&str> = self.0.keys().copied().collect();
            known.sort_unstable();
            return Err(format!(
                "expected a source that is configured here ({}), found `{}`",
                known.join(", "),
                raw.source.escape_debug()
            ));
        };
        // Rows are compared by this hash, but it comes from a header of the message.
        if RawDelivery::sha256_of(&raw.body) != raw.sha256 {
            return Err("expected the hash of the body beside it, found another; not stored by the gateway".to_owned());
        }
        check.as_ref().map_or(Ok(()), |check| check(raw))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_folder_is_a_source_or_a_part_of_the_gateway() {
        const PARTS: [&str; 6] = ["collect", "gateway", "lines", "objects", "receive", "source"];
        let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap().map(Result::unwrap);
        let folders = folders.filter(|entry| entry.file_type().unwrap().is_dir());
        let folders: BTreeSet<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
        let registered = SOURCES.iter().map(|source| source.name()).chain(PARTS).map(str::to_owned).collect();
        assert_eq!(folders, registered);
    }
}
