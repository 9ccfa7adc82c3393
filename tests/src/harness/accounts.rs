//! An operator of NATS with an account and its users, as `nsc` makes them: a chain of signed claims (JWT), and
//! credentials files. A server that trusts the operator needs no list of users.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headrace_schemas::time::Timestamp;
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The version of the claims' form, the second.
const VERSION: u32 = 2;

/// An operator with one account besides the system's.
pub struct Operator {
    operator: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Default for Operator {
    fn default() -> Self {
        Self { operator: KeyPair::new_operator(), account: KeyPair::new_account(), system: KeyPair::new_account() }
    }
}

impl Operator {
    /// The lines of nats-server's configuration file that make it trust this operator and know the accounts. JetStream
    /// does not start without a system account.
    #[must_use]
    pub fn nats_block(&self) -> String {
        let operator = claims(&self.operator, &self.operator, "operator", &json!({}));
        let unlimited = json!({ "subs": -1, "data": -1, "payload": -1, "conn": -1, "imports": -1, "exports": -1 });
        let mut with_streams = unlimited.clone();
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            with_streams[limit] = json!(-1);
        }
        let account = claims(&self.operator, &self.account, "account", &json!({ "limits": with_streams }));
        let system = claims(&self.operator, &self.system, "account", &json!({ "limits": unlimited }));
        let (account_key, system_key) = (self.account.public_key(), self.system.public_key());
        format!(
            "operator: {operator}\nsystem_account: {system_key}\nresolver: MEMORY\n\
             resolver_preload: {{\n  {account_key}: {account}\n  {system_key}: {system}\n}}\n"
        )
    }

    /// The credentials file of a new user of the account, who may do everything in it.
    #[must_use]
    pub fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        file(&self.user(&user, &json!({})), &user)
    }

    /// Credentials that have expired.
    #[must_use]
    pub fn expired_credentials(&self) -> String {
        let user = KeyPair::new_user();
        let an_hour_ago = Timestamp::now().as_micros() / 1_000_000 - 3_600;
        file(&self.user(&user, &json!({ "exp": an_hour_ago })), &user)
    }

    /// Credentials of a user whose key somebody else does not have: the seed in them is another one.
    #[must_use]
    pub fn stolen_credentials(&self) -> String {
        file(&self.user(&KeyPair::new_user(), &json!({})), &KeyPair::new_user())
    }

    fn user(&self, user: &KeyPair, more: &Value) -> String {
        let limits = json!({ "subs": -1, "data": -1, "payload": -1 });
        signed(&self.account, user, "user", &limits, more)
    }
}

/// Claims without an end.
fn claims(issuer: &KeyPair, subject: &KeyPair, kind: &str, nats: &Value) -> String {
    signed(issuer, subject, kind, nats, &json!({}))
}

/// What `issuer` says of `subject`: a JWT in the form of NATS.
fn signed(issuer: &KeyPair, subject: &KeyPair, kind: &str, nats: &Value, more: &Value) -> String {
    let mut claims = json!({
        "iat": Timestamp::now().as_micros() / 1_000_000,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": kind,
        "nats": { "type": kind, "version": VERSION },
    });
    merge(&mut claims["nats"], nats);
    merge(&mut claims, more);
    // The id is a digest of the claims without it.
    claims["jti"] = json!(hex::encode(Sha256::digest(claims.to_string())));
    let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let text = format!("{}.{}", encoded(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encoded(&claims));
    let signature = issuer.sign(text.as_bytes()).expect("it has its seed");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn merge(object: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        object[name] = value.clone();
    }
}

/// A credentials file: who somebody is, and the seed of the key that proves it.
fn file(jwt: &str, user: &KeyPair) -> String {
    let seed = user.seed().expect("it was just made");
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}
