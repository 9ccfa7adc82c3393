//! Starts NATS servers, one or a cluster of them. They run in directories of the test and must not outlive it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use futures::future::try_join_all;
use headrace_local::nats;

/// Starts `count` servers in folders of `dir`. More than one server form a cluster. Their logs are beside `dir`.
pub(crate) async fn start_nats(program: &Path, dir: &Path, count: usize) -> anyhow::Result<Vec<nats::Running>> {
    let mut configs: Vec<nats::Config> = Vec::new();
    let mut routes = Vec::new();
    for number in 0..count {
        let mut config = nats::Config::new(program, dir.join(number.to_string()));
        config.name = format!("node-{number}");
        config.log = dir.with_file_name(format!("nats-{number}.log"));
        routes.push(free_address()?);
        configs.push(config);
    }
    if count > 1 {
        for (config, listen) in configs.iter_mut().zip(&routes) {
            config.cluster = Some(nats::Cluster { name: "tests".to_owned(), listen: *listen, routes: routes.clone() });
        }
    }
    // Start all at once: a server of a cluster is ready only when the others are there.
    Ok(try_join_all(configs.into_iter().map(nats::start)).await?)
}

/// An address on which nobody listens. It stays free for whoever listens there later.
pub(crate) fn free_address() -> std::io::Result<SocketAddr> {
    let host = Ipv4Addr::LOCALHOST.into();
    Ok((host, headrace_local::free_port(host)?).into())
}
