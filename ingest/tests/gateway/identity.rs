//! The signature does not cover the id. So a delivery under a known id must displace nothing.

use headrace_runtime::broker::Stream;
use headrace_schemas::header;
use headrace_tests::harness::Nats;
use headrace_tests::product::hook::{guid, sha256};
use tokio::io::AsyncReadExt as _;

use crate::support::{TestGateway, config};

/// More than fits into a message.
const LARGE_BYTES: usize = 9 << 20;

fn body(organization: &str, more: &str) -> Vec<u8> {
    format!(r#"{{"organization":{{"login":"{organization}"}},"more":"{more}"}}"#).into_bytes()
}

#[tokio::test]
async fn other_bodies_under_a_known_id_are_stored_too() {
    let gateway = TestGateway::start(config()).await;
    let (hook, guid) = (gateway.hook(), guid());
    let deliveries = [
        ("push", body("acme", "one")),
        ("push", body("acme", "other")),
        ("star", body("acme", "one")),
        // Another tenant's delivery, which differs only in the tenant's name.
        ("push", body("octo", "one")),
    ];
    for (kind, body) in &deliveries {
        let answer = hook.send(kind, &guid, body.clone()).await;
        assert_eq!((answer.status, answer.body["status"].as_str()), (202, Some("stored")), "{kind} {}", answer.body);
        assert_eq!(answer.body["id"], format!("github:{guid}"));
    }
    for (kind, body) in &deliveries {
        let answer = hook.send(kind, &guid, body.clone()).await;
        assert_eq!((answer.status, answer.body["status"].as_str()), (200, Some("duplicate")), "{kind} {}", answer.body);
    }
    assert_eq!((gateway.counted("accepted"), gateway.counted("duplicate")), (4.0, 4.0));

    let messages = gateway.nats().messages(Stream::Raw).await;
    assert_eq!(messages.len(), 4);
    for (message, (kind, body)) in messages.iter().zip(&deliveries) {
        let tenant = if *body == deliveries[3].1 { "octo" } else { "acme" };
        assert_eq!(message.subject.as_str(), format!("raw.{tenant}.github.{kind}"));
        assert_eq!(message.payload, body.as_slice());
        assert_eq!(message.headers.get(header::BODY_SHA256).unwrap().as_str(), sha256(body));
    }
}

#[tokio::test]
async fn a_large_body_under_a_known_id_leaves_the_first_as_it_was() {
    let gateway = TestGateway::start(config()).await;
    let guid = guid();
    let bodies = ["x", "y"].map(|filling| body("acme", &filling.repeat(LARGE_BYTES)));
    for body in &bodies {
        let answer = gateway.hook().send("push", &guid, body.clone()).await;
        assert_eq!((answer.status, answer.body["status"].as_str()), (202, Some("stored")), "{}", answer.body);
    }
    let messages = gateway.nats().messages(Stream::Raw).await;
    assert_eq!(messages.len(), 2);
    for (message, body) in messages.iter().zip(&bodies) {
        let name = message.headers.get(header::BODY_OBJECT).unwrap().as_str();
        assert!(object(gateway.nats(), name).await == *body, "the reference {name} is to another body");
    }
}

async fn object(nats: &Nats, name: &str) -> Vec<u8> {
    let bodies = nats.jetstream().get_object_store("bodies").await.unwrap();
    let mut content = Vec::new();
    bodies.get(name).await.unwrap().read_to_end(&mut content).await.unwrap();
    content
}
