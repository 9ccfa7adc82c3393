//! A replay never computes rows with a configuration that nobody chose. Without `--config` it uses that of `up`.

use headrace_tests::product::process::{Launch, command};
use tempfile::TempDir;

use super::{CLICKHOUSE, Done, PROGRAM, Testbed};

/// A rule of one's own. It matches the deliveries of [`super::publicized`].
const RULE: &str = "title: Anything made public\nid: 5d6f1f0a-3c53-4f0c-9d0a-2f9f0e6d4c11\nstatus: stable\n\
                    description: A rule of one's own.\nauthor: us\ndate: 2026-01-01\n\
                    logsource:\n  product: github\n  service: audit\n\
                    detection:\n  selection:\n    action: repo.access\n    visibility: public\n  condition: selection\n\
                    level: high\n";
/// The rule's id.
const OWN: &str = "5d6f1f0a-3c53-4f0c-9d0a-2f9f0e6d4c11";

/// An asset list as the value of an environment variable.
const ASSETS: &str = "[{ name = 'acme', repository = 'acme/*', owner = 'payments' }]";

#[tokio::test]
async fn without_a_config_the_replay_uses_that_of_up() {
    let dir = TempDir::new().unwrap();
    // The path is relative to the directory in which `up` is started. The replays start elsewhere.
    let rules = dir.path().join("rules");
    std::fs::create_dir(&rules).unwrap();
    std::fs::write(rules.join("own.yml"), RULE).unwrap();
    let text = format!("{CLICKHOUSE}[pipeline.score]\nrules_dirs = ['rules']\n");
    std::fs::write(dir.path().join("live.toml"), &text).unwrap();
    let launch = Launch::up(PROGRAM, dir.path()).within(dir.path()).argument("--config").argument("live.toml");
    let testbed = Testbed::of(dir, launch.set("HEADRACE__PIPELINE__ENRICH__ASSETS", ASSETS)).await;
    testbed.publicize("acme", 5).await;
    let but = "* EXCEPT inserted_at";
    let before = testbed.dump(but, "events").await;
    let computed = format!("SELECT countIf(asset_owner = 'payments' AND has(rules, '{OWN}')) FROM events");
    assert_eq!(testbed.value(&computed).await, 5, "{before:#?}");

    let replay = async |more: &[&str]| {
        let data = testbed.dir.path().join("data");
        let place = ["replay", "--since", "1h", "--data-dir", data.to_str().unwrap()];
        Done::of(command(PROGRAM, place.iter().chain(more)).await)
    };
    let done = replay(&[]).await;
    done.says("5 deliveries replayed into events, 0 bodies added to raw");
    let named = "live.toml as it was then, with HEADRACE__PIPELINE__ENRICH__ASSETS";
    assert!(done.complained.contains(named), "{}", done.complained);
    assert_eq!(testbed.dump(but, "events").await, before);

    // The running `up` still has the old configuration, so that one counts unless another is named.
    let config = testbed.dir.path().join("live.toml");
    std::fs::write(&config, CLICKHOUSE).unwrap();
    let done = replay(&["--tenant", "acme"]).await;
    done.says("5 deliveries replayed into events, 0 bodies added to raw");
    assert!(done.complained.contains("the file has changed since"), "{}", done.complained);
    assert_eq!(testbed.dump(but, "events").await, before);
    replay(&["--config", config.to_str().unwrap()])
        .await
        .says("5 deliveries replayed into events, 0 bodies added to raw");
    assert_eq!(testbed.value(&computed).await, 0, "the named configuration has no rule");
    testbed.up.stop().await;
}

#[tokio::test]
async fn without_an_earlier_up_the_configuration_must_be_named() {
    let dir = TempDir::new().unwrap();
    let arguments = ["replay", "--since", "1h", "--data-dir", dir.path().to_str().unwrap()];
    let refused = Done::of(command(PROGRAM, arguments).await);
    refused.complains(2, "Name it with --config (or --defaults if `up` ran without one)");
}
