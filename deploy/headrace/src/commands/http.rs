//! The HTTP client of commands: what it sends goes to the address that was named, and nowhere else.

use std::net::IpAddr;

use anyhow::Context as _;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};

/// A client for `address`. `more` sets its limits of time.
pub(crate) fn client(address: &Url, more: impl FnOnce(ClientBuilder) -> ClientBuilder) -> anyhow::Result<Client> {
    // A redirect would take the password, or the signed body, to a server that nobody named.
    let mut builder = more(Client::builder()).redirect(Policy::none());
    if is_this_machine(address) {
        // A proxy of the environment cannot reach this machine's loopback, and must not see what goes there.
        builder = builder.no_proxy();
    }
    builder.build().context("cannot set up an HTTP client")
}

fn is_this_machine(address: &Url) -> bool {
    let host = address.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine() {
        for (address, expected) in [
            ("http://127.0.0.1:8123", true),
            ("http://127.1.2.3", true),
            ("http://[::1]:8080/webhooks", true),
            ("http://localhost", true),
            ("https://clickhouse.example:8443", false),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(is_this_machine(&Url::parse(address).unwrap()), expected, "{address}");
        }
    }
}
