//! A GitHub App: its key, made for this test, and the check of tokens that are signed with the key.

use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

/// The App's id.
pub const APP_ID: u64 = 4_711;
/// GitHub accepts no token that is valid for longer.
const VALID_MAX: Duration = Duration::from_secs(600);

/// A GitHub App.
pub struct App {
    private_key: String,
    public_key: Vec<u8>,
}

/// Checks the App's tokens.
#[derive(Clone)]
pub(super) struct Verifier(DecodingKey);

#[derive(Deserialize)]
struct Claims {
    iss: u64,
    iat: u64,
    exp: u64,
}

impl App {
    pub(super) fn new() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("there is randomness");
        let der: Pkcs8V1Der<'_> = pair.as_der().expect("a key that was just made can be written");
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        let private_key = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
        Self { private_key, public_key: pair.public_key().as_ref().to_vec() }
    }

    /// The private key, as the PEM file that GitHub would make.
    #[must_use]
    pub fn private_key(&self) -> &str {
        &self.private_key
    }

    pub(super) fn verifier(&self) -> Verifier {
        Verifier(DecodingKey::from_rsa_der(&self.public_key))
    }
}

impl Verifier {
    /// Whether GitHub would accept `token` for this App.
    pub(super) fn accepts(&self, token: &str) -> bool {
        let Ok(token) = decode::<Claims>(token, &self.0, &Validation::new(Algorithm::RS256)) else { return false };
        let Claims { iss, iat, exp } = token.claims;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        iss == APP_ID && iat <= now && exp <= now + VALID_MAX.as_secs()
    }
}
