//! Keeps web pages out. A browser on this machine sends whatever any page tells it to send. But it also names the page
//! and the host name that it used, and a page cannot change either. Other programs name no page and need only a
//! password.

use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;
use hyper::header::{HOST, ORIGIN};
use hyper::http::request::Parts;

use super::failure::Failure;

/// The host names under which clients may call this server.
#[derive(Debug)]
pub(super) struct AllowedHosts {
    /// Names besides this machine's own, as `host` or `host:port`.
    pub(super) configured: Vec<String>,
}

impl AllowedHosts {
    /// Refuses a request that a foreign page made. `local` is the address that the client connected to.
    pub(super) fn check(&self, head: &Parts, local: SocketAddr) -> Result<(), Failure> {
        let header = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let host = header(HOST.as_str()).or(head.uri.authority().map(|authority| authority.as_str()));
        let host = host.ok_or_else(|| refused("expected a Host header, found none; name this server in it"))?;
        if !self.is_ours(host, local) {
            return Err(refused(&format!(
                "expected this machine or a configured name in the Host header, found {host}; \
                 call the server by its address, or start it with --host"
            )));
        }
        if let Some(origin) = header(ORIGIN.as_str()) {
            let own = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
            if !own.is_some_and(|own| own.eq_ignore_ascii_case(host)) {
                return Err(refused(&format!("a web page of {origin} may not use this server; only programs may")));
            }
        }
        match header("sec-fetch-site") {
            None | Some("same-origin" | "none") => Ok(()),
            Some(site) => Err(refused(&format!("a {site} web page may not use this server; only programs may"))),
        }
    }

    /// Any port passes, because behind a tunnel or a proxy the port differs from ours. This is safe: a foreign page
    /// cannot choose the host name, whatever port it uses.
    fn is_ours(&self, host: &str, local: SocketAddr) -> bool {
        let name = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(name, _)| name);
        if self.configured.iter().any(|own| own.eq_ignore_ascii_case(host) || own.eq_ignore_ascii_case(name)) {
            return true;
        }
        match name.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => address.is_loopback() || address.to_canonical() == local.ip().to_canonical(),
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

fn refused(message: &str) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, 497, "ACCESS_DENIED", message)
}

#[cfg(test)]
mod tests {
    use super::AllowedHosts;

    #[test]
    fn only_our_own_names_and_pages_pass() {
        let names = AllowedHosts { configured: vec!["clickhouse.internal".into()] };
        let local = "127.0.0.1:8123".parse().unwrap();
        for (headers, passes) in [
            (&[("Host", "127.0.0.1:8123")][..], true),
            (&[("Host", "localhost:8123")], true),
            (&[("Host", "[::1]:8123")], true),
            (&[("Host", "clickhouse.internal")], true),
            (&[("Host", "clickhouse.internal:80")], true),
            (&[("Host", "localhost:8123"), ("Origin", "http://localhost:8123")], true),
            (&[("Host", "localhost:8123"), ("Sec-Fetch-Site", "none")], true),
            (&[], false),
            (&[("Host", "localhost")], true),
            (&[("Host", "localhost:9000")], true),
            (&[("Host", "localhost.example:8123")], false),
            (&[("Host", "10.1.2.3:8123")], false),
            (&[("Host", "rebound.example:8123")], false),
            (&[("Host", "localhost:8123"), ("Origin", "http://localhost:3000")], false),
            (&[("Host", "localhost:8123"), ("Origin", "http://evil.example")], false),
            (&[("Host", "localhost:8123"), ("Origin", "null")], false),
            (&[("Host", "localhost:8123"), ("Sec-Fetch-Site", "cross-site")], false),
            (&[("Host", "localhost:8123"), ("Sec-Fetch-Site", "same-site")], false),
        ] {
            let mut builder = hyper::Request::get("/");
            for (name, value) in headers {
                builder = builder.header(*name, *value);
            }
            let head = builder.body(()).unwrap().into_parts().0;
            assert_eq!(names.check(&head, local).is_ok(), passes, "{headers:?}");
        }
    }
}
