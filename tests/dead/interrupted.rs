//! `headrace dead redrive` dies between its steps, twice, and is run a third time.

use std::collections::BTreeMap;

use headrace_runtime::broker::Stream;
use headrace_runtime::crash::{Point, VARIABLE};
use headrace_runtime::message::payload::{Outgoing, RawDelivery};
use headrace_schemas::header;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::product::process::{command, complained};

use super::{PROGRAM, Server, good};

/// Where the two runs die: the point, and at which passing of it.
const DEATHS: [[(Point, u32); 2]; 5] = [
    [(Point::AfterRedrive, 1), (Point::AfterRedrive, 1)],
    [(Point::AfterRedrive, 1), (Point::AfterRedrive, 2)],
    [(Point::AfterRedrive, 2), (Point::AfterRedriven, 1)],
    [(Point::AfterRedriven, 1), (Point::AfterRedrive, 1)],
    [(Point::AfterRedriven, 1), (Point::AfterRedriven, 1)],
];
/// What gave each message up.
const COMPONENTS: [&str; 2] = ["normalize", "clickhouse-raw"];

/// A server with dead letters of two messages, each given up by two components, and of others that nobody asks for.
async fn with_dead_letters() -> (Server, Vec<u64>) {
    let server = Server::start().await;
    for number in [1, 2] {
        for component in COMPONENTS {
            server.bury(good(number), component, "malformed").await;
        }
    }
    let elsewhere = Outgoing { subject: "raw.octo.github.push".to_owned(), ..good(3) };
    let other_tenant = server.bury(elsewhere, "normalize", "malformed").await;
    // The same delivery with another body is another message.
    let other_body = Outgoing { payload: "{}".into(), ..good(1) };
    let other_body = server.bury(other_body, "clickhouse-raw", "exhausted").await;
    (server, vec![other_tenant, other_body])
}

/// Runs `redrive` until it dies there.
async fn die(server: &Server, filters: &str, (point, passing): (Point, u32)) {
    let config = server.config.to_str().unwrap();
    let crash = format!("{VARIABLE}={}:{passing}", point.name());
    let own = [crash.as_str(), PROGRAM, "dead", "redrive", "--config", config];
    let output = command("/usr/bin/env", own.into_iter().chain(filters.split(' '))).await;
    // A signal leaves no exit code.
    assert_eq!(output.status.code(), None, "{point:?}: {}", complained(&output));
}

/// How often each message is in RAW, by its event and its body.
async fn stored(server: &Server) -> BTreeMap<(String, Vec<u8>), usize> {
    let mut stored = BTreeMap::new();
    for message in server.nats.messages(Stream::Raw).await {
        let id = message.headers.get(header::ID).unwrap().to_string();
        *stored.entry((id, message.payload.to_vec())).or_default() += 1;
    }
    stored
}

async fn assert_whole(filters: &str, deaths: [(Point, u32); 2], left_of_selected: &[&str]) {
    let (server, others) = with_dead_letters().await;
    for death in deaths {
        die(&server, filters, death).await;
    }
    let done = server.dead(&format!("redrive {filters}")).await;
    assert_eq!(done.code, Some(0), "{deaths:?}: {}", done.complained);
    let stored = stored(&server).await;
    let expected = [1, 2].map(|number| (RawDelivery::sample(number).id.to_string(), good(number).payload.to_vec()));
    assert!(stored.keys().eq(&expected), "{deaths:?}: {stored:?}");
    // The broker knows the repetition of one dead letter. Another component's may send its message once more.
    assert!(stored.values().all(|count| *count <= COMPONENTS.len()), "{deaths:?}: {stored:?}");
    assert!(server.numbers(filters).await.is_empty(), "{deaths:?}: all that were meant are sent");
    let left = server.numbers("").await;
    assert!(others.iter().all(|other| left.contains(other)), "{deaths:?}: {left:?}");
    let selected: Vec<u64> = left.into_iter().filter(|number| !others.contains(number)).collect();
    let components = server.dead("list --json --reason malformed --tenant acme").await.json();
    let known = |row: &serde_json::Value| left_of_selected.contains(&row["component"].as_str().unwrap());
    assert!(components.len() == selected.len() && components.iter().all(known), "{deaths:?}: {components:?}");
}

#[tokio::test]
async fn a_redrive_that_dies_twice_loses_nothing_and_sends_nothing_else() {
    for deaths in DEATHS {
        assert_whole("--tenant acme --reason malformed", deaths, &[]).await;
    }
}

#[tokio::test]
async fn a_redrive_for_one_component_that_dies_twice_leaves_at_most_the_dead_letters_of_the_other() {
    for deaths in [DEATHS[0], DEATHS[2], DEATHS[4]] {
        assert_whole("--component normalize --tenant acme", deaths, &COMPONENTS[1..]).await;
    }
}
