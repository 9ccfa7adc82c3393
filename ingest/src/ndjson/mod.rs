//! Newline-delimited JSON from whoever has records to tell.
//!
//! A request is refused as a whole, or each of its lines becomes one record, unchanged. `push` says who may send what,
//! and [`split`] what a line must be.

pub mod config;
mod push;
pub mod split;

use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;

use self::config::Config;
use self::push::Collect;
use crate::source::{MakeSecret, Source};
use crate::tenant::Tenants;

/// The source's name in subjects and headers.
const SOURCE: &str = "ndjson";

/// The source.
pub struct Ndjson;

impl Source for Ndjson {
    const NAME: &'static str = SOURCE;
    type Config = Option<Config>;
    type Push = Collect;

    fn is_configured(config: &Option<Config>) -> bool {
        config.as_ref().is_some_and(Config::has_tokens)
    }

    fn validate(config: &Option<Config>, path: &str) -> Vec<Invalid> {
        config.iter().flat_map(|own| own.validate(path)).collect()
    }

    fn push(config: &Option<Config>, tenants: &Tenants) -> Option<Collect> {
        let own = config.as_ref().filter(|own| own.has_tokens())?;
        Some(Collect::new(own, tenants))
    }

    fn give_secret(config: &mut Option<Config>, make: &mut MakeSecret<'_>) -> anyhow::Result<()> {
        let own = config.get_or_insert_default();
        if !own.has_tokens() {
            own.tokens.push(make()?);
        }
        Ok(())
    }

    fn secret(config: &Option<Config>) -> Option<&Secret> {
        config.as_ref()?.tokens.first()
    }
}
