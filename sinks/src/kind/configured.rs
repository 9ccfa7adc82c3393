//! The settings of an instance whose kind is not known.

use std::any::Any;
use std::fmt::Debug;

use async_trait::async_trait;
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::Fault;
use serde_json::Value;

use super::{Identity, Kind, Part};

/// The settings of an instance whose kind is not known. See [`Kind`].
#[async_trait]
pub(crate) trait Configured: Any + Debug + Send + Sync {
    fn boxed(&self) -> Box<dyn Configured>;
    fn to_json(&self) -> Value;
    fn validate(&self, path: &str) -> Vec<Invalid>;
    fn place(&self) -> Option<(&'static str, String)>;
    fn store_place(&self) -> u64;
    fn parts(&self, own: &Identity) -> anyhow::Result<Vec<Part>>;
    async fn check(&self) -> Result<(), Fault>;
    async fn prepare(&self, own: Option<&Identity>) -> Option<Result<(), Fault>>;
    fn told(&self) -> Option<(&'static str, String)>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

#[async_trait]
impl<K: Kind> Configured for K {
    fn boxed(&self) -> Box<dyn Configured> {
        Box::new(self.clone())
    }

    fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("settings have text keys and no values of their own making")
    }

    fn validate(&self, path: &str) -> Vec<Invalid> {
        Kind::validate(self, path)
    }

    fn place(&self) -> Option<(&'static str, String)> {
        Kind::place(self)
    }

    fn store_place(&self) -> u64 {
        Kind::store_place(self)
    }

    fn parts(&self, own: &Identity) -> anyhow::Result<Vec<Part>> {
        Kind::parts(self, own)
    }

    async fn check(&self) -> Result<(), Fault> {
        Kind::check(self).await
    }

    async fn prepare(&self, own: Option<&Identity>) -> Option<Result<(), Fault>> {
        Kind::prepare(self, own).await
    }

    fn told(&self) -> Option<(&'static str, String)> {
        Kind::told(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
