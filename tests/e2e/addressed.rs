//! A password and a signed body go to the address that was named: no redirect and no proxy takes them elsewhere.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use headrace_tests::product::process::{command, complained};
use tempfile::TempDir;

use super::PROGRAM;

/// A server that answers each request with a redirect to `to`. Returns its address.
fn redirecting(to: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut request = vec![0; 64 << 10];
            let _ = connection.read(&mut request);
            let answer = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    address
}

#[tokio::test]
async fn nothing_follows_a_redirect_or_takes_a_proxy_on_this_machine() {
    let dir = TempDir::new().unwrap();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let other = format!("http://{}", elsewhere.local_addr().unwrap());
    let named = redirecting(other.clone());

    let config = dir.path().join("headrace.toml");
    let settings = format!("sinks.clickhouse = {{ url = '{named}', user = 'default', password = 'open sesame' }}\n");
    std::fs::write(&config, settings).unwrap();
    let body = dir.path().join("ping.json");
    std::fs::write(&body, r#"{"zen":"Design for failure."}"#).unwrap();
    let (config, body) = (config.to_str().unwrap(), body.to_str().unwrap());

    let proxy = format!("http_proxy={other}");
    for arguments in [
        vec!["query", "SELECT 1", "--config", config],
        vec!["send", body, "--event", "ping", "--url", &named, "--secret", "s"],
    ] {
        let environment = [proxy.as_str(), PROGRAM].into_iter().chain(arguments.iter().copied());
        let done = command("/usr/bin/env", environment).await;
        let stderr = complained(&done);
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("307"), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("open sesame"), "{stderr}");
        let asked = elsewhere.accept().map(|(_, from)| from);
        assert!(asked.is_err(), "{arguments:?} went to an address that nobody named");
    }
}
