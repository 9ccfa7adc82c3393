//! A message in RAW that did not come from the gateway.

use headrace_runtime::broker::Stream;
use headrace_runtime::message::payload::{Outgoing, RawDelivery};
use headrace_schemas::header;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, command, complained, said};
use headrace_tests::product::stored::{self, Stored};
use tempfile::TempDir;

use super::PROGRAM;

#[tokio::test]
async fn a_forged_message_ends_in_dead_and_is_not_replayed() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, "[pipeline]\nverify = true\n[sinks.clickhouse]\nlinger_ms = 50\ninsert_timeout_s = 2\n")
        .unwrap();
    let up = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let good = guid();
    let body = r#"{"action":"publicized","repository":{"id":1,"full_name":"acme/a","owner":{"login":"acme"}}}"#;
    hook.store("repository", &good, body).await;

    // An administrator publishes it, with a signature of zeros.
    let mut forged = RawDelivery::sample(1);
    forged.headers.push((header::GITHUB_SIGNATURE.to_owned(), format!("sha256={}", "0".repeat(64))));
    let Outgoing { subject, payload, headers, .. } = forged.message();
    let sent = stored.jetstream().publish_with_headers(subject, headers, payload).await.unwrap();
    sent.await.unwrap();
    stored.settled().await;

    let rows: Vec<(String,)> = stored.rows("SELECT id FROM events").await;
    assert_eq!(rows, [(format!("github:{good}"),)]);
    let dead_letters = stored.messages(Stream::Dead).await;
    let values = |name| dead_letters.iter().map(|dead_letter| stored::header(dead_letter, name)).collect::<Vec<_>>();
    assert_eq!(
        (values(header::ID), values(header::DEAD_REASON)),
        (vec![forged.id.to_string()], vec!["unverified".to_owned()])
    );
    assert!(values(header::DEAD_DETAIL)[0].starts_with("the signature does not match the body"), "{dead_letters:?}");

    // The command finds the secret that `up` made, and verifies with it.
    let data = dir.path().join("data");
    let place = ["--config", config.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    let replayed = command(PROGRAM, ["replay", "--since", "1h"].into_iter().chain(place)).await;
    let output = said(&replayed) + &complained(&replayed);
    assert_eq!(replayed.status.code(), Some(0), "{output}");
    assert!(output.contains("1 deliveries replayed into events") && output.contains("1 failed again"), "{output}");
    let rows: Vec<(String,)> = stored.rows("SELECT id FROM events").await;
    assert_eq!(rows, [(format!("github:{good}"),)]);
    up.stop().await;
}
