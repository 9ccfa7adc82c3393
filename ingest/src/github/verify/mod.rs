//! Who may sign what: HMAC-SHA256 over the raw bytes, compared in constant time, and whom a secret covers.
//!
//! The doc comment of [`Config::secrets`] tells operators the rule. The rule depends on everybody whom a body names,
//! and on the tenant that its event will belong to.

use std::collections::HashSet;
use std::sync::Arc;

use headrace_schemas::{header, subject};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::denied::Denied;
use super::media_type::{MediaType, form_payloads};
use crate::github::config::{Config, Scoped};
use crate::github::tenant::{Names, login_of, names_of};
use crate::tenant::TenantMap;
use crate::tenant::Tenants;

/// GitHub's header with the hook's id.
pub(super) const HOOK_ID: &str = "X-GitHub-Hook-ID";
/// How many names an answer quotes, and how much of each. A body may hold any number of names, of any length.
const TOLD_NAMES_MAX: usize = 4;
const TOLD_NAME_MAX_CHARS: usize = 64;

/// The parts of a delivery that decide whether it is accepted, at the gateway and when it is read from RAW later.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The body as it was sent.
    pub body: &'a [u8],
    /// From `X-GitHub-Hook-ID`.
    pub hook_id: Option<u64>,
    /// From `X-Hub-Signature-256`.
    pub signature: [u8; 32],
    /// From `Content-Type`.
    pub media_type: MediaType,
}

impl<'a> Claim<'a> {
    /// Builds the claim for `body`. `found` looks up a header by the name under which RAW keeps it.
    ///
    /// # Errors
    /// When the signature is missing or malformed, or the content type is neither JSON nor a form.
    pub fn read<'h>(body: &'a [u8], found: impl Fn(&str) -> Option<&'h str>) -> Result<Self, Denied> {
        let signature = found(header::GITHUB_SIGNATURE).ok_or(Denied::SignatureMissing)?;
        Ok(Self {
            body,
            hook_id: found(HOOK_ID).and_then(|id| id.parse().ok()),
            signature: parse_signature(signature).ok_or(Denied::SignatureMalformed)?,
            media_type: MediaType::parse(found(header::CONTENT_TYPE).unwrap_or_default())?,
        })
    }
}

/// Whom the secrets of one entry cover.
#[derive(Default)]
struct Scope {
    hook: Option<u64>,
    logins: HashSet<String>,
    /// The tenants of `logins`, as subjects spell them.
    tenants: HashSet<String>,
    enterprise: Option<String>,
}

struct Key {
    /// The keyed state; cloning it saves hashing the key for every request.
    mac: Hmac<Sha256>,
    /// Its index in the list of scopes.
    scope: usize,
}

/// All configured secrets. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    keys: Vec<Key>,
    /// The first is that of `secrets`, which are for everybody without an entry.
    scopes: Vec<Scope>,
    /// Whom the entries without a hook list. No other entry signs for them.
    owned: Scope,
    owned_enterprises: HashSet<String>,
    tenants: TenantMap,
}

/// The HMAC in a value of `X-Hub-Signature-256`: `sha256=` and 64 hex digits.
#[must_use]
pub fn parse_signature(value: &str) -> Option<[u8; 32]> {
    let mut signature = [0; 32];
    hex::decode_to_slice(value.strip_prefix("sha256=")?, &mut signature).ok()?;
    Some(signature)
}

impl Keys {
    /// The secrets of `config`, with the tenants as configured.
    #[must_use]
    pub fn new(config: &Config, tenants: &Tenants) -> Self {
        let tenants = TenantMap::new(tenants);
        let mut scopes = vec![Scope::default()];
        scopes.extend(config.scoped.iter().map(|entry| Scope::new(entry, &tenants)));
        let any = config.secrets.iter().map(|secret| (secret, 0));
        let scoped = config.scoped.iter().zip(1..);
        let scoped = scoped.flat_map(|(entry, scope)| entry.secrets.iter().map(move |secret| (secret, scope)));
        let keys = any.chain(scoped).map(|(secret, scope)| {
            let mac = Hmac::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes keys of any length");
            Key { mac, scope }
        });
        let keys = keys.collect();
        let (mut owned, mut owned_enterprises) = (Scope::default(), HashSet::new());
        for scope in scopes.iter().filter(|scope| scope.hook.is_none()) {
            owned.logins.extend(scope.logins.iter().cloned());
            owned.tenants.extend(scope.tenants.iter().cloned());
            owned_enterprises.extend(scope.enterprise.clone());
        }
        Self(Arc::new(Inner { keys, scopes, owned, owned_enterprises, tenants }))
    }

    /// Checks that a secret signed `claim` and covers everybody whom the body names. Returns the tenant.
    ///
    /// A long body takes milliseconds, so leave the reactor for it.
    ///
    /// # Errors
    /// Why the delivery is refused.
    pub fn authorize(&self, claim: &Claim<'_>) -> Result<String, Denied> {
        let mut signers = self.signers(claim).peekable();
        if signers.peek().is_none() {
            return Err(Denied::SignatureWrong);
        }
        let payloads = match claim.media_type {
            MediaType::Json => Vec::new(),
            MediaType::Form => form_payloads(claim.body),
        };
        let json = match claim.media_type {
            MediaType::Json => claim.body,
            MediaType::Form => payloads.first().ok_or(Denied::MissingPayload)?.as_bytes(),
        };
        if self.0.scopes.len() == 1 {
            return Ok(self.0.tenants.tenant(login_of(json).as_deref()));
        }
        let mut names = names_of(json);
        for further in payloads.iter().skip(1) {
            let further = names_of(further.as_bytes());
            names.logins.extend(further.logins);
            names.enterprises.extend(further.enterprises);
        }
        let mut foreign = None;
        for scope in signers {
            match self.foreign(scope, &names) {
                None => return Ok(self.0.tenants.tenant(names.login.as_deref())),
                // Several entries may share a secret. One entry that covers everybody is enough.
                Some(found) => foreign = foreign.or(Some(found)),
            }
        }
        Err(Denied::SignatureForeign { names: foreign.unwrap_or_default() })
    }

    /// How many secrets are tried on a body from the hook `hook_id`. Each one hashes the whole body.
    #[must_use]
    pub fn tried(&self, hook_id: Option<u64>) -> usize {
        self.candidates(hook_id).count()
    }

    /// The secrets that are valid for the hook `hook_id`.
    fn candidates(&self, hook_id: Option<u64>) -> impl Iterator<Item = &Key> {
        // The header with the hook's id is not signed. But it can only narrow the choice: a hook with secrets of its
        // own accepts no others.
        let own = hook_id.filter(|id| self.0.scopes.iter().any(|scope| scope.hook == Some(*id)));
        self.0.keys.iter().filter(move |key| self.0.scopes[key.scope].hook == own)
    }

    /// The scopes of the secrets that signed `claim`, among those that are valid for the hook.
    fn signers<'k>(&'k self, claim: &'k Claim<'_>) -> impl Iterator<Item = &'k Scope> {
        let signed = |key: &&Key| key.mac.clone().chain_update(claim.body).verify_slice(&claim.signature).is_ok();
        self.candidates(claim.hook_id).filter(signed).map(|key| &self.0.scopes[key.scope])
    }

    /// Whom of `names` the secrets of `scope` do not cover, in words. `None` when they cover everybody.
    fn foreign(&self, scope: &Scope, names: &Names) -> Option<String> {
        let logins = names.logins.iter().filter(|login| !self.covers(scope, login));
        let logins = logins.map(|login| told(login));
        let enterprises = names.enterprises.iter().filter(|slug| match &scope.enterprise {
            Some(own) => own != *slug,
            None => self.0.owned_enterprises.contains(*slug),
        });
        let mut foreign: Vec<String> =
            logins.chain(enterprises.map(|slug| format!("the enterprise {}", told(slug)))).collect();
        if foreign.is_empty() && scope.hook.is_none() {
            // If a secret is for somebody in particular, the body must name somebody.
            if !scope.logins.is_empty() && names.logins.is_empty() {
                foreign.push("no organization".to_owned());
            } else if scope.logins.is_empty() && scope.enterprise.is_some() && names.enterprises.is_empty() {
                foreign.push("no enterprise".to_owned());
            }
        }
        if names.login.is_none()
            && self.0.owned.tenants.contains(subject::NO_TENANT)
            && !scope.tenants.contains(subject::NO_TENANT)
        {
            foreign.push("no organization".to_owned());
        }
        let more = foreign.len().saturating_sub(TOLD_NAMES_MAX);
        foreign.truncate(TOLD_NAMES_MAX);
        if more > 0 {
            foreign.push(format!("{more} more"));
        }
        (!foreign.is_empty()).then(|| foreign.join(", "))
    }

    /// Whether the secrets of `scope` sign for `login`, which must be in lower case.
    fn covers(&self, scope: &Scope, login: &str) -> bool {
        if scope.logins.contains(login) {
            return true;
        }
        if self.0.owned.logins.contains(login) {
            return false;
        }
        let tenant = self.0.tenants.tenant(Some(login));
        scope.tenants.contains(&tenant) || (scope.logins.is_empty() && !self.0.owned.tenants.contains(&tenant))
    }
}

impl Scope {
    fn new(entry: &Scoped, tenants: &TenantMap) -> Self {
        let logins: HashSet<String> = entry.logins().map(str::to_ascii_lowercase).collect();
        Self {
            hook: entry.hook_id,
            tenants: logins.iter().map(|login| tenants.tenant(Some(login))).collect(),
            logins,
            enterprise: entry.enterprise.as_ref().map(|slug| slug.to_ascii_lowercase()),
        }
    }
}

fn told(name: &str) -> String {
    match name.char_indices().nth(TOLD_NAME_MAX_CHARS) {
        Some((end, _)) => format!("`{}…`", &name[..end]),
        None => format!("`{name}`"),
    }
}

#[cfg(test)]
mod tests;
