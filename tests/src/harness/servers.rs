//! NATS servers, one or a cluster of them.

use std::net::SocketAddr;
use std::path::Path;

use futures::future::try_join_all;
use headrace_local::nats;

/// Starts `count` servers in folders of `dir`; more than one are a cluster. Their logs are beside `dir`.
pub(crate) async fn start_nats(program: &Path, dir: &Path, count: usize) -> anyhow::Result<Vec<nats::Running>> {
    let mut configs: Vec<nats::Config> = Vec::new();
    let mut routes = Vec::new();
    for number in 0..count {
        let mut config = nats::Config::new(program, dir.join(number.to_string()));
        config.name = format!("node-{number}");
        config.log = dir.with_file_name(format!("nats-{number}.log"));
        routes.push(free_port().await?);
        configs.push(config);
    }
    if count > 1 {
        for (config, listen) in configs.iter_mut().zip(&routes) {
            config.cluster = Some(nats::Cluster { name: "tests".to_owned(), listen: *listen, routes: routes.clone() });
        }
    }
    // All at once: a server of a cluster is ready only when the others are there.
    Ok(try_join_all(configs.into_iter().map(nats::start)).await?)
}

pub(crate) async fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
