//! A stage is the same code in a fused and in a cut chain.

use headrace_tests::examples::{self, Example};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::Launch;
use headrace_tests::product::stored::Stored;
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::PROGRAM;

/// Ways to cut the chain; the first is the default.
const CHAINS: [&str; 3] = [
    r#"[["normalize", "enrich", "score"]]"#,
    r#"[["normalize"], ["enrich", "score"]]"#,
    r#"[["normalize"], ["enrich"], ["score"]]"#,
];

#[tokio::test]
async fn a_cut_chain_makes_the_same_rows_as_a_fused_one() {
    let examples: Vec<(String, Example)> = examples::all().await.into_iter().map(|example| (guid(), example)).collect();
    let mut fused = None;
    for chains in CHAINS {
        let rows = rows_by(chains, &examples).await;
        assert_eq!(rows.len(), examples.len(), "{chains}");
        let fused = fused.get_or_insert_with(|| rows.clone());
        for (row, expected) in rows.iter().zip(&*fused) {
            assert_eq!(row, expected, "{chains}");
        }
    }
}

/// The rows that `chains` makes of the examples, without what depends on the moment.
async fn rows_by(chains: &str, examples: &[(String, Example)]) -> Vec<Map<String, Value>> {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, format!("[pipeline]\nchains = {chains}\n")).unwrap();
    let up = Launch::up(PROGRAM, dir.path()).argument("--config").argument(&config).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    for (guid, example) in examples {
        hook.store(&example.kind, guid, example.body.clone()).await;
    }
    stored.settled().await;
    let columns = "* EXCEPT (inserted_at, received_at, occurred_at, raw_sequence)";
    let rows = stored.objects(&format!("SELECT {columns} FROM events ORDER BY id")).await;
    up.stop().await;
    rows
}
