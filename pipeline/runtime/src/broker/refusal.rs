//! What a person must do when there is no connection to NATS. It never shows a password, a token or a seed.

use async_nats::{ConnectError, ConnectErrorKind};

use crate::certificate::Untrusted;
use crate::config::Nats;

/// `error` with the server, the user and what to do. `shown` is the address without its password.
pub(super) fn explained(error: ConnectError, nats: &Nats, shown: &str) -> anyhow::Error {
    let kind = error.kind();
    let error = anyhow::Error::new(error);
    let user = nats.user.as_ref().map(|user| format!(" as the user `{user}`")).unwrap_or_default();
    let advice = match (Untrusted::of(&error), kind) {
        (Some(untrusted), _) => untrusted.advice("`nats.ca_path`", "`nats.url`"),
        (None, ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication) => refused_login(nats),
        (None, _) => "is it running, and is `nats.url` right?".to_owned(),
    };
    error.context(format!("cannot connect to NATS at {shown}{user}; {advice}"))
}

fn refused_login(nats: &Nats) -> String {
    if !nats.token.is_empty() {
        return "it refuses the token; set `nats.token` to the server's".to_owned();
    }
    match (&nats.user, &nats.users_dir, &nats.credentials_path) {
        (Some(_), Some(dir), _) => {
            format!("it does not know the user, or refuses the password; check the user's file in {}", dir.display())
        }
        (Some(_), None, _) => {
            "it does not know the user, or refuses the password; check `nats.user` and `nats.password`".to_owned()
        }
        (None, _, Some(path)) => format!(
            "it refuses the credentials in {}; make new ones if they have expired, or if the server trusts another \
             operator",
            path.display()
        ),
        (None, _, None) => "it lets in only whoever it knows; set `nats.user` and `nats.password`, `nats.token`, \
                            `nats.credentials_path` or `nats.users_dir`"
            .to_owned(),
    }
}
