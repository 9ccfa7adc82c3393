//! Why a server's certificate was refused and what to do about it, and the file of CAs to trust.
//!
//! All connections check certificates with rustls. Each client library wraps its error differently, so this looks
//! through all causes. It must not decide anything by the text of an error.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use async_nats::rustls::crypto::aws_lc_rs;
use async_nats::rustls::pki_types::CertificateDer;
use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::{CertificateError, ClientConfig, Error as TlsError, InvalidMessage, RootCertStore};

/// Why we do not trust a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// It comes from a certificate authority (CA) that we do not trust.
    Issuer,
    /// It is for another host than the one in the address.
    Host,
    /// It has expired, or is not valid yet.
    Time,
    /// Anything else, such as a CA's own certificate in the place of a server's.
    Other,
    /// It shows none, because it does not speak TLS there.
    Plain,
}

impl Untrusted {
    /// Why we do not trust the server's certificate, if `error` comes from that.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Option<Self> {
        let problem = match error.chain().find_map(tls_error)? {
            TlsError::InvalidCertificate(problem) => problem,
            // The first byte of a plain answer is that of no TLS message.
            TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => return Some(Self::Plain),
            _ => return None,
        };
        Some(match problem {
            // A CA of the same name, but with another key, gives a bad signature.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Issuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Host,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::Time,
            _ => Self::Other,
        })
    }

    /// What to do. `ca` names the setting with the CAs that we trust, `url` the one with the address.
    #[must_use]
    pub fn advice(self, ca: &str, url: &str) -> String {
        match self {
            Self::Issuer => format!(
                "its certificate comes from a CA that is not trusted here; set {ca} to a file with that CA's \
                 certificate (PEM)"
            ),
            Self::Host => format!(
                "its certificate is for another host; write the host in {url} as the certificate has it, or give the \
                 server a certificate for this host"
            ),
            Self::Time => {
                "its certificate has expired or is not valid yet; renew it, or set the clock right".to_owned()
            }
            Self::Other => "its certificate cannot be used; give the server another one".to_owned(),
            Self::Plain => format!(
                "it answers, but not with TLS; write {url} without TLS (`nats://`, `http://`), or turn TLS on at the server"
            ),
        }
    }
}

/// The error of rustls in `cause`. An [`io::Error`] leaves out its own content when it names its cause, so look inside.
fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a TlsError> {
    if let Some(error) = cause.downcast_ref::<TlsError>() {
        return Some(error);
    }
    tls_error(cause.downcast_ref::<io::Error>()?.get_ref()?)
}

/// The content of a file of CA certificates (PEM).
///
/// # Errors
/// When the file cannot be read, or has no certificate in it.
pub fn read_ca_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let pem = std::fs::read(path).with_context(|| format!("cannot read the CA certificate {}", path.display()))?;
    let certificates: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.with_context(|| format!("{} is no PEM file with certificates", path.display()))?;
    anyhow::ensure!(
        !certificates.is_empty(),
        "expected a PEM file with CA certificates, found none in {}",
        path.display()
    );
    Ok(pem)
}

/// The settings of a client that trusts the CAs in the file at `path` (PEM) besides the system's.
///
/// # Errors
/// When the file cannot be used.
pub fn client_trusting(path: &Path) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    // A system without CAs, or with some that cannot be read, is no reason not to trust these.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in CertificateDer::pem_slice_iter(&read_ca_file(path)?) {
        let unusable = || format!("{} has a certificate that is no CA's", path.display());
        roots.add(certificate.with_context(unusable)?).with_context(unusable)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().context("cannot set up TLS")?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_refused_certificate_is_found_however_deep_it_lies() {
        let refused = |problem| io::Error::new(ErrorKind::InvalidData, TlsError::InvalidCertificate(problem));
        for (problem, expected) in [
            (CertificateError::UnknownIssuer, Untrusted::Issuer),
            (CertificateError::BadSignature, Untrusted::Issuer),
            (CertificateError::NotValidForName, Untrusted::Host),
            (CertificateError::Expired, Untrusted::Time),
            (CertificateError::NotValidYet, Untrusted::Time),
            (CertificateError::Revoked, Untrusted::Other),
        ] {
            let twice = io::Error::other(refused(problem.clone()));
            for error in [anyhow::Error::new(refused(problem)), anyhow::Error::new(twice).context("cannot connect")] {
                assert_eq!(Untrusted::of(&error), Some(expected), "{error:#}");
            }
        }
        let plain = io::Error::new(ErrorKind::InvalidData, TlsError::from(InvalidMessage::InvalidContentType));
        assert_eq!(Untrusted::of(&anyhow::Error::new(plain)), Some(Untrusted::Plain));
        for other in [io::Error::from(ErrorKind::ConnectionRefused), io::Error::other(TlsError::DecryptError)] {
            assert_eq!(Untrusted::of(&anyhow::Error::new(other)), None);
        }
    }
}
