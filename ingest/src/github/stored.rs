//! A delivery that is stored already, checked once more as the gateway checked it.

use headrace_runtime::payload::RawDelivery;
use headrace_schemas::header;

use super::body::{MediaType, form_payload};
use super::envelope::{HOOK_ID, SOURCE};
use super::verify::{Keys, parse_signature};
use crate::reply::Refusal;
use crate::tenant::login_of;

impl Keys {
    /// Whether the gateway would take `raw` in with these secrets. GitHub signs the body alone: the headers beside it,
    /// and so the kind of the event, are no better known for it.
    ///
    /// # Errors
    /// Why it would not, in words.
    pub fn check_stored(&self, raw: &RawDelivery) -> Result<(), String> {
        if raw.source != SOURCE {
            return Err(format!(
                "expected the source `{SOURCE}`, whose signatures are known here, found `{}`",
                raw.source
            ));
        }
        self.signed(raw).map_err(|refusal| format!("{refusal}; stored by somebody else, or with a secret that is gone"))
    }

    fn signed(&self, raw: &RawDelivery) -> Result<(), Refusal> {
        let signature = raw.header(header::GITHUB_SIGNATURE).ok_or(Refusal::SignatureMissing)?;
        let signature = parse_signature(signature).ok_or(Refusal::SignatureMalformed)?;
        let hook_id = raw.header(HOOK_ID).and_then(|id| id.parse().ok());
        let key = self.find(&raw.body, hook_id, &signature).ok_or(Refusal::SignatureWrong)?;
        let login = match MediaType::named(raw.header(header::CONTENT_TYPE).unwrap_or_default())? {
            MediaType::Json => login_of(&raw.body),
            MediaType::Form => login_of(form_payload(&raw.body).ok_or(Refusal::MissingPayload)?.as_bytes()),
        };
        self.check_scope(key, login.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use headrace_runtime::secret::Secret;
    use headrace_schemas::id::EventId;
    use headrace_schemas::time::Timestamp;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use sha2::Sha256;

    use super::*;
    use crate::config::{GitHub, Scoped};

    const JSON: &str = r#"{"organization":{"login":"acme"}}"#;

    fn raw(secret: &str, media_type: &str, body: &str) -> RawDelivery {
        let signature = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body).finalize();
        let signature = format!("sha256={}", hex::encode(signature.into_bytes()));
        let headers = [(header::GITHUB_SIGNATURE, signature.as_str()), (header::CONTENT_TYPE, media_type)];
        RawDelivery {
            id: EventId::from_stored("github:1".to_owned()),
            tenant: "acme".to_owned(),
            source: "github".to_owned(),
            event: "team".to_owned(),
            received_at: Timestamp::from_micros(1),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            body: body.to_owned().into(),
            sequence: 1,
        }
    }

    #[test]
    fn what_the_gateway_would_refuse_is_refused_when_it_is_stored() {
        let scoped =
            Scoped { organization: Some("acme".to_owned()), hook_id: None, secrets: vec![Secret::new("acme's")] };
        let keys = Keys::new(&GitHub { secrets: vec![Secret::new("any")], scoped: vec![scoped] });
        let check = |raw: RawDelivery| keys.check_stored(&raw).err().unwrap_or_default();
        let form = format!("payload={}", form_urlencoded::byte_serialize(JSON.as_bytes()).collect::<String>());
        let json = "application/json; charset=utf-8";
        assert_eq!(check(raw("acme's", json, JSON)), "");
        assert_eq!(check(raw("acme's", "application/x-www-form-urlencoded", &form)), "");
        assert_eq!(check(raw("any", json, r#"{"organization":{"login":"octo"}}"#)), "");

        assert!(check(raw("any", json, JSON)).contains("not made with a secret of the organization"));
        assert!(check(raw("other", json, JSON)).contains("the signature does not match the body"));
        let zeros = (header::GITHUB_SIGNATURE.to_owned(), format!("sha256={}", "0".repeat(64)));
        let forged = RawDelivery { headers: vec![zeros], ..raw("any", json, JSON) };
        assert!(check(forged.clone()).contains("the signature does not match the body"));
        assert!(check(RawDelivery { headers: Vec::new(), ..forged.clone() }).contains("found none"));
        assert!(check(RawDelivery { source: "gitlab".to_owned(), ..forged }).contains("found `gitlab`"));
        let changed = RawDelivery { body: JSON.replace("acme", "acmf").into(), ..raw("acme's", json, JSON) };
        assert!(check(changed).contains("the signature does not match the body"));
    }
}
