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

use self::config::Config;
use self::folder::Folder;
use self::push::Collect;
use self::split::Split;
use crate::objects::Objects;
use crate::source::pull::Pull;
use crate::source::{Common, MakeSecret, Source};

/// The source's name in subjects and headers.
const SOURCE: &str = "ndjson";

/// The source.
pub struct Ndjson;

impl Source for Ndjson {
    const NAME: &'static str = SOURCE;
    type Config = Option<Config>;
    type Push = Collect;

    fn is_configured(config: &Option<Config>) -> bool {
        config.as_ref().is_some_and(|own| own.has_tokens() || own.folder.is_some())
    }

    fn validate(config: &Option<Config>, path: &str) -> Vec<Invalid> {
        config.iter().flat_map(|own| own.validate(path)).collect()
    }

    fn push(config: &Option<Config>, common: Common<'_>) -> Option<Collect> {
        let own = config.as_ref().filter(|own| own.has_tokens())?;
        Some(Collect::new(own, common))
    }

    fn pulls(config: &Option<Config>, common: Common<'_>) -> anyhow::Result<Vec<Arc<dyn Pull>>> {
        let Some((own, folder)) = config.as_ref().and_then(|own| Some((own, own.folder.as_ref()?))) else {
            return Ok(Vec::new());
        };
        let records = Arc::new(Split::new(own, common));
        Ok(vec![match folder.bucket() {
            None => Arc::new(Folder::new(folder, records)),
            Some(bucket) => Arc::new(Objects::new(SOURCE, folder::NAME, folder.objects(bucket), records)?),
        }])
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
