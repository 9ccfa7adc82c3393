//! Checks a delivery in RAW again, by the same rule as the gateway did.

use headrace_runtime::message::payload::RawDelivery;

use super::verify::{Claim, Keys};

impl Keys {
    /// Checks whether the gateway would accept `raw` with these secrets. GitHub signs only the body. So the check says
    /// nothing about the headers beside it, nor about the kind of the event, which is one of them.
    ///
    /// # Errors
    /// Why the gateway would refuse it, in words.
    pub fn check_stored(&self, raw: &RawDelivery) -> Result<(), String> {
        let authorized = Claim::read(&raw.body, |name| raw.header(name)).and_then(|claim| self.authorize(&claim));
        authorized
            .map(drop)
            .map_err(|denied| format!("{denied}; the gateway did not store this, or its secret was removed since"))
    }
}

#[cfg(test)]
mod tests {
    use headrace_runtime::secret::Secret;
    use headrace_schemas::header;
    use headrace_schemas::id::EventId;
    use headrace_schemas::time::Timestamp;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use sha2::Sha256;

    use super::*;
    use crate::github::config::{Config, Scoped};
    use crate::tenant::Tenants;

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
            event_time: None,
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            body: body.to_owned().into(),
            sha256: RawDelivery::sha256_of(body.as_bytes()),
            sequence: 1,
        }
    }

    #[test]
    fn what_the_gateway_would_refuse_is_refused_when_it_is_stored() {
        let scoped =
            Scoped { organization: Some("acme".to_owned()), secrets: vec![Secret::new("acme's")], ..Scoped::default() };
        let config = Config { secrets: vec![Secret::new("any")], scoped: vec![scoped] };
        let keys = Keys::new(&config, &Tenants::default());
        let check = |raw: RawDelivery| keys.check_stored(&raw).err().unwrap_or_default();
        let form = format!("payload={}", form_urlencoded::byte_serialize(JSON.as_bytes()).collect::<String>());
        let json = "application/json; charset=utf-8";
        assert_eq!(check(raw("acme's", json, JSON)), "");
        assert_eq!(check(raw("acme's", "application/x-www-form-urlencoded", &form)), "");
        assert_eq!(check(raw("any", json, r#"{"organization":{"login":"octo"}}"#)), "");

        assert!(check(raw("any", json, JSON)).contains("the body names `acme`"));
        assert!(check(raw("other", json, JSON)).contains("the signature does not match the body"));
        let zeros = (header::GITHUB_SIGNATURE.to_owned(), format!("sha256={}", "0".repeat(64)));
        let kind = (header::CONTENT_TYPE.to_owned(), json.to_owned());
        let forged = RawDelivery { headers: vec![zeros, kind], ..raw("any", json, JSON) };
        assert!(check(forged.clone()).contains("the signature does not match the body"));
        assert!(check(RawDelivery { headers: Vec::new(), ..forged }).contains("found none"));
        let other = JSON.replace("acme", "acmf");
        let signed = raw("acme's", json, JSON).headers;
        let changed = RawDelivery { headers: signed, ..raw("acme's", json, &other) };
        assert!(check(changed).contains("the signature does not match the body"));
    }
}
