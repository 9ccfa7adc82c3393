//! Compares what was answered with what is stored. It must compare sets of ids and hashes, not only counts.

use std::collections::HashMap;

use super::history::{Entry, History, POSTED};
use super::report::Report;
use super::testbed::Testbed;

/// The hash that ClickHouse computes from a body. If the row holds another hash, this is another text.
const HASH: &str = "if(sha256 = lower(hex(SHA256(body))), sha256, 'another than its row tells')";

pub(super) async fn verify(testbed: &Testbed, history: &History, report: &mut Report) -> anyhow::Result<()> {
    let sent = history.entries();
    let events: Vec<(String, u64, String)> =
        testbed.rows("SELECT id, count(), any(raw_sha256) FROM events GROUP BY id").await?;
    let events: HashMap<String, (u64, String)> =
        events.into_iter().map(|(id, count, hash)| (id, (count, hash))).collect();
    let raw: Vec<(String, String, u64)> =
        testbed.rows(&format!("SELECT id, {HASH} AS hash, count() FROM raw GROUP BY id, hash")).await?;
    let raw: HashMap<(String, String), u64> = raw.into_iter().map(|(id, hash, count)| ((id, hash), count)).collect();
    report.sent = sent.len();
    report.shared = sent.values().filter(|entry| entry.bodies.len() > 1).count();
    report.posted = sent.keys().filter(|id| id.starts_with(POSTED)).count();
    let delivered = sent.len() - report.posted - usize::try_from(report.lines)?;
    report.sent_rate = (delivered as f64 / report.seconds.max(1.0)).round();
    report.rows = events.len();
    report.dead = testbed.dead_letters().await?;
    for (id, entry) in sent.iter().filter(|(_, entry)| entry.is_stored()) {
        report.answered += 1;
        if !events.contains_key(id) {
            report.lost += 1;
            report.example("not in events", id);
        }
        for hash in entry.stored() {
            if !raw.contains_key(&(id.clone(), hash.clone())) {
                report.lost += 1;
                report.example("not in raw", &format!("{id} with the body {hash}"));
            }
        }
    }
    if let Some(receivers) = testbed.receivers() {
        receivers.verify(history, report);
    }
    let counts = events.iter().map(|(id, (count, hash))| ("events", id, hash, *count));
    let counts = counts.chain(raw.iter().map(|((id, hash), count)| ("raw", id, hash, *count)));
    for (table, id, hash, count) in counts {
        match sent.get(id).map(|entry: &Entry| entry.has(hash)) {
            None => anyhow::bail!("{id} is in {table} and was never sent"),
            Some(true) => {}
            Some(false) => {
                report.altered += 1;
                report.example(&format!("altered in {table}"), id);
            }
        }
        if count > 1 {
            report.twice += 1;
            report.example(&format!("{count} rows in {table}"), &format!("{id} with the body {hash}"));
        }
    }
    Ok(())
}
