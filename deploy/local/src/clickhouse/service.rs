//! Starts one process that serves the embedded engine, and waits until it answers. The port is chosen once and must
//! survive a restart.

use std::net::SocketAddr;

use super::Config;
use crate::child::{Child, Environment, Service, Spec};
use crate::net;
use crate::start::{self, StartError};

/// One server and its port.
pub(super) struct Server {
    config: Config,
    listen: SocketAddr,
}

impl Server {
    pub(super) fn new(config: Config) -> Result<Self, StartError> {
        let listen = start::with_port(config.listen)?;
        Ok(Self { config, listen })
    }

    pub(super) fn address(&self) -> SocketAddr {
        net::reachable(self.listen)
    }
}

impl Service for Server {
    type Error = StartError;

    fn name(&self) -> &'static str {
        "ClickHouse"
    }

    async fn spawn(&self) -> Result<Child, StartError> {
        start::require_free(self.listen)?;
        let mut arguments = self.config.args.clone();
        arguments.extend(["--data-dir".into(), self.config.data_dir.clone().into()]);
        arguments.extend(["--listen".into(), self.listen.to_string().into()]);
        let spec = Spec {
            program: self.config.program.clone(),
            arguments,
            environment: Environment::Plain,
            log: self.config.log.clone(),
        };
        Ok(Child::spawn(spec).await?)
    }

    async fn ready(&self, child: &Child) -> Result<(), StartError> {
        let address = self.address();
        // The process listens at once, so that a taken port fails at once. It answers only when the engine is up.
        let answers = async || net::http_status(address, "/ping").await == Some(200);
        start::answered(child, self.name(), address, self.config.ready_within, answers).await
    }
}
