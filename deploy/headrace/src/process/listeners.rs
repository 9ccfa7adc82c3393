//! The ports of a process. They are taken before anything else starts, so that a conflict is reported at once.
//!
//! Until [`Port::listen`], connections are refused. A load balancer that is refused asks another process. If we
//! accepted without serving, it would wait.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpSocket;

use crate::config::Config;
use crate::role::Role;

/// How many connections may wait to be accepted. The kernel allows fewer if `net.core.somaxconn` is lower.
const BACKLOG: u32 = 1_024;

/// The names of the settings that decide where a process listens, for error messages.
pub(crate) struct Settings {
    gateway: &'static str,
    admin: &'static str,
}

impl Settings {
    /// The configuration alone.
    pub(crate) const CONFIGURED: Self = Self { gateway: "`ingest.listen`", admin: "`admin.listen`" };
    /// The configuration, and the options of `up`.
    pub(crate) const OF_UP: Self =
        Self { gateway: "`ingest.listen` or --gateway-port", admin: "`admin.listen` or --metrics-port" };
}

/// The ports of a process.
pub(crate) struct Listeners {
    /// For operators.
    pub(crate) admin: Port,
    /// For senders, if the process has a gateway.
    pub(crate) gateway: Option<Port>,
}

impl Listeners {
    /// Takes the ports that `roles` need.
    ///
    /// # Errors
    /// If a port is taken. The error names the owner if this user may see it.
    pub(crate) fn bind(config: &Config, roles: &[Role], settings: &Settings) -> anyhow::Result<Self> {
        let has_gateway = roles.contains(&Role::Ingest);
        let gateway = has_gateway.then(|| Port::bind(config.ingest.listen, settings.gateway)).transpose()?;
        Ok(Self { admin: Port::bind(config.admin.listen, settings.admin)?, gateway })
    }
}

/// A port that this process has taken.
pub(crate) struct Port {
    socket: TcpSocket,
    address: SocketAddr,
    /// The setting or option that chose this port, for error messages.
    setting: &'static str,
}

impl Port {
    fn bind(address: SocketAddr, setting: &'static str) -> anyhow::Result<Self> {
        let bound = || -> std::io::Result<Self> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Connections of an earlier process may still be closing. A process that listens remains a conflict.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address, setting })
        };
        bound().map_err(|error| refused(error, address, setting))
    }

    /// Lets connections in. Also returns the address.
    ///
    /// # Errors
    /// If another process listens there by now: two processes that start at once can both take a port.
    pub(crate) fn listen(self) -> anyhow::Result<(std::net::TcpListener, SocketAddr)> {
        let Self { socket, address, setting } = self;
        let listener = socket.listen(BACKLOG).map_err(|error| refused(error, address, setting))?;
        Ok((listener.into_std().context("cannot share a listener")?, address))
    }
}

/// An address to which this machine can connect. A listener on all interfaces is reached on loopback.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// The error that says why `address`, the value of `setting`, cannot be used, and what to do.
fn refused(error: std::io::Error, address: SocketAddr, setting: &str) -> anyhow::Error {
    let remedy = format!("set {setting} to another one; port 0 takes any free one");
    let message = if error.kind() == ErrorKind::AddrInUse {
        let owner = headrace_local::listener_on(address.port());
        format!("cannot listen on {address}, where another program does: {owner}; stop it, or {remedy}")
    } else {
        format!("cannot listen on {address}; {remedy}")
    };
    anyhow::Error::new(error).context(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_told_with_its_owner_and_its_setting() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        config.admin.listen.set_port(0);
        config.ingest.listen = taken.local_addr().unwrap();
        let Err(error) = Listeners::bind(&config, &[Role::Ingest], &Settings::OF_UP) else { panic!("it is taken") };
        let (error, owner) = (format!("{error:#}"), format!("process {}", std::process::id()));
        for told in [config.ingest.listen.to_string().as_str(), owner.as_str(), "`ingest.listen` or --gateway-port"] {
            assert!(error.contains(told), "{told}: {error}");
        }
        // A process without a gateway needs no port for it.
        assert!(Listeners::bind(&config, &[Role::Sinks], &Settings::CONFIGURED).is_ok());
    }

    #[tokio::test]
    async fn a_port_that_two_starts_took_at_once_is_told_as_well() {
        let first = Port::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "`admin.listen`").unwrap();
        let second = Port::bind(first.address, "`ingest.listen` or --gateway-port").unwrap();
        let (_listener, address) = first.listen().unwrap();
        let Err(error) = second.listen() else { panic!("it is taken") };
        let (error, owner) = (format!("{error:#}"), format!("process {}", std::process::id()));
        for told in
            [address.to_string().as_str(), owner.as_str(), "set `ingest.listen` or --gateway-port to another one"]
        {
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[tokio::test]
    async fn nobody_is_let_in_before_it_listens() {
        let port = Port::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "`admin.listen`").unwrap();
        let address = port.address;
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let (_listener, bound) = port.listen().unwrap();
        assert_eq!(bound, address);
        assert!(std::net::TcpStream::connect(address).is_ok());
    }
}
