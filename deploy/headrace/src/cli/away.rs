//! Decides whether a failure means that a server is away. Then the same command may work later, and no setting is
//! wrong.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

use async_nats::{ConnectError, ConnectErrorKind};
use headrace_runtime::certificate::Untrusted;

use crate::installation::running::NotRunning;

/// The system's errors for a machine or a port that does not answer.
const UNANSWERED: [ErrorKind; 6] = [
    ErrorKind::ConnectionRefused,
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
    ErrorKind::HostUnreachable,
    ErrorKind::NetworkUnreachable,
    ErrorKind::TimedOut,
];

/// The error of a command that asked several servers and found one away.
#[derive(Debug)]
pub(crate) struct Away(String);

impl Away {
    /// Makes the error.
    pub(crate) fn error(message: impl Into<String>) -> anyhow::Error {
        Self(message.into()).into()
    }
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Away {}

/// Whether `error` comes from a server that does not answer. A refusal is an answer, also when we refuse the server's
/// certificate.
pub(crate) fn is_away(error: &anyhow::Error) -> bool {
    error.is::<NotRunning>() || (Untrusted::of(error).is_none() && error.chain().any(is_unanswered))
}

fn is_unanswered(cause: &(dyn Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<ConnectError>() {
        let kind = error.kind();
        return matches!(
            kind,
            ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects
        );
    }
    if let Some(error) = cause.downcast_ref::<reqwest::Error>() {
        return error.is_connect() || error.is_timeout();
    }
    // The client of GitHub's API is this one without reqwest around it.
    if let Some(error) = cause.downcast_ref::<hyper_util::client::legacy::Error>() {
        return error.is_connect();
    }
    cause.downcast_ref::<io::Error>().is_some_and(|error| UNANSWERED.contains(&error.kind()))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use async_nats::rustls::{CertificateError, Error as TlsError};

    use super::*;

    #[test]
    fn a_server_that_refuses_us_is_not_away() {
        let told = |error: anyhow::Error| is_away(&Err::<(), _>(error).context("cannot ask").unwrap_err());
        assert!(told(io::Error::from(ErrorKind::ConnectionRefused).into()));
        assert!(told(ConnectError::new(ConnectErrorKind::TimedOut).into()));
        assert!(!told(ConnectError::new(ConnectErrorKind::AuthorizationViolation).into()));
        let untrusted = TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(!told(ConnectError::from(io::Error::new(ErrorKind::InvalidData, untrusted)).into()));
        assert!(!told(io::Error::from(ErrorKind::AddrInUse).into()));
        assert!(!told(io::Error::from(ErrorKind::PermissionDenied).into()));
        assert!(!told(anyhow::anyhow!("connection refused")));
    }
}
