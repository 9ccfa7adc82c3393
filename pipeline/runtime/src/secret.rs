//! A secret of the configuration: it can be used, but not printed.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// A token, password or key. It has no `Display`, its `Debug` reveals nothing, and its memory is wiped when it is
/// dropped: all this is [`SecretString`]'s work. Nor can it be compared, because `==` tells a stranger by its time how
/// much is right. This type adds what a configuration needs: a `Serialize` that writes an empty text, for the
/// reference, and a schema.
///
/// The schema carries `x-secret`, which tells the configuration loader to offer the `_file` variant and to keep the
/// value out of messages.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The secret itself. Each use is a place to look at in a review.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }
}

/// `url` for a message, where it may be several URLs separated by commas: each password is `***`. Text before an `@`
/// without a user name is hidden too, because NATS takes it for a token. In doubt this hides more.
#[must_use]
pub fn redact_url(url: &str) -> String {
    // Split at the schemes and not at the commas, because passwords may hold commas.
    let parts: Vec<Cow<'_, str>> = url.split("://").map(redact_part).collect();
    parts.join("://")
}

/// Redacts what follows a scheme, up to the next one.
fn redact_part(part: &str) -> Cow<'_, str> {
    // Split at the last `@`: a password that was not escaped may hold others.
    let (credentials, rest) =
        part.rsplit_once('@').map_or((None, part), |(credentials, rest)| (Some(credentials), rest));
    let rest = match rest.split_once('?') {
        Some((address, query)) if names_password(query) => Cow::Owned(format!("{address}?***")),
        _ => Cow::Borrowed(rest),
    };
    let Some(credentials) = credentials else { return rest };
    match credentials.split_once(':') {
        Some((user, _)) if !user.contains(['/', '?']) => Cow::Owned(format!("{user}:***@{rest}")),
        _ => Cow::Owned(format!("***@{rest}")),
    }
}

fn names_password(query: &str) -> bool {
    query.to_ascii_lowercase().contains("password")
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
    use super::*;

    #[test]
    fn no_password_of_a_url_is_left() {
        for (url, expected) in [
            ("", ""),
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("https://user:pass@host:8443/path", "https://user:***@host:8443/path"),
            ("nats://:pass@host", "nats://:***@host"),
            ("nats://token@host:4222", "nats://***@host:4222"),
            ("user:pass@host:4222", "user:***@host:4222"),
            ("nats://a:pass@one:4222,tls://b:pass@two:4222", "nats://a:***@one:4222,tls://b:***@two:4222"),
            ("nats://a:pass@one:4222,two:4222", "nats://a:***@one:4222,two:4222"),
            ("http://a:pa,s@s/pass@host", "http://a:***@host"),
            ("http://a:pass@host/?user=b&password=pass", "http://a:***@host/?***"),
            ("http://host:8123/?user=b&password=pass@", "http://host:***@"),
            ("http://a:pass@host/?user=b&password=pass@", "http://a:***@"),
            ("nats://u:my?password1@host:4222", "nats://u:***@host:4222"),
            ("nats://pass/token@host:4222", "nats://***@host:4222"),
            ("nats://u:my?pass@host/?password=x", "nats://u:***@host/?***"),
        ] {
            assert_eq!(redact_url(url), expected);
            assert!(!redact_url(url).contains("pass@"), "{url}");
        }
    }
}
