//! A stage is the same code in a fused and in a cut chain, so all ways to cut the chain make the same rows.

use headrace_tests::examples::{self, Example};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::stored::Stored;
use serde_json::{Map, Value};
use tempfile::TempDir;

use super::with_short_limits;

/// The ways to cut the chain. The first is the default.
const CHAINS: [&str; 3] = [
    r#"[["normalize", "enrich", "score"]]"#,
    r#"[["normalize"], ["enrich", "score"]]"#,
    r#"[["normalize"], ["enrich"], ["score"]]"#,
];

#[tokio::test]
async fn a_cut_chain_makes_the_same_rows_as_a_fused_one() {
    let examples: Vec<(String, Example)> = examples::all().await.into_iter().map(|example| (guid(), example)).collect();
    // At the same time, because most of it is waiting.
    let (fused, in_two, in_three) =
        tokio::join!(rows_of(CHAINS[0], &examples), rows_of(CHAINS[1], &examples), rows_of(CHAINS[2], &examples));
    assert_eq!(fused.len(), examples.len());
    for (chains, rows) in [(CHAINS[1], in_two), (CHAINS[2], in_three)] {
        assert_eq!(rows.len(), fused.len(), "{chains}");
        for (row, expected) in rows.iter().zip(&fused) {
            assert_eq!(row, expected, "{chains}");
        }
    }
}

/// The rows that `chains` makes of the examples, without the columns that depend on the moment.
async fn rows_of(chains: &str, examples: &[(String, Example)]) -> Vec<Map<String, Value>> {
    let dir = TempDir::new().unwrap();
    let up = with_short_limits(&dir, &format!("pipeline.chains = {chains}")).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let deliveries = examples.iter().map(|(guid, Example { kind, body })| (kind.as_str(), guid.as_str(), body.clone()));
    hook.store_all(deliveries).await;
    stored.settled().await;
    let columns = "* EXCEPT (inserted_at, stored_at, received_at, occurred_at, raw_sequence)";
    let rows = stored.objects(&format!("SELECT {columns} FROM events ORDER BY id")).await;
    up.stop().await;
    rows
}
