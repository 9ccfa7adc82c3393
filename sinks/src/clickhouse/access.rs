//! Who we are to ClickHouse, and its address without credentials. The URL may contain a password, which must not get
//! into any message.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clickhouse::Client;
use headrace_runtime::certificate::client_trusting;
use headrace_runtime::secret::{Secret, redact_url};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::Config;

/// The user that ClickHouse assumes when none is given.
pub(super) const DEFAULT_USER: &str = "default";

const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// ClickHouse closes an idle connection after 3 s.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// How to reach the server.
pub struct Access {
    /// Its address, without credentials.
    pub url: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// The CAs to trust besides the system's.
    pub ca_path: Option<PathBuf>,
}

impl Config {
    /// The address and credentials from the URL and the settings beside it.
    #[must_use]
    pub fn access(&self) -> Access {
        let ca_path = self.ca_path.clone();
        let Some(mut url) = self.url_with_user() else {
            return Access { url: self.url.clone(), user: self.user.clone(), password: self.password.clone(), ca_path };
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = if url.username().is_empty() { DEFAULT_USER.to_owned() } else { decoded(url.username()) };
        let password = Secret::new(url.password().map(decoded).unwrap_or_default());
        // Neither can fail for a URL with a host, and one that has a user has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Access { url: url.into(), user, password, ca_path }
    }

    /// The server, so that most spellings of its address are one: without user, scheme and usual port, and every name of
    /// this machine as `localhost`.
    pub(super) fn server(&self) -> String {
        let Some(url) = Url::parse(&self.url).ok() else { return self.url.clone() };
        let host = match url.host_str().unwrap_or_default().trim_end_matches('.') {
            host if host == "localhost" || host == "[::1]" || is_loopback(host) => "localhost",
            host => host,
        };
        let port = url.port_or_known_default().unwrap_or_default();
        format!("{host}:{port}{}", url.path().trim_end_matches('/'))
    }

    /// Whether the URL and the settings beside it both say who we are.
    pub(super) fn names_user_twice(&self) -> bool {
        self.url_with_user().is_some() && (self.user != DEFAULT_USER || !self.password.is_empty())
    }

    fn url_with_user(&self) -> Option<Url> {
        let url = Url::parse(&self.url).ok()?;
        (!url.username().is_empty() || url.password().is_some()).then_some(url)
    }
}

/// A client that knows no address yet and trusts `ca_path` besides the system's CAs.
pub(super) fn unnamed_client(ca_path: Option<&Path>) -> Client {
    let Some(path) = ca_path else { return Client::default() };
    let tls = match client_trusting(path) {
        Ok(tls) => tls,
        Err(error) => {
            // It could be used when the settings were checked.
            let problem = format!("{error:#}");
            tracing::error!(problem, "this file of CAs cannot be used any more; only the system's are trusted");
            return Client::default();
        }
    };
    // All else is as the client library has it for its own connections.
    let mut connector = HttpConnector::new();
    connector.set_keepalive(Some(TCP_KEEPALIVE));
    connector.enforce_http(false);
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
    let http = HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(POOL_IDLE_TIMEOUT).build(connector);
    Client::with_http_client(http)
}

fn is_loopback(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Prints every field, but no password in the URL.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            database,
            user,
            password,
            ca_path,
            compress,
            migrate,
            batch_events_max,
            batch_bytes_max,
            linger_ms,
            insert_timeout_s,
            clock_skew_ms,
        } = self;
        f.debug_struct("Config")
            .field("url", &redact_url(url))
            .field("database", database)
            .field("user", user)
            .field("password", password)
            .field("ca_path", ca_path)
            .field("compress", compress)
            .field("migrate", migrate)
            .field("batch_events_max", batch_events_max)
            .field("batch_bytes_max", batch_bytes_max)
            .field("linger_ms", linger_ms)
            .field("insert_timeout_s", insert_timeout_s)
            .field("clock_skew_ms", clock_skew_ms)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        Config { url: url.to_owned(), ..Config::default() }
    }

    #[test]
    fn the_user_is_taken_out_of_the_url() {
        for (url, expected) in [
            ("http://host:8123", ("http://host:8123", "default", "")),
            ("http://reader:p%40ss%2F%2B+1@host:8123", ("http://host:8123/", "reader", "p@ss/++1")),
            ("https://reader@host/below?x=1", ("https://host/below?x=1", "reader", "")),
            ("http://:pass@host:8123/", ("http://host:8123/", "default", "pass")),
        ] {
            let Access { url: found, user, password, .. } = config(url).access();
            assert_eq!((found.as_str(), user.as_str(), password.expose()), expected, "{url}");
        }
        let beside = Config { user: "writer".to_owned(), password: Secret::new("pass"), ..config("http://host") };
        let Access { url, user, password, .. } = beside.access();
        assert_eq!((url.as_str(), user.as_str(), password.expose()), ("http://host", "writer", "pass"));
    }

    #[test]
    fn a_user_in_both_places_is_refused_and_no_password_is_printed() {
        let user = |config: Config| Config { user: "writer".to_owned(), ..config };
        let password = |config: Config| Config { password: Secret::new("other"), ..config };
        for (config, refused) in [
            (config("http://u:hidden@host"), false),
            (user(config("http://host")), false),
            (user(config("http://u:hidden@host")), true),
            (password(config("http://u@host")), true),
            (config("ftp://u:hidden@host"), true),
        ] {
            let problems = config.validate("sinks.clickhouse");
            assert_eq!(!problems.is_empty(), refused, "{problems:?}");
            assert!(problems.iter().all(|problem| problem.path == "sinks.clickhouse.url"), "{problems:?}");
            let printed = format!("{problems:?} {config:?}");
            assert!(!printed.contains("hidden") && !printed.contains("other"), "{printed}");
        }
    }
}
