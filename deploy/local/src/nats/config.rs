//! Makes the text of nats-server's configuration file. Nothing here may touch a disk.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::users::{authorization, quoted};
use super::{Config, SyncInterval};

/// The configuration file's text for `config`, with the ports that were chosen for it. The server's monitoring answers
/// below `monitor_path`, or at the root if that is empty.
pub(super) fn render(config: &Config, listen: SocketAddr, monitor: SocketAddr, monitor_path: &str) -> String {
    let mut text = String::from("# Written by headrace at every start; changes are lost.\n");
    let mut line =
        |name: &str, value: String| writeln!(text, "{name}: {value}").expect("writing to memory cannot fail");
    line("server_name", quoted(&config.name));
    line("listen", quoted(&listen.to_string()));
    line("http", quoted(&monitor.to_string()));
    if !monitor_path.is_empty() {
        line("http_base_path", quoted(monitor_path));
    }
    line("max_payload", config.max_payload.to_string());
    let store_dir = quoted(&config.data_dir.to_string_lossy());
    // Always set this. With the server's default, a power cut can lose two minutes of confirmed messages.
    let sync_interval = match config.sync_interval {
        SyncInterval::Always => "always".to_owned(),
        SyncInterval::Every(time) => quoted(&format!("{}ms", time.as_millis())),
    };
    line("jetstream", format!("{{ store_dir: {store_dir}, sync_interval: {sync_interval} }}"));
    if let Some(cluster) = &config.cluster {
        let routes: Vec<String> = cluster.routes.iter().map(|route| quoted(&format!("nats://{route}"))).collect();
        let value = format!(
            "{{ name: {}, listen: {}, routes: [{}] }}",
            quoted(&cluster.name),
            quoted(&cluster.listen.to_string()),
            routes.join(", ")
        );
        line("cluster", value);
    }
    if !config.users.is_empty() {
        text.push_str(&authorization(&config.users));
    }
    text.push_str(&config.more);
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Cluster, Config, SyncInterval};
    use super::render;

    #[test]
    fn every_option_reaches_the_file() {
        let mut config = Config::new("nats-server", "/data/a \"b\"");
        config.sync_interval = SyncInterval::Always;
        let address = |port: u16| ([127, 0, 0, 1], port).into();
        config.cluster =
            Some(Cluster { name: "c".into(), listen: address(6222), routes: vec![address(6222), address(6223)] });
        config.more = "write_deadline: \"2s\"\n".into();
        assert_eq!(
            render(&config, address(4222), address(8222), ""),
            "# Written by headrace at every start; changes are lost.\n\
             server_name: \"headrace-local\"\n\
             listen: \"127.0.0.1:4222\"\n\
             http: \"127.0.0.1:8222\"\n\
             max_payload: 8388608\n\
             jetstream: { store_dir: \"/data/a \\\"b\\\"\", sync_interval: always }\n\
             cluster: { name: \"c\", listen: \"127.0.0.1:6222\", \
             routes: [\"nats://127.0.0.1:6222\", \"nats://127.0.0.1:6223\"] }\n\
             write_deadline: \"2s\"\n"
        );
    }

    #[test]
    fn how_often_it_syncs_is_always_said() {
        let mut config = Config::new("nats-server", "/data");
        let address = ([127, 0, 0, 1], 4222).into();
        assert!(render(&config, address, address, "").contains("sync_interval: \"1000ms\" }"));
        config.sync_interval = SyncInterval::Every(Duration::from_millis(1_500));
        assert!(render(&config, address, address, "").contains("sync_interval: \"1500ms\" }"));
    }
}
