//! The example bodies that GitHub's partner Octokit publishes: the npm package `@octokit/webhooks-examples`, with 329
//! bodies of 58 kinds of events. Tests must send them as they are published.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use headrace_local::install::{Installer, Silent};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Kinds of events in the package.
pub const KINDS: usize = 58;
/// Bodies in the package.
pub const BODIES: usize = 329;

const PACKAGE: &str = "@octokit/webhooks-examples";
const VERSION: &str = "7.6.1";
const SHA256: &str = "89e6cb1c6345d32e3dd775617fa54effbdc26c859e514898d7728e95e9738280";

/// A published body.
#[derive(Clone, Debug)]
pub struct Example {
    /// The event kind: the value of `X-GitHub-Event`.
    pub kind: String,
    /// The body, byte for byte as in the package.
    pub body: Vec<u8>,
}

/// An entry of the package's `index.json`.
#[derive(Deserialize)]
struct Kind {
    name: String,
    examples: Vec<Box<RawValue>>,
}

/// The path of the package's `index.json`. Installs the package if it is not there.
pub async fn index() -> PathBuf {
    // The installer blocks: the first test on a machine downloads the package.
    let install = || -> anyhow::Result<PathBuf> {
        let folder = Installer::for_user(Arc::new(Silent))?.npm_package(PACKAGE, VERSION, Some(SHA256))?;
        Ok(folder.join("api.github.com/index.json"))
    };
    let installed = tokio::task::spawn_blocking(install).await.context("installing the examples was cut off");
    installed.and_then(|path| path).expect("the examples can be installed; the error says what is missing")
}

/// Every body, in the package's order.
pub async fn all() -> Vec<Example> {
    let path = index().await;
    let text = tokio::fs::read(&path).await.expect("the package was checked when it was installed");
    let kinds: Vec<Kind> = serde_json::from_slice(&text).expect("the pinned version has this form");
    assert_eq!(kinds.len(), KINDS, "kinds in {}", path.display());
    let examples: Vec<Example> = kinds
        .into_iter()
        .flat_map(|Kind { name, examples }| {
            examples.into_iter().map(move |body| Example { kind: name.clone(), body: body.get().as_bytes().to_vec() })
        })
        .collect();
    assert_eq!(examples.len(), BODIES, "bodies in {}", path.display());
    examples
}
