//! Compares what was answered with what is stored: sets of ids and hashes, not counts alone.

use std::collections::HashMap;

use super::ledger::{Answer, Ledger};
use super::report::Report;
use super::world::World;

pub(super) async fn verify(world: &World, ledger: &Ledger, report: &mut Report) -> anyhow::Result<()> {
    let sent = ledger.entries();
    let events: HashMap<String, u64> =
        world.rows("SELECT id, count() FROM events GROUP BY id").await?.into_iter().collect();
    let sql = "SELECT id, count(), any(lower(hex(SHA256(body)))) FROM raw GROUP BY id";
    let raw: Vec<(String, u64, String)> = world.rows(sql).await?;
    let raw: HashMap<String, (u64, String)> = raw.into_iter().map(|(id, count, hash)| (id, (count, hash))).collect();
    report.sent = sent.len();
    report.sent_rate = (sent.len() as f64 / report.seconds.max(1.0)).round();
    report.rows = events.len();
    report.dead = world.dead_letters().await?;
    for (id, entry) in &sent {
        if entry.answer == Answer::Stored {
            report.answered += 1;
            for (table, there) in [("events", events.contains_key(id)), ("raw", raw.contains_key(id))] {
                if !there {
                    report.lost += 1;
                    report.example(&format!("not in {table}"), id);
                }
            }
        }
        if raw.get(id).is_some_and(|(_, hash)| *hash != entry.hash) {
            report.altered += 1;
            report.example("altered", id);
        }
    }
    if let Some(receivers) = world.receivers() {
        receivers.verify(ledger, report);
    }
    let counts = events.iter().map(|(id, count)| ("events", id, *count));
    let counts = counts.chain(raw.iter().map(|(id, (count, _))| ("raw", id, *count)));
    for (table, id, count) in counts {
        if count > 1 {
            report.twice += 1;
            report.example(&format!("{count} rows in {table}"), id);
        }
        if !sent.contains_key(id) {
            anyhow::bail!("{id} is in {table} and was never sent");
        }
    }
    Ok(())
}
