//! The organizations and hooks for which a secret may sign.

use headrace_ingest::github::config::{Config as GitHub, Scoped};
use headrace_ingest::github::tenant::names_of;
use headrace_ingest::github::{Claim, Keys, MediaType, parse_signature};
use headrace_ingest::tenant::Tenants;
use headrace_runtime::broker::Stream;
use headrace_runtime::secret::Secret;
use headrace_tests::examples;
use headrace_tests::product::hook::{Hook, answer, guid, signature};

use crate::support::{SECRET, TestGateway, config};
use crate::{BODY, explains};

fn organizations(logins: &[&str], secret: &str) -> Scoped {
    let organizations = logins.iter().map(|login| (*login).to_owned()).collect();
    Scoped { organizations, secrets: vec![Secret::new(secret)], ..Scoped::default() }
}

fn hook(id: u64, secret: &str) -> Scoped {
    Scoped { hook_id: Some(id), secrets: vec![Secret::new(secret)], ..Scoped::default() }
}

#[tokio::test]
async fn secrets_rotate_and_sign_only_within_their_scope() {
    let mut config = config();
    config.github.secrets.push(Secret::new("new"));
    let octo = Scoped { organization: Some("Octo".to_owned()), ..organizations(&[], "octo's") };
    config.github.scoped = vec![octo, hook(7, "seven's")];
    let gateway = TestGateway::start(config).await;
    let octo = r#"{"organization":{"login":"OCTO"}}"#;
    let both = r#"{"organization":{"login":"acme"},"repository":{"full_name":"octo/app"}}"#;
    for (secret, hook_id, body, expected) in [
        (SECRET, None, BODY, Ok(())),
        ("new", None, BODY, Ok(())),
        ("old", None, BODY, Err((401, "signature_wrong"))),
        ("octo's", None, octo, Ok(())),
        ("octo's", None, BODY, Err((403, "signature_foreign"))),
        (SECRET, None, octo, Err((403, "signature_foreign"))),
        (SECRET, None, both, Err((403, "signature_foreign"))),
        ("octo's", None, both, Err((403, "signature_foreign"))),
        ("seven's", Some("7"), BODY, Ok(())),
        ("seven's", Some("7"), octo, Err((403, "signature_foreign"))),
        ("seven's", Some("8"), BODY, Err((401, "signature_wrong"))),
        ("seven's", None, BODY, Err((401, "signature_wrong"))),
        ("new", Some("7"), BODY, Err((401, "signature_wrong"))),
        ("new", Some("8"), BODY, Ok(())),
    ] {
        let mut request = Hook::new(gateway.webhook(""), secret).request("ping", &guid(), body);
        if let Some(id) = hook_id {
            request = request.header("X-GitHub-Hook-ID", id);
        }
        let answer = answer(request).await.unwrap();
        let reason = (answer.status, answer.body["error"].as_str().unwrap_or_default());
        let found = if answer.status == 202 { Ok(()) } else { Err(reason) };
        assert_eq!(found, expected, "{secret} for hook {hook_id:?} with {body}");
    }
}

#[tokio::test]
async fn no_secret_signs_for_another_tenant() {
    let mut config = config();
    config.github.scoped = vec![organizations(&["acme"], "acme's")];
    let tenants = Tenants { by_login: [("acme-eu".to_owned(), "acme".to_owned())].into() };
    let gateway = TestGateway::with_tenants(config, &tenants).await;
    let alias = r#"{"organization":{"login":"Acme-EU"}}"#;
    let refused = gateway.hook().send("ping", &guid(), alias).await;
    explains(&refused, 403, "signature_foreign", "the body names `acme-eu`");
    assert!(gateway.nats().messages(Stream::Raw).await.is_empty());
    Hook::new(gateway.webhook(""), "acme's").store("ping", &guid(), alias).await;
    let messages = gateway.nats().messages(Stream::Raw).await;
    assert_eq!(messages[0].subject.as_str(), "raw.acme.github.ping");
}

#[tokio::test]
async fn every_published_body_is_within_the_scope_of_its_organizations_secret() {
    let (mut scoped, mut single) = (0, 0);
    for example in examples::all().await {
        let names = names_of(&example.body);
        let logins: Vec<&str> = names.logins.iter().map(String::as_str).collect();
        let authorized = |secret: &str, entry: Scoped| {
            let config = GitHub { secrets: vec![Secret::new(SECRET)], scoped: vec![entry] };
            let signature = parse_signature(&signature(secret, &example.body)).unwrap();
            let claim = Claim { body: &example.body, hook_id: None, signature, media_type: MediaType::Json };
            Keys::new(&config, &Tenants::default()).authorize(&claim).map_err(|denied| denied.code())
        };
        let tenant = names.login.as_ref().map_or("none".to_owned(), |login| login.to_ascii_lowercase());
        assert_eq!(authorized(SECRET, organizations(&["strangers"], "theirs")), Ok(tenant.clone()), "{}", example.kind);
        if logins.is_empty() {
            continue;
        }
        scoped += 1;
        assert_eq!(authorized("own", organizations(&logins, "own")), Ok(tenant), "{} {names:?}", example.kind);
        // Some published bodies name a repository of another owner than their organization. GitHub sends no such body.
        let first = authorized("own", organizations(&logins[..1], "own"));
        assert_eq!(first.is_ok(), logins.len() == 1, "{} {names:?}", example.kind);
        single += usize::from(logins.len() == 1);
        assert_eq!(authorized(SECRET, organizations(&logins[..1], "own")), Err("signature_foreign"));
    }
    assert!(scoped > 300 && single > 100, "{scoped} name somebody, {single} one login");
}
