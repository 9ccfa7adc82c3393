//! Connects a command to an installation, and tells the person at the command line which one it is. Read `installation::locate` next.

use std::sync::Arc;

use anyhow::Context as _;
use headrace_runtime::broker::Broker;
use headrace_runtime::secret::redact_url;
use serde_json::{Value, json};

use crate::cli::global::Global;
use crate::cli::place::Place;
use crate::cli::{output, plain};
use crate::config::Config;
use crate::installation::locate::{Named, NamedBy};
use crate::installation::{running, servers};
use crate::nats::connections::connect_admin;

/// The installation that a command changes. A command that removes dead letters must show it: the person may have
/// forgotten that a context chosen long ago is still in use.
pub(super) struct Target {
    /// Its server, without a password.
    pub(super) nats: String,
    /// The configuration that was read, if there is one.
    pub(super) config: Option<Named>,
    /// The environment variable that names the server, if one does.
    pub(super) variable: Option<Arc<str>>,
    /// The data directory of the `up` that was asked where its server is.
    pub(super) data_dir: Option<Named>,
}

impl Target {
    /// Connects as the admin to the server of the configuration, or of the `up` that runs on the data directory. Returns
    /// also the configuration, and which installation that is.
    pub(super) async fn connect(place: &Place, name: &str) -> anyhow::Result<(Broker, Config, Self)> {
        let located = place.locate()?;
        let (mut config, variable) = {
            let loaded = servers::load(&located)?;
            let variable = servers::variable(&loaded, servers::NATS);
            (loaded.value, variable)
        };
        let is_of_up = config.nats.url.is_empty();
        if is_of_up {
            let ready = running::of(servers::of_up(&located, servers::NATS)?).context(
                "expected the address of a NATS server: name a configuration with `nats.url`, or the --data-dir of a \
                 running `headrace up`",
            )?;
            config.nats.reach(&ready.nats.context("the ready file of the running process names no NATS server")?);
        }
        let broker = connect_admin(&config, name).await?;
        let nats = redact_url(&config.nats.url);
        let data_dir = is_of_up.then_some(located.data_dir);
        let target = Self { nats, config: located.config, variable: variable.filter(|_| !is_of_up), data_dir };
        Ok((broker, config, target))
    }

    /// Tells what the command is about to do, and to which installation.
    pub(super) fn note(&self, what: &str, global: Global) {
        if global.is_quiet() {
            return;
        }
        let place = |kind: &str, named: &Named| format!("{kind} {}, named by {}", shown(named), named.by);
        let config = self.config.as_ref().map(|named| place("configuration", named));
        let variable = self.variable.as_ref().map(|variable| format!("{} from {variable}", servers::NATS));
        let data_dir = self.data_dir.as_ref().map(|named| place("`headrace up` on", named));
        let places: Vec<String> = config.into_iter().chain(variable).chain(data_dir).collect();
        let places = if places.is_empty() { "no configuration file".to_owned() } else { places.join("; ") };
        output::note(format_args!("{what} at NATS {} ({})", plain::line(&self.nats), plain::line(&places)));
    }

    /// The same for a program.
    pub(super) fn json(&self) -> Value {
        let context = [&self.config, &self.data_dir].into_iter().flatten().find_map(|named| match &named.by {
            NamedBy::Context(name) => Some(name),
            _ => None,
        });
        json!({
            "nats": self.nats,
            "config": self.config.as_ref().map(shown),
            "variable": self.variable.as_deref(),
            "data_dir": self.data_dir.as_ref().map(shown),
            "context": context,
        })
    }
}

/// The whole path: a relative one says little in a log.
fn shown(named: &Named) -> String {
    std::path::absolute(&named.path).as_deref().unwrap_or(&named.path).display().to_string()
}
