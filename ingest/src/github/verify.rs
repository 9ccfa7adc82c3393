//! Signatures: HMAC-SHA256 over the raw bytes, compared in constant time.

use std::sync::Arc;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::envelope::Envelope;
use crate::config::GitHub;
use crate::reply::Refusal;

/// A body of this many bytes takes about half a millisecond: a longer one leaves the reactor.
const INLINE_MAX_BYTES: usize = 512 << 10;

/// Which deliveries a secret is valid for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    /// Any that has no secret of its own.
    Any,
    /// Those of an organization, by lower-case login.
    Organization(String),
    /// Those of a hook.
    Hook(u64),
}

struct Key {
    /// The keyed state; cloning it saves hashing the key for every request.
    mac: Hmac<Sha256>,
    scope: Scope,
}

/// All configured secrets.
#[derive(Clone)]
pub struct Keys(Arc<[Key]>);

/// The secret that a signature was made with, by its place in [`Keys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyIndex(usize);

/// The HMAC in a value of `X-Hub-Signature-256`: `sha256=` and 64 hex digits.
#[must_use]
pub fn parse_signature(value: &str) -> Option<[u8; 32]> {
    let mut signature = [0; 32];
    hex::decode_to_slice(value.strip_prefix("sha256=")?, &mut signature).ok()?;
    Some(signature)
}

impl Keys {
    /// The secrets of `config`.
    #[must_use]
    pub fn new(config: &GitHub) -> Self {
        let any = config.secrets.iter().map(|secret| (secret, Scope::Any));
        let scoped = config.scoped.iter().flat_map(|entry| {
            let scope = match (&entry.organization, entry.hook_id) {
                (_, Some(hook_id)) => Scope::Hook(hook_id),
                (organization, None) => {
                    Scope::Organization(organization.clone().unwrap_or_default().to_ascii_lowercase())
                }
            };
            entry.secrets.iter().map(move |secret| (secret, scope.clone()))
        });
        let keys = any.chain(scoped).map(|(secret, scope)| {
            let mac = Hmac::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes keys of any length");
            Key { mac, scope }
        });
        Self(keys.collect())
    }

    /// Finds the secret with which `body` was signed.
    pub(super) async fn verify(&self, body: &Bytes, envelope: &Envelope<'_>) -> Result<KeyIndex, Refusal> {
        let (hook_id, signature) = (envelope.hook_id, envelope.signature);
        let found = if body.len() <= INLINE_MAX_BYTES {
            self.find(body, hook_id, &signature)
        } else {
            let (keys, body) = (self.clone(), body.clone());
            let searched = tokio::task::spawn_blocking(move || keys.find(&body, hook_id, &signature)).await;
            searched.map_err(|_| Refusal::Saturated)?
        };
        found.ok_or(Refusal::SignatureWrong)
    }

    /// The secret with which `body` was signed, of those that are valid for the hook.
    #[must_use]
    pub fn find(&self, body: &[u8], hook_id: Option<u64>, signature: &[u8; 32]) -> Option<KeyIndex> {
        // The header with the hook's id is not signed. It can only narrow the choice: a hook with
        // secrets of its own is not served by others.
        let own = hook_id.is_some_and(|id| self.0.iter().any(|key| key.scope == Scope::Hook(id)));
        let candidate = |scope: &Scope| match scope {
            Scope::Hook(id) => Some(*id) == hook_id,
            Scope::Any | Scope::Organization(_) => !own,
        };
        let mut keys = self.0.iter().enumerate().filter(|(_, key)| candidate(&key.scope));
        keys.find(|(_, key)| key.mac.clone().chain_update(body).verify_slice(signature).is_ok())
            .map(|(index, _)| KeyIndex(index))
    }

    /// Whether the secret found may sign for the organization or owner that the body names.
    pub(super) fn check_scope(&self, key: KeyIndex, login: Option<&str>) -> Result<(), Refusal> {
        let login = login.map(str::to_ascii_lowercase);
        let is_own = |scope: &Scope| matches!(scope, Scope::Organization(own) if Some(own) == login.as_ref());
        let allowed = match &self.0[key.0].scope {
            Scope::Hook(_) => true,
            scope @ Scope::Organization(_) => is_own(scope),
            Scope::Any => !self.0.iter().any(|other| is_own(&other.scope)),
        };
        if allowed { Ok(()) } else { Err(Refusal::SignatureForeign) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use headrace_runtime::secret::Secret;

    use super::*;
    use crate::config::Scoped;

    fn sign(secret: &str, body: &[u8]) -> [u8; 32] {
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body).finalize().into_bytes().into()
    }

    fn keys(secrets: &[&str], scoped: Vec<Scoped>) -> Keys {
        Keys::new(&GitHub { secrets: secrets.iter().map(|secret| Secret::new(*secret)).collect(), scoped })
    }

    #[test]
    fn githubs_published_test_vector() {
        // From GitHub's "Validating webhook deliveries".
        let keys = keys(&["It's a Secret to Everybody"], vec![]);
        let mut signature = [0; 32];
        hex::decode_to_slice("757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17", &mut signature)
            .unwrap();
        assert_eq!(keys.find(b"Hello, World!", None, &signature), Some(KeyIndex(0)));
        assert_eq!(keys.find(b"Hello, World?", None, &signature), None);
        signature[31] ^= 1;
        assert_eq!(keys.find(b"Hello, World!", None, &signature), None);
    }

    proptest! {
        #[test]
        fn only_the_very_signature_is_accepted(
            body in prop::collection::vec(any::<u8>(), 0..200),
            bit in 0..256_usize,
            hook in any::<Option<u64>>(),
        ) {
            let keys = keys(&["a", "b"], vec![]);
            let good = sign("b", &body);
            prop_assert_eq!(keys.find(&body, hook, &good), Some(KeyIndex(1)));
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(keys.find(&body, hook, &bad), None);
            prop_assert_eq!(parse_signature(&format!("sha256={}", hex::encode(good))), Some(good));
        }

        #[test]
        fn any_header_is_a_signature_or_none(value in "(sha256=)?([0-9a-fA-F]{60,68}|\\PC{0,80})") {
            if let Some(signature) = parse_signature(&value) {
                let rest = value.strip_prefix("sha256=").map(str::to_ascii_lowercase);
                prop_assert_eq!(rest, Some(hex::encode(signature)));
            }
        }
    }

    #[test]
    fn both_secrets_of_a_rotation_are_accepted() {
        let keys = keys(&["old", "new"], vec![]);
        assert_eq!(keys.find(b"x", None, &sign("old", b"x")), Some(KeyIndex(0)));
        assert_eq!(keys.find(b"x", None, &sign("new", b"x")), Some(KeyIndex(1)));
        assert_eq!(keys.find(b"x", None, &sign("gone", b"x")), None);
    }

    #[test]
    fn a_scoped_secret_is_valid_for_its_own_and_alone() {
        let scoped = |organization: Option<&str>, hook_id, secret: &str| Scoped {
            organization: organization.map(str::to_owned),
            hook_id,
            secrets: vec![Secret::new(secret)],
        };
        let keys = keys(&["any"], vec![scoped(Some("Acme"), None, "acme"), scoped(None, Some(7), "seven")]);
        let check = |secret: &str, hook_id, login| {
            let key = keys.find(b"x", hook_id, &sign(secret, b"x")).ok_or(Refusal::SignatureWrong);
            key.and_then(|key| keys.check_scope(key, login)).map_err(|refusal| refusal.code())
        };
        assert_eq!(check("any", None, Some("octo")), Ok(()));
        assert_eq!(check("any", None, None), Ok(()));
        assert_eq!(check("acme", None, Some("ACME")), Ok(()));
        assert_eq!(check("any", None, Some("acme")), Err("signature_foreign"));
        assert_eq!(check("acme", None, Some("octo")), Err("signature_foreign"));
        assert_eq!(check("seven", Some(7), Some("octo")), Ok(()));
        assert_eq!(check("any", Some(7), Some("octo")), Err("signature_wrong"));
        assert_eq!(check("seven", Some(8), Some("octo")), Err("signature_wrong"));
    }
}
