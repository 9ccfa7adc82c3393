//! The four commands, on NATS alone and with a running pipeline.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use futures::TryStreamExt as _;
use headrace_local::poll;
use headrace_runtime::broker::Stream;
use headrace_runtime::message::payload::{Outgoing, RawDelivery};
use headrace_runtime::settle::dead_letters::{DeadLetters, Filter};
use headrace_schemas::header;
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, Nats};
use headrace_tests::product::process::{Launch, command, complained, said};
use serde_json::{Value, json};

use super::{PROGRAM, Server, bury, good};

#[tokio::test]
async fn every_filter_finds_its_dead_letters() {
    let server = Server::start().await;
    server.dead("list").await.says("no dead letters");
    server.bury(good(1), "normalize", "malformed").await;
    let mut other = good(2);
    other.subject = "raw.octo.github.push".to_owned();
    server.bury(other, "clickhouse", "rejected").await;
    server.bury(good(1), "clickhouse", "rejected").await;

    for (filters, numbers) in [
        ("", vec![1, 2, 3]),
        ("--component clickhouse", vec![2, 3]),
        ("--component click", vec![]),
        ("--tenant octo", vec![2]),
        ("--reason malformed", vec![1]),
        ("--event-id github:72d3162e-cc78-11e3-81ab-4c9367dc0001", vec![1, 3]),
        ("--component clickhouse --tenant acme", vec![3]),
        ("--number 2", vec![2]),
        ("--number 2 --tenant acme", vec![]),
        ("--number 9", vec![]),
        ("--limit 2", vec![1, 2]),
        ("--since 1h", vec![1, 2, 3]),
        ("--since 2999-01-01T00:00:00Z", vec![]),
        ("--until 1h", vec![]),
        ("--until 2999-01-01T00:00:00Z --since 1h", vec![1, 2, 3]),
    ] {
        assert_eq!(server.numbers(filters).await, numbers, "{filters}");
    }
    let counts = server.dead("list --counts --json").await.json();
    let count =
        |component: &str, reason: &str, count: u64| json!({ "component": component, "reason": reason, "count": count });
    assert_eq!(counts, [count("clickhouse", "rejected", 2), count("normalize", "malformed", 1)]);
    let table = server.dead("list --reason malformed").await.said;
    assert!(table.lines().count() == 2 && table.ends_with("put there by hand\n"), "{table}");

    for (wrong, expected) in [("list --reason typo", "possible values"), ("list --since soon", "expected a time")] {
        let refused = server.dead(wrong).await;
        assert_eq!(refused.code, Some(2));
        assert!(refused.complained.contains(expected), "{}", refused.complained);
    }
}

#[tokio::test]
async fn a_dead_letter_is_printed_without_secrets() {
    let server = Server::start().await;
    let mut message = good(1);
    message.headers.insert(header::GITHUB_SIGNATURE, "sha256=5ec2e7");
    message.headers.insert("X-GitHub-Odd", "\u{1b}[31mred\u{202e}");
    server.bury(message, "normalize", "malformed").await;
    let shown = server.dead("show 1").await.said;
    assert!(shown.contains("Headrace-Dead-Reason: malformed\n") && !shown.contains("publicized"), "{shown}");
    assert!(shown.contains("X-Hub-Signature-256: (not shown)\n") && !shown.contains("5ec2e7"), "{shown}");
    assert!(shown.contains("X-GitHub-Odd: \\u{1b}[31mred\\u{202e}\n"), "{shown}");
    assert!(server.dead("show 1 --payload").await.said.contains(r#"{"action":"publicized""#));
    let json = server.dead("show 1 --payload --json").await.json();
    assert_eq!(json[0]["headers"]["X-Hub-Signature-256"], "(not shown)");
    assert!(json[0]["payload"].as_str().unwrap().starts_with(r#"{"action":"publicized""#));
    // The broker counts from 1, and a person may type 0.
    for number in [0, 2] {
        let none = server.dead(&format!("show {number}")).await;
        let told = format!("error: no dead letter {number}, or none that the filters let through\n");
        assert_eq!((none.code, none.complained), (Some(3), told));
    }
}

#[tokio::test]
async fn nothing_changes_without_a_clear_command() {
    let server = Server::start().await;
    // More than fit on a page.
    for number in 1..=300 {
        server.bury(good(number), if number % 2 == 0 { "clickhouse" } else { "normalize" }, "rejected").await;
    }
    let all: Vec<u64> = (1..=300).collect();
    for command in ["redrive --dry-run", "drop --dry-run", "drop --dry-run --yes"] {
        let listed = server.dead(command).await;
        assert_eq!((listed.code, listed.said.lines().count()), (Some(0), 301), "{command}: {}", listed.complained);
        assert_eq!(server.numbers("").await, all, "{command}");
        assert_eq!(server.count(Stream::Raw).await, 0, "{command}");
    }
    for (command, expected) in [
        ("drop", "--yes"),
        ("drop --yes", "--all"),
        ("redrive", "--all"),
        ("redrive --limit 9", "--all"),
        ("redrive --limit 9", "Usage: headrace dead redrive"),
        ("drop --yes --limit 9", "Usage: headrace dead drop"),
        ("list --component *", "expected the name of one component"),
        ("redrive --component Splunk", "expected the name of one component"),
        ("redrive --all --component clickhouse", "cannot be used with"),
        ("redrive --since 1h --until 2h", "expected --since before --until"),
    ] {
        let refused = server.dead(command).await;
        assert_eq!(refused.code, Some(2), "{command}: {}", refused.complained);
        assert!(refused.complained.contains(expected), "{command}: {}", refused.complained);
    }
    for command in ["redrive --number 999", "redrive --number 999 --dry-run", "drop --yes --number 999"] {
        let missing = server.dead(command).await;
        assert_eq!(missing.code, Some(3), "{command}: {}", missing.complained);
        assert!(missing.complained.contains("no dead letter 999"), "{command}: {}", missing.complained);
    }
    assert_eq!(server.dead("drop --yes --number 0").await.code, Some(3));
    assert_eq!(server.numbers("").await, all);

    server.dead("drop --yes --component clickhouse").await.says("150 removed");
    server.dead("drop --yes --number 299").await.says("1 removed");
    let again = server.dead("drop --yes --number 299").await;
    assert_eq!((again.code, again.said.as_str()), (Some(3), "0 removed\n"));
    assert_eq!(server.numbers("").await, (1..299).step_by(2).collect::<Vec<u64>>());
    server.dead("redrive --all --limit 9").await.says("9 sent through again, 0 kept");
    assert_eq!((server.count(Stream::Raw).await, server.count(Stream::Dead).await), (9, 140));
}

#[tokio::test]
async fn whoever_changes_something_is_told_where() {
    let server = Server::start().await;
    for number in 1..=3 {
        server.bury(good(number), "normalize", "malformed").await;
    }
    let (nats, config) = (server.nats.server().url(), server.config.display().to_string());
    for (command, doing, code) in [
        ("redrive --dry-run", "nothing is changed", 0),
        ("drop --all --dry-run", "nothing is changed", 0),
        ("redrive --all --limit 1", "sending dead letters through again", 0),
        ("drop --yes --all --limit 1", "removing dead letters", 0),
        ("drop --yes --number 999", "removing dead letters", 3),
    ] {
        let done = server.dead(command).await;
        let told = format!("{doing} at NATS {nats} (configuration {config}, named by the command line)\n");
        assert_eq!(done.code, Some(code), "{command}: {}", done.complained);
        assert!(done.complained.starts_with(&told), "{command}: {}", done.complained);
    }
    let redriven = server.dead("redrive --number 999 --json").await;
    let told: Value = serde_json::from_str(&redriven.said).unwrap();
    let named = json!({ "nats": nats, "config": config, "variable": null, "data_dir": null, "context": null });
    assert_eq!(told, json!({ "sent": 0, "merged": 0, "kept": 0, "installation": named }));

    // A context that was chosen once, and a person who wants to hear little.
    let contexts = format!("current = 'live'\n[contexts.live]\nconfig = '{config}'\n");
    let contexts_file = server.dir.path().join("contexts.toml");
    std::fs::write(&contexts_file, contexts).unwrap();
    // Contexts that others may write are refused, and the umask may let them.
    std::fs::set_permissions(&contexts_file, Permissions::from_mode(0o600)).unwrap();
    let own = format!("HEADRACE_CONFIG_DIR={}", server.dir.path().display());
    let done = command("/usr/bin/env", [own.as_str(), PROGRAM, "dead", "drop", "--all", "--yes", "--json", "-q"]).await;
    let named = json!({ "nats": nats, "config": config, "variable": null, "data_dir": null, "context": "live" });
    let told: Value = serde_json::from_str(&said(&done)).unwrap();
    assert_eq!((told, complained(&done)), (json!({ "removed": 1, "installation": named }), String::new()));
}

#[tokio::test]
async fn a_variable_that_names_the_server_is_told_or_refused() {
    let server = Server::start().await;
    server.bury(good(1), "normalize", "malformed").await;
    let (nats, dir) = (server.nats.server().url(), server.dir.path());
    let other = dir.join("other.toml");
    std::fs::write(&other, "nats.url = 'nats://127.0.0.1:1'\n").unwrap();
    let variable = format!("HEADRACE__NATS__URL={nats}");
    let run = async |place: [&str; 2], more: &[&str]| {
        let words = ["-C", dir.to_str().unwrap(), variable.as_str(), PROGRAM, "dead", "drop", "--all", "--yes"];
        command("/usr/bin/env", words.iter().chain(&place).chain(more)).await
    };
    let refused = run(["--data-dir", "data"], &[]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let told = "found HEADRACE__NATS__URL in the environment and --data-dir; unset the variable";
    assert!(complained(&refused).contains(told), "{refused:?}");
    assert_eq!(server.numbers("").await, [1], "it was left");

    // A variable overrides a configuration, and whoever does it is told so.
    let place = ["--config", "other.toml"];
    let listed = run(place, &["--dry-run"]).await;
    let told = format!(
        "nothing is changed at NATS {nats} (configuration {}, named by the command line; nats.url from \
         HEADRACE__NATS__URL)\n",
        other.canonicalize().unwrap().display()
    );
    assert_eq!(listed.status.code(), Some(0), "{listed:?}");
    assert!(complained(&listed).starts_with(&told), "{listed:?}");
    let dropped = run(place, &["--json"]).await;
    let done: Value = serde_json::from_str(&said(&dropped)).unwrap();
    let installation = &done["installation"];
    assert_eq!((&done["removed"], &installation["variable"]), (&json!(1), &json!("HEADRACE__NATS__URL")), "{done}");
}

#[tokio::test]
async fn a_repeated_redrive_finishes_an_interrupted_one_and_publishes_nothing_twice() {
    let server = Server::start().await;
    let number = server.bury(good(1), "normalize", "malformed").await;
    let again = server.bury(good(1), "normalize", "malformed").await;
    // The interrupted redrive published the message and did not remove the dead letter.
    let mut redriven = good(1);
    let dead_letter = server.nats.jetstream().get_stream("DEAD").await.unwrap().get_raw_message(number).await.unwrap();
    let died_at = dead_letter.time.unix_timestamp_nanos() / 1_000;
    redriven.message_id = format!("{}/redrive/{number}@{died_at}", RawDelivery::sample(1).id);
    server.nats.publish(redriven).await;
    server.dead(&format!("redrive --number {number}")).await.says("1 sent through again, 0 kept");
    assert_eq!((server.count(Stream::Raw).await, server.numbers("").await), (1, vec![again]));
}

#[tokio::test]
async fn a_message_that_several_components_gave_up_is_sent_through_once() {
    let server = Server::start().await;
    let (one, two) = (RawDelivery::sample(1), RawDelivery::sample(2));
    for component in ["normalize", "clickhouse-raw"] {
        server.bury(one.message(), component, "malformed").await;
        server.bury(two.message(), component, "malformed").await;
    }
    // The same delivery with another body is another message.
    let other = Outgoing { payload: "{}".into(), ..one.message() };
    server.bury(other, "normalize", "malformed").await;
    server.dead("redrive --all").await.says("3 sent through again, 2 more were of the same messages, 0 kept");
    assert_eq!((server.count(Stream::Raw).await, server.numbers("").await.len()), (3, 0));
    // The next run knows nothing of this one, so that nothing depends on what has happened to its messages since.
    server.bury(one.message(), "clickhouse-raw", "malformed").await;
    server.dead("redrive --all").await.says("1 sent through again, 0 kept");
    assert_eq!((server.count(Stream::Raw).await, server.numbers("").await.len()), (4, 0));
}

#[tokio::test]
async fn a_message_that_is_redriven_for_one_component_leaves_no_dead_letter_of_another() {
    let server = Server::start().await;
    let (one, two) = (RawDelivery::sample(1), RawDelivery::sample(2));
    for message in [&one, &two] {
        for component in ["normalize", "clickhouse-raw"] {
            server.bury(message.message(), component, "malformed").await;
        }
    }
    // The same delivery with another body is another message.
    let other = server.bury(Outgoing { payload: "{}".into(), ..one.message() }, "clickhouse-raw", "malformed").await;
    let told = "1 sent through again, 1 more were of the same messages, 0 kept";
    server.dead("redrive --component normalize --limit 1").await.says(told);
    assert_eq!(server.numbers("").await, [3, 4, other]);
    server.dead("redrive --number 4").await.says(told);
    assert_eq!((server.count(Stream::Raw).await, server.numbers("").await), (2, vec![other]));
}

#[tokio::test]
async fn a_reader_that_the_broker_forgot_goes_on_where_it_was() {
    const COUNT: u64 = 300;
    let nats = Nats::start().await;
    for _ in 0..COUNT {
        bury(nats.jetstream(), good(1), "normalize", "malformed").await;
    }
    let dead_letters = DeadLetters::open(&nats.broker().await).await.unwrap();
    let mut reader = dead_letters.read(Filter::default()).await.unwrap();
    let mut read: Vec<u64> = Vec::new();
    while let Some(page) = reader.page().await.unwrap() {
        read.extend(page.iter().map(|dead_letter| dead_letter.sequence));
        let stream = nats.jetstream().get_stream(Stream::Dead.name()).await.unwrap();
        let readers: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
        assert_eq!(readers.len(), 1, "{readers:?}");
        stream.delete_consumer(&readers[0]).await.unwrap();
    }
    assert_eq!(read, (1..=COUNT).collect::<Vec<_>>());
}

#[tokio::test]
async fn dead_letters_that_cannot_be_redriven_are_kept_and_reported() {
    let server = Server::start().await;
    let mut elsewhere = good(1);
    elsewhere.subject = "$JS.API.STREAM.DELETE.RAW x".to_owned();
    server.bury(elsewhere, "normalize", "malformed").await;
    let mut lost = good(2);
    lost.headers.insert(header::BODY_OBJECT, "github:gone");
    server.bury(lost, "normalize", "body_lost").await;
    server.bury(good(3), "normalize", "malformed").await;
    let done = server.dead("redrive --all").await;
    assert_eq!((done.code, done.said.as_str()), (Some(3), "1 sent through again, 2 kept\n"));
    assert!(done.complained.contains("1 is kept: expected the subject that it had"), "{}", done.complained);
    assert!(done.complained.contains("2 is kept: its body `github:gone` is no longer"), "{}", done.complained);
    assert_eq!((server.numbers("").await, server.count(Stream::Raw).await), (vec![1, 2], 1));
}

#[tokio::test]
async fn a_body_with_a_damaged_description_is_dead_lettered() {
    let server = Server::start().await;
    // The subject holds the object's name in Base64.
    let description = server.nats.jetstream().publish("$O.bodies.M.Z2l0aHViOm5vbnNlbnNl", "{".into());
    description.await.unwrap().await.unwrap();
    let mut lost = good(1);
    lost.headers.insert(header::BODY_OBJECT, "github:nonsense");
    server.nats.publish(lost).await;
    let pipeline = Launch::run(PROGRAM, "pipeline", &server.config, server.dir.path()).start().await;
    let dead_letter = async || server.dead("list --json").await.json().pop();
    let dead_letter =
        poll::until("it is dead-lettered", CEILING, dead_letter).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (&dead_letter["component"], &dead_letter["reason"]),
        (&json!("normalize"), &json!("body_lost")),
        "{dead_letter}"
    );
    pipeline.stop().await;
}

#[tokio::test]
async fn redriven_poison_comes_back_and_a_good_event_goes_on_once() {
    let server = Server::start().await;
    let pipeline = Launch::run(PROGRAM, "pipeline", &server.config, server.dir.path()).start().await;
    let mut poison = good(1);
    poison.payload = "no JSON".into();
    server.nats.publish(poison).await;
    let comes = async |last: u64| {
        let condition = async || (server.numbers("").await == [last]).then_some(());
        poll::until("the dead letter comes", CEILING, condition).await.unwrap_or_else(|error| panic!("{error}"));
    };
    comes(1).await;
    let dead_letter = server.dead("list --json").await.json().remove(0);
    assert_eq!((&dead_letter["component"], &dead_letter["reason"]), (&json!("normalize"), &json!("malformed")));
    assert_eq!((&dead_letter["attempts"], &dead_letter["redrives"]), (&json!(1), &json!(0)));
    for time in 1..3 {
        server.dead("redrive --all").await.says("1 sent through again, 0 kept");
        comes(time + 1).await;
        let dead_letter = server.dead("list --json").await.json().remove(0);
        assert_eq!(
            (&dead_letter["reason"], &dead_letter["subject"]),
            (&json!("malformed"), &json!("raw.acme.github.repository"))
        );
        assert_eq!(
            (&dead_letter["attempts"], &dead_letter["redrives"]),
            (&json!(time + 1), &json!(time)),
            "its history"
        );
    }

    for _ in 0..2 {
        server.bury(good(2), "normalize", "exhausted").await;
        server.dead("redrive --component normalize --reason exhausted").await.says("1 sent through again, 0 kept");
        server.nats.settled(Stream::Raw, "normalize").await;
        assert_eq!(server.count(Stream::Events).await, 1);
    }
    pipeline.stop().await;
}
