//! A server of HTTPS in front of one that speaks HTTP: it ends TLS and passes the bytes on.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificates::Identity;
use super::servers;

/// The running proxy. Dropping this ends it and its connections.
pub struct TlsProxy {
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl TlsProxy {
    /// Starts a proxy to the server at `url`, such as `http://127.0.0.1:8123`, on a free port of 127.0.0.1. It shows
    /// the certificate of `identity`.
    ///
    /// # Panics
    /// When `url` is no such URL.
    pub async fn start(url: &str, identity: &Identity) -> Self {
        let upstream = url.strip_prefix("http://").and_then(|address| address.trim_end_matches('/').parse().ok());
        let upstream: SocketAddr = upstream.expect("a URL with an address and a port");
        let acceptor = TlsAcceptor::from(Arc::new(config(identity)));
        let address = servers::free_address().expect("loopback has free ports");
        let listener = TcpListener::bind(address).await.expect("it was free a moment ago");
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            // The connections are in a set of their own, so they end with the proxy.
            let mut connections = JoinSet::new();
            while let Ok((outside, _)) = listener.accept().await {
                connections.spawn(pass(acceptor.clone(), outside, upstream));
            }
        });
        Self { address, _accepting: accepting }
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

async fn pass(acceptor: TlsAcceptor, outside: TcpStream, upstream: SocketAddr) {
    // A client that does not trust us hangs up here.
    let Ok(mut outside) = acceptor.accept(outside).await else { return };
    let Ok(mut inside) = TcpStream::connect(upstream).await else { return };
    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
}

fn config(identity: &Identity) -> ServerConfig {
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("it was just made");
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("it was just made");
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    config.expect("the key is that of the certificate")
}
