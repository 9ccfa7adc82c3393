//! The contract of a source: how something comes in, whoever sends it and in whatever form.
//!
//! A source is a folder of this crate. It has its settings, says who sent something ([`Push::verify`]), splits what came
//! into [`Record`]s ([`Push::split`]) and answers in its own protocol. Or it is asked, page by page ([`pull`]). It must
//! never publish, retry, wait or count: the gateway does, for every source alike. [`crate::sources`] is their registry.

pub mod pull;
mod refusal;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use headrace_runtime::config::Invalid;
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::secret::Secret;
use headrace_schemas::id::EventId;
use headrace_schemas::time::Timestamp;

use self::pull::Pull;
pub use self::refusal::Refusal;
use crate::tenant::Tenants;

/// One thing that a source took in: a message of RAW, and an event later.
///
/// All of it depends on nothing but what was delivered. The same thing delivered again, by whom and whenever, makes the
/// same record, so it is stored once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The source's name, and what the source calls it.
    pub id: EventId,
    /// When it happened, as it says itself. `None` if it does not say; then each copy of it is looked up before it is
    /// written.
    pub event_time: Option<Timestamp>,
    /// The source's name of its kind, such as `push`.
    pub kind: String,
    /// Whose it is: a subject token, as [`crate::tenant::TenantMap::tenant`] gives it.
    pub tenant: String,
    /// What is kept with the body, such as its signature. Never a secret: RAW and the table `raw` keep it as it is.
    pub headers: Vec<(String, String)>,
    /// The bytes as they came.
    pub body: Bytes,
}

/// What became of a record that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The record's id.
    pub id: EventId,
    /// RAW had it already.
    pub duplicate: bool,
}

/// What sources are given besides their own settings.
#[derive(Clone, Copy, Debug)]
pub struct Common<'c> {
    /// Which tenant an organization's events belong to.
    pub tenants: &'c Tenants,
    /// How long the broker recognizes a repeated message.
    pub duplicate_window: Duration,
}

/// A source, for the registry.
pub trait Source: Send + Sync + 'static {
    /// Its name in subjects, ids, metrics and the configuration, which is that of its folder.
    const NAME: &'static str;
    /// Its settings.
    type Config;
    /// How it takes what is sent to it; [`NoPush`] if nothing is.
    type Push: Push;

    /// Whether the configuration asks for it.
    fn is_configured(config: &Self::Config) -> bool;

    /// What is wrong with its settings, below `path`.
    fn validate(config: &Self::Config, path: &str) -> Vec<Invalid>;

    /// Takes what is sent to it. `None` if the configuration asks for something else of the source.
    fn push(_config: &Self::Config, _common: Common<'_>) -> Option<Self::Push> {
        None
    }

    /// What it asks for, if it asks.
    ///
    /// # Errors
    /// When something that it needs cannot be set up, such as certificates.
    fn pulls(_config: &Self::Config, _common: Common<'_>) -> anyhow::Result<Vec<Arc<dyn Pull>>> {
        Ok(Vec::new())
    }

    /// Turns the source on for `headrace up`, with a secret that `make` makes if none is configured.
    ///
    /// # Errors
    /// Those of `make`.
    fn give_secret(_config: &mut Self::Config, _make: &mut MakeSecret<'_>) -> anyhow::Result<()> {
        Ok(())
    }

    /// The secret with which somebody may send to it, if that takes one.
    fn secret(_config: &Self::Config) -> Option<&Secret> {
        None
    }

    /// How its records in RAW are checked again. `None` if they hold no proof of who sent them.
    fn check_stored(_config: &Self::Config, _tenants: &Tenants) -> Option<CheckStored> {
        None
    }
}

/// Makes the secret of a source, or reads the one that was made earlier.
pub type MakeSecret<'a> = dyn FnMut() -> anyhow::Result<Secret> + 'a;

/// Checks a stored record; the text says why it would be refused.
pub type CheckStored = Arc<dyn Fn(&RawDelivery) -> Result<(), String> + Send + Sync>;

/// A source that others send to over HTTP. Each of its requests is handled in the order of these functions.
pub trait Push: Send + Sync + 'static {
    /// The source's name.
    const NAME: &'static str;
    /// Whether a body may come with `Content-Encoding: gzip`.
    const TAKES_GZIP: bool = false;
    /// What the head of a request says.
    type Head: Send + Sync + 'static;
    /// Who sent a request.
    type Sender: Send + 'static;

    /// The paths that it serves, with the method POST.
    fn paths(&self) -> Vec<String>;

    /// Checks the head of a request to `path`, before anything of its body is read.
    ///
    /// # Errors
    /// Why the request is refused.
    fn head(&self, path: &str, headers: &HeaderMap) -> Result<Self::Head, Refusal>;

    /// How many bytes [`Self::verify`] hashes for a body of `bytes`. Much work leaves the reactor.
    fn work(&self, _head: &Self::Head, bytes: usize) -> usize {
        bytes
    }

    /// Finds out who sent `body`, from the bytes as they came.
    ///
    /// # Errors
    /// Why the request is refused.
    fn verify(&self, head: &Self::Head, body: &[u8]) -> Result<Self::Sender, Refusal>;

    /// Splits a verified body into one record or more. `body` is unpacked by now, within the gateway's limits.
    ///
    /// # Errors
    /// Why the request is refused: as a whole, so that its sender need not find out what of it was stored.
    fn split(&self, head: Self::Head, sender: Self::Sender, body: Bytes) -> Result<Vec<Record>, Refusal>;

    /// How many bytes the records of a body take in memory, besides the body itself.
    fn record_bytes(&self, _body: &[u8]) -> usize {
        0
    }

    /// The answer once all records are stored, in the source's own protocol.
    fn answer(&self, receipts: &[Receipt]) -> Response;

    /// The header that names a request in its sender's records, for the log of refusals.
    fn name<'h>(&self, _headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        None
    }
}

/// For a source that nothing is sent to.
#[derive(Clone, Copy, Debug)]
pub enum NoPush {}

impl Push for NoPush {
    const NAME: &'static str = "";
    type Head = ();
    type Sender = ();

    fn paths(&self) -> Vec<String> {
        match *self {}
    }

    fn head(&self, _: &str, _: &HeaderMap) -> Result<(), Refusal> {
        match *self {}
    }

    fn verify(&self, (): &(), _: &[u8]) -> Result<(), Refusal> {
        match *self {}
    }

    fn split(&self, (): (), (): (), _: Bytes) -> Result<Vec<Record>, Refusal> {
        match *self {}
    }

    fn answer(&self, _: &[Receipt]) -> Response {
        match *self {}
    }
}
