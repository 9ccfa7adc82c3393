//! Newline-delimited JSON from whoever has records to tell.
//!
//! A request is refused as a whole, or each of its lines becomes one record, unchanged. `push` says who may send what,
//! and [`split`] what a line must be.

pub mod config;
pub mod folder;
mod push;
pub mod split;

use std::sync::Arc;

use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;

use self::folder::Folder;
use self::push::Collect;
use self::split::Split;
use crate::config::{Config, Tenants};
use crate::source::pull::Pull;
use crate::source::{MakeSecret, Mount, Source};

/// The source's name in subjects and headers.
const SOURCE: &str = "ndjson";

/// The source.
pub struct Ndjson;

impl Source for Ndjson {
    const NAME: &'static str = SOURCE;

    fn is_configured(config: &Config) -> bool {
        config.ndjson.as_ref().is_some_and(|own| own.has_tokens() || own.folder.is_some())
    }

    fn validate(config: &Config, path: &str) -> Vec<Invalid> {
        config.ndjson.iter().flat_map(|own| own.validate(&format!("{path}.{SOURCE}"))).collect()
    }

    fn mount(config: &Config, tenants: &Tenants) -> Option<Mount> {
        let own = config.ndjson.as_ref().filter(|own| own.has_tokens())?;
        Some(Mount::of(Collect::new(own, tenants)))
    }

    fn pulls(config: &Config, tenants: &Tenants) -> anyhow::Result<Vec<Arc<dyn Pull>>> {
        let Some((own, folder)) = config.ndjson.as_ref().and_then(|own| Some((own, own.folder.as_ref()?))) else {
            return Ok(Vec::new());
        };
        Ok(vec![Arc::new(Folder::new(folder, Split::new(own, tenants), config.body_max_bytes))])
    }

    fn give_secret(config: &mut Config, make: &mut MakeSecret<'_>) -> anyhow::Result<()> {
        let own = config.ndjson.get_or_insert_default();
        if !own.has_tokens() {
            own.tokens.push(make()?);
        }
        Ok(())
    }

    fn secret(config: &Config) -> Option<&Secret> {
        config.ndjson.as_ref()?.tokens.first()
    }
}
