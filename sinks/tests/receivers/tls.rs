//! Receivers over HTTPS, with certificates of a CA that no machine trusts by itself.

use std::path::PathBuf;

use headrace_runtime::component::sink::Sink as _;
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_sinks::{jira, splunk};
use headrace_tests::harness::certificates::Authority;
use headrace_tests::harness::tls_proxy::TlsProxy;
use headrace_tests::standin::jira::Jira;
use headrace_tests::standin::splunk::Splunk;
use tempfile::TempDir;

#[tokio::test]
async fn splunk_is_trusted_once_its_ca_is_named() {
    let splunk = Splunk::start().await;
    let check = async |url: String, ca_path: Option<PathBuf>| {
        let config = splunk::Config { url, ca_path, timeout_ms: 10_000, ..super::splunk::config(&splunk) };
        config.build().unwrap().check().await
    };
    only_a_named_ca_is_trusted(&splunk.url(), check, || splunk.recorded().len()).await;
}

#[tokio::test]
async fn jira_is_trusted_once_its_ca_is_named() {
    let jira = Jira::start().await;
    let check = async |url: String, ca_path: Option<PathBuf>| {
        let config = jira::Config { url, ca_path, timeout_ms: 10_000, ..super::jira::config(&jira) };
        config.build().unwrap().check().await
    };
    only_a_named_ca_is_trusted(&jira.url(), check, || jira.recorded().len()).await;
}

/// `check` reaches the receiver at `url` through TLS when it trusts its CA, and else sends it nothing.
/// `requests` counts what the receiver got.
async fn only_a_named_ca_is_trusted(
    url: &str,
    check: impl AsyncFn(String, Option<PathBuf>) -> Result<(), Fault>,
    requests: impl Fn() -> usize,
) {
    let dir = TempDir::new().unwrap();
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let (own_path, other_path) = (own.write(dir.path(), "own.pem"), other.write(dir.path(), "other.pem"));
    let good = TlsProxy::start(url, &own.issue("127.0.0.1")).await;
    let misnamed = TlsProxy::start(url, &own.issue("receiver.example.com")).await;
    let expired = TlsProxy::start(url, &own.issue_expired("127.0.0.1")).await;

    let unknown = "a CA that is not trusted here; set `ca_path` to a file with that CA's certificate";
    for (proxy, ca_path, told) in [
        (&good, None, unknown),
        (&good, Some(&other_path), unknown),
        (&misnamed, Some(&own_path), "its certificate is for another host; write the host in `url` as"),
        (&expired, Some(&own_path), "its certificate has expired or is not valid yet; renew it"),
    ] {
        let fault = check(proxy.url(), ca_path.cloned()).await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Broken, "{fault}");
        let fault = fault.to_string();
        assert!(fault.starts_with("the receiver is not trusted: ") && fault.contains(told), "{fault}");
    }
    assert_eq!(requests(), 0, "no request and no token goes to whom we do not trust");
    check(good.url(), Some(own_path)).await.unwrap();
    assert!(requests() > 0);
}
