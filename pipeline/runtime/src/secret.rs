//! A secret of the configuration: it can be used, but not printed.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

/// A token, password or key. It has no `Display`; its `Debug` and `Serialize` (which the reference of the
/// configuration needs) give nothing of it away.
///
/// Its schema carries `x-secret`, by which the configuration loader offers the `_file` variant and
/// keeps the value out of messages.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The secret itself. Each use is a place to look at in a review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `url` with `***` in place of what stands before an `@` in it: a user, a password, a token. It may be a list of
/// addresses, separated by commas. Too much is hidden rather than too little.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let mut shown = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(scheme_end) = rest.find("://").map(|at| at + 3) {
        shown.push_str(&rest[..scheme_end]);
        rest = &rest[scheme_end..];
        // A password may have commas in it: an address ends where the next one's scheme begins.
        let next = rest.find("://").and_then(|scheme| rest[..scheme].rfind(','));
        let (own, others) = rest.split_at(next.unwrap_or(rest.len()));
        push_redacted(&mut shown, own);
        rest = others;
    }
    push_redacted(&mut shown, rest);
    shown
}

fn push_redacted(shown: &mut String, address: &str) {
    match address.rsplit_once('@') {
        Some((_, host)) => {
            shown.push_str("***@");
            shown.push_str(host);
        }
        None => shown.push_str(address),
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("")
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-secret": true })
    }
}

#[cfg(test)]
mod tests {
    use super::redact_url;

    #[test]
    fn an_address_is_shown_without_who_connects() {
        for (url, shown) in [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("nats://admin:p4ss@127.0.0.1:4222", "nats://***@127.0.0.1:4222"),
            ("tls://t0ken@a, nats://u:p@b:1,nats://c", "tls://***@a, nats://***@b:1,nats://c"),
            ("nats://u:p@ss,w/rd@a,b", "nats://***@a,b"),
            ("u:p@host", "***@host"),
            ("http://u:p@host:1/path?query", "http://***@host:1/path?query"),
            ("", ""),
        ] {
            assert_eq!(redact_url(url), shown);
        }
    }
}
