//! Who may sign what.

use proptest::prelude::*;

use headrace_runtime::secret::Secret;

use super::*;

fn sign(secret: &str, body: &[u8]) -> [u8; 32] {
    Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap().chain_update(body).finalize().into_bytes().into()
}

fn keys(secrets: &[&str], scoped: Vec<Scoped>, by_login: &[(&str, &str)]) -> Keys {
    let secrets = secrets.iter().map(|secret| Secret::new(*secret)).collect();
    let by_login = by_login.iter().map(|(login, tenant)| ((*login).to_owned(), (*tenant).to_owned())).collect();
    Keys::new(&Config { secrets, scoped }, &Tenants { by_login })
}

fn entry(organizations: &[&str], hook_id: Option<u64>, secret: &str) -> Scoped {
    let organizations = organizations.iter().map(|login| (*login).to_owned()).collect();
    Scoped { organizations, hook_id, secrets: vec![Secret::new(secret)], ..Scoped::default() }
}

fn claim(body: &[u8], hook_id: Option<u64>, signature: [u8; 32]) -> Claim<'_> {
    Claim { body, hook_id, signature, media_type: MediaType::Json }
}

/// The tenant of `body`, signed with `secret`, or the code of the refusal.
fn tenant(keys: &Keys, secret: &str, hook_id: Option<u64>, body: &str) -> Result<String, &'static str> {
    let authorized = keys.authorize(&claim(body.as_bytes(), hook_id, sign(secret, body.as_bytes())));
    authorized.map_err(|denied| denied.code())
}

const FOREIGN: Result<&str, &str> = Err("signature_foreign");
const WRONG: Result<&str, &str> = Err("signature_wrong");

#[test]
fn githubs_published_test_vector() {
    // From GitHub's "Validating webhook deliveries".
    let keys = keys(&["It's a Secret to Everybody"], vec![], &[]);
    let mut signature = [0; 32];
    hex::decode_to_slice("757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17", &mut signature).unwrap();
    assert_eq!(keys.authorize(&claim(b"Hello, World!", None, signature)).as_deref(), Ok("none"));
    assert_eq!(keys.authorize(&claim(b"Hello, World?", None, signature)), Err(Denied::SignatureWrong));
    signature[31] ^= 1;
    assert_eq!(keys.authorize(&claim(b"Hello, World!", None, signature)), Err(Denied::SignatureWrong));
}

proptest! {
    #[test]
    fn only_the_very_signature_is_accepted(
        body in prop::collection::vec(any::<u8>(), 0..200),
        bit in 0..256_usize,
        hook in any::<Option<u64>>(),
    ) {
        let keys = keys(&["a", "b"], vec![], &[]);
        let good = sign("b", &body);
        prop_assert!(keys.authorize(&claim(&body, hook, good)).is_ok());
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(keys.authorize(&claim(&body, hook, bad)), Err(Denied::SignatureWrong));
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
    let keys = keys(&["old", "new"], vec![], &[]);
    for (secret, expected) in [("old", Ok("none")), ("new", Ok("none")), ("gone", WRONG)] {
        assert_eq!(tenant(&keys, secret, None, "x").as_deref(), expected.as_ref().copied(), "{secret}");
    }
}

const ACME: &str = r#"{"organization":{"login":"ACME"}}"#;
const OCTO: &str = r#"{"organization":{"login":"octo"}}"#;
const NOBODY: &str = r#"{"zen":"x"}"#;
const BOTH: &str = r#"{"organization":{"login":"octo"},"repository":{"full_name":"acme/app"}}"#;

#[test]
fn every_login_named_needs_a_secret_that_covers_it() {
    let keys = keys(
        &["any"],
        vec![
            entry(&["Acme"], None, "acme"),
            entry(&["acme", "octo"], None, "two"),
            entry(&[], Some(7), "seven"),
            entry(&["acme"], Some(8), "eight"),
        ],
        &[],
    );
    let user = r#"{"repository":{"owner":{"login":"mona"},"full_name":"mona/app"}}"#;
    let of_fork = r#"{"organization":{"login":"other"},"forkee":{"owner":{"login":"acme"}},"sender":{"login":"acme"}}"#;
    let hidden = r#"{"organization":{"login":"mona"},"org\u0061nization":{"log\u0069n":"\u0061cme"}}"#;
    let later = r#"{"organization":{"login":"mona","login":"acme"}}"#;
    let installed = r#"{"installation":{"account":{"login":"acme"}},"repository":{"owner":{"login":"mona"}}}"#;
    for (secret, hook_id, body, expected) in [
        ("any", None, user, Ok("mona")),
        ("any", None, NOBODY, Ok("none")),
        ("any", None, of_fork, Ok("other")),
        ("any", None, ACME, FOREIGN),
        ("any", None, OCTO, FOREIGN),
        ("any", None, BOTH, FOREIGN),
        ("any", None, hidden, FOREIGN),
        ("any", None, later, FOREIGN),
        ("any", None, installed, FOREIGN),
        ("acme", None, ACME, Ok("acme")),
        ("acme", None, BOTH, FOREIGN),
        ("acme", None, NOBODY, FOREIGN),
        ("acme", None, "no JSON", FOREIGN),
        ("two", None, BOTH, Ok("octo")),
        ("seven", Some(7), user, Ok("mona")),
        ("seven", Some(7), NOBODY, Ok("none")),
        ("seven", Some(7), ACME, FOREIGN),
        ("seven", Some(9), user, WRONG),
        ("any", Some(7), user, WRONG),
        ("any", Some(9), user, Ok("mona")),
        ("eight", Some(8), ACME, Ok("acme")),
        ("eight", Some(8), NOBODY, Ok("none")),
        ("eight", Some(8), user, FOREIGN),
    ] {
        let found = tenant(&keys, secret, hook_id, body);
        assert_eq!(found.as_deref(), expected.as_ref().copied(), "{secret} for hook {hook_id:?} with {body}");
    }
}

#[test]
fn a_tenant_is_as_well_kept_as_its_logins() {
    let aliases = [("acme-eu", "acme"), ("acme-us", "acme"), ("mona", "none"), ("lisa", "lisa_2e"), ("a b", "other")];
    let entries = vec![
        entry(&["acme"], None, "acme"),
        entry(&["acme-us"], None, "us"),
        entry(&["mona"], None, "mona"),
        entry(&["lisa"], None, "lisa"),
    ];
    let keys = keys(&["any"], entries, &aliases);
    let of = |login: &str| format!(r#"{{"organization":{{"login":"{login}"}}}}"#);
    for (secret, body, expected) in [
        ("any", of("acme-eu"), FOREIGN),
        ("us", of("acme-eu"), Ok("acme")),
        ("acme", of("Acme-EU"), Ok("acme")),
        ("acme", of("acme-us"), FOREIGN),
        ("us", of("acme-us"), Ok("acme")),
        ("any", of("A B"), Ok("other")),
        ("any", of("none"), FOREIGN),
        ("mona", of("none"), Ok("_6eone")),
        // These only look alike.
        ("any", NOBODY.to_owned(), Ok("none")),
        ("any", of("lisa."), Ok("lisa_2e")),
    ] {
        assert_eq!(tenant(&keys, secret, None, &body).as_deref(), expected.as_ref().copied(), "{secret}: {body}");
    }
}

#[test]
fn the_events_of_nobody_are_as_well_kept_as_the_login_that_has_them() {
    let keys = keys(&["any"], vec![entry(&["mona"], None, "mona")], &[("mona", "")]);
    assert_eq!(tenant(&keys, "any", None, NOBODY).as_deref(), FOREIGN.as_ref().copied());
}

#[test]
fn an_enterprise_signs_for_its_organizations() {
    let mut of_enterprise = entry(&[], None, "big");
    of_enterprise.enterprise = Some("Big".to_owned());
    let keys = keys(&["any"], vec![of_enterprise, entry(&["acme"], None, "acme")], &[]);
    let of = |login: &str, slug: &str| {
        format!(r#"{{"organization":{{"login":"{login}"}},"enterprise":{{"slug":"{slug}"}}}}"#)
    };
    for (secret, body, expected) in [
        ("big", of("octo", "big"), Ok("octo")),
        ("big", of("octo", "other"), FOREIGN),
        ("big", of("acme", "big"), FOREIGN),
        ("big", OCTO.to_owned(), FOREIGN),
        ("any", of("octo", "big"), FOREIGN),
        ("any", of("octo", "other"), Ok("octo")),
        ("acme", of("acme", "other"), Ok("acme")),
        ("acme", of("acme", "big"), FOREIGN),
    ] {
        assert_eq!(tenant(&keys, secret, None, &body).as_deref(), expected.as_ref().copied(), "{secret}: {body}");
    }
}

#[test]
fn a_form_hides_nobody() {
    let keys = keys(&["any"], vec![entry(&["acme"], None, "acme")], &[]);
    let form = |payloads: &[&str]| {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(payloads.iter().map(|payload| ("payload", payload)));
        form.finish()
    };
    for (body, expected) in [
        (form(&[OCTO]), Ok("octo")),
        (form(&[ACME]), FOREIGN),
        (form(&[OCTO, ACME]), FOREIGN),
        (form(&[BOTH]), FOREIGN),
        ("other=1".to_owned(), Err("missing_payload")),
    ] {
        let signature = sign("any", body.as_bytes());
        let claim = Claim { media_type: MediaType::Form, ..claim(body.as_bytes(), None, signature) };
        let found = keys.authorize(&claim).map_err(|denied| denied.code());
        assert_eq!(found.as_deref(), expected.as_ref().copied(), "{body}");
    }
}

#[test]
fn one_text_may_be_the_secret_of_several() {
    let keys = keys(&["same"], vec![entry(&["acme"], None, "same")], &[]);
    for (body, expected) in [(ACME, Ok("acme")), (OCTO, Ok("octo")), (BOTH, FOREIGN)] {
        assert_eq!(tenant(&keys, "same", None, body).as_deref(), expected.as_ref().copied(), "{body}");
    }
}

#[test]
fn who_is_not_covered_is_told_within_bounds() {
    let keys = keys(&["any"], vec![entry(&["acme"], None, "acme")], &[]);
    let told = |body: &str| {
        keys.authorize(&claim(body.as_bytes(), None, sign("acme", body.as_bytes()))).unwrap_err().to_string()
    };
    assert!(told(BOTH).starts_with("the body names `octo`, and the secret"), "{}", told(BOTH));
    let many: String = (0..9).map(|n| format!(r#","organization":{{"login":"{n}{}"}}"#, "x".repeat(999))).collect();
    let told = told(&format!(r#"{{"a":1{many}}}"#));
    assert!(told.contains("…`, 5 more, and") && told.len() < 600, "{told}");
}

#[test]
fn what_raw_keeps_is_enough_to_decide_again() {
    let keys = keys(&["any"], vec![], &[]);
    let signature = format!("sha256={}", hex::encode(sign("any", OCTO.as_bytes())));
    let stored = |without: &'static str| {
        let signature = signature.clone();
        let headers = [(header::GITHUB_SIGNATURE, signature), (header::CONTENT_TYPE, "application/json".to_owned())];
        let found = move |name: &str| {
            let header = headers.iter().find(|(own, _)| *own == name && *own != without);
            header.map(|(_, value)| &*Box::leak(value.clone().into_boxed_str()))
        };
        Claim::read(OCTO.as_bytes(), found).and_then(|claim| keys.authorize(&claim)).map_err(|denied| denied.code())
    };
    assert_eq!(stored(""), Ok("octo".to_owned()));
    assert_eq!(stored(header::GITHUB_SIGNATURE), Err("signature_missing"));
    assert_eq!(stored(header::CONTENT_TYPE), Err("unsupported_type"));
}
