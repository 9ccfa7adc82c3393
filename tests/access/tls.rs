//! NATS with TLS and a certificate of a CA that no machine trusts by itself.

use std::path::Path;

use headrace_runtime::broker::Broker;
use headrace_runtime::config::Nats;
use headrace_runtime::secret::Secret;
use headrace_tests::harness::certificates::Authority;
use headrace_tests::harness::{configured, streams};
use headrace_tests::product::process::{command, complained, said};
use tempfile::TempDir;

use super::PROGRAM;

/// Connects as the product does; all of the refusal is the error.
pub(super) async fn connect(nats: &Nats) -> Result<(), String> {
    let connected = Broker::connect(nats, &streams(), "test").await;
    let broker = connected.map_err(|error| format!("{error:#}"))?;
    broker.jetstream_answers().await.map_err(|error| format!("{error:#}"))
}

#[tokio::test]
async fn a_private_ca_is_trusted_once_it_is_named() {
    let dir = TempDir::new().unwrap();
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let (own_path, other_path) = (own.write(dir.path(), "own.pem"), other.write(dir.path(), "other.pem"));
    let block = own.issue("127.0.0.1").nats_block(dir.path());
    let server = configured(&dir.path().join("nats"), &block).await;
    let trusting = |path: &Path| Nats { url: server.url(), ca_path: Some(path.to_owned()), ..Nats::default() };

    connect(&trusting(&own_path)).await.unwrap();
    let tls = server.url().replace("nats://", "tls://");
    connect(&Nats { url: tls, ..trusting(&own_path) }).await.unwrap();

    let unnamed = Nats { ca_path: None, ..trusting(&own_path) };
    for nats in [trusting(&other_path), unnamed] {
        let refused = connect(&nats).await.unwrap_err();
        let told = format!(
            "cannot connect to NATS at {}; its certificate comes from a CA that is not trusted here; set \
             `nats.ca_path` to a file with that CA's certificate (PEM)",
            server.url()
        );
        assert!(refused.starts_with(&told), "{refused}");
    }
    // A file that is not there, and the server's key instead of a certificate.
    for (name, told) in
        [("absent.pem", "cannot read the CA certificate "), ("server-key.pem", "CA certificates, found none")]
    {
        let path = dir.path().join(name);
        let refused = connect(&trusting(&path)).await.unwrap_err();
        assert!(refused.contains(told) && refused.contains(path.to_str().unwrap()), "{refused}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_host_or_time_is_refused() {
    let dir = TempDir::new().unwrap();
    let own = Authority::new("own");
    let path = own.write(dir.path(), "own.pem");
    for (name, identity, told) in [
        ("host", own.issue("nats.example.com"), "its certificate is for another host; write the host in `nats.url` as"),
        ("time", own.issue_expired("127.0.0.1"), "its certificate has expired or is not valid yet; renew it"),
    ] {
        let data = dir.path().join(name);
        let server = configured(&data, &identity.nats_block(dir.path())).await;
        let nats = Nats { url: server.url(), ca_path: Some(path.clone()), ..Nats::default() };
        let refused = connect(&nats).await.unwrap_err();
        assert!(refused.contains(told), "{refused}");
        server.stop().await;
    }
}

#[tokio::test]
async fn an_address_with_tls_takes_no_connection_without_it() {
    let dir = TempDir::new().unwrap();
    let server = configured(dir.path(), "authorization: { token: \"a token\" }\n").await;
    let plain = Nats { url: server.url(), token: Secret::new("a token"), ..Nats::default() };
    connect(&plain).await.unwrap();
    let url = server.url().replace("nats://", "tls://");
    let refused = connect(&Nats { url: url.clone(), ..plain }).await.unwrap_err();
    let told = "it answers, but not with TLS; write `nats.url` without TLS";
    assert!(refused.starts_with(&format!("cannot connect to NATS at {url}; {told}")), "{refused}");
    // It is not away, so waiting does not help.
    let config = dir.path().join("headrace.toml");
    let text = format!("nats.url = '{url}'\nsinks.clickhouse.url = 'http://127.0.0.1:1'\n");
    std::fs::write(&config, text).unwrap();
    let output = command(PROGRAM, ["check", "--role", "pipeline", "--config", config.to_str().unwrap()]).await;
    let (told_at, code) = (said(&output), output.status.code());
    assert!(code == Some(1) && told_at.contains(told), "{code:?} {told_at}{}", complained(&output));
    server.stop().await;
}
