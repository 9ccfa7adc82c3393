//! Takes an address of NATS apart. The client library reads no user or password from it, although NATS' own tools do.

use crate::secret::Secret;

/// Where the servers are, and how to log in when the address says so.
pub(crate) struct Address {
    pub(crate) servers: Vec<String>,
    pub(crate) login: Option<Login>,
}

/// What an address says before its `@`.
pub(crate) enum Login {
    Password { user: String, password: Secret },
    Token(Secret),
}

impl Address {
    /// Takes `url` apart: addresses separated by commas. The first login in them counts for all.
    pub(crate) fn of(url: &str) -> Self {
        let (mut servers, mut login) = (Vec::new(), None);
        for part in url.split(',').map(str::trim) {
            let (scheme, rest) = part.split_once("://").map_or(("", part), |(scheme, rest)| (scheme, rest));
            let (own, host) = rest.rsplit_once('@').map_or((None, rest), |(own, host)| (Some(own), host));
            login = login.or_else(|| own.map(Login::of));
            servers.push(if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") });
        }
        Self { servers, login }
    }
}

impl Login {
    fn of(text: &str) -> Self {
        match text.split_once(':') {
            Some((user, password)) => Self::Password { user: decoded(user), password: Secret::new(decoded(password)) },
            None => Self::Token(Secret::new(decoded(text))),
        }
    }
}

/// `text` with `%40` and the like decoded (RFC 3986, section 2.1); anything else stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let digits = others.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(login: &Login) -> (Option<&str>, &str) {
        match login {
            Login::Password { user, password } => (Some(user.as_str()), password.expose()),
            Login::Token(token) => (None, token.expose()),
        }
    }

    #[test]
    fn a_login_is_taken_out_of_an_address() {
        for (url, servers, login) in [
            ("nats://a:4222", &["nats://a:4222"][..], None),
            ("nats://u:p@a:4222", &["nats://a:4222"], Some((Some("u"), "p"))),
            ("nats://a, tls://u:p%40%2c%@b", &["nats://a", "tls://b"], Some((Some("u"), "p@,%"))),
            ("nats://t0ken@a", &["nats://a"], Some((None, "t0ken"))),
            ("u:p@a", &["a"], Some((Some("u"), "p"))),
        ] {
            let address = Address::of(url);
            assert_eq!(address.servers, servers, "{url}");
            assert_eq!(address.login.as_ref().map(exposed), login, "{url}");
        }
    }
}
