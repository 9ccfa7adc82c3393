//! `chain --turns`: what it costs that a share of the deliveries is of an earlier time.
//!
//! Loads without and with such deliveries alternate over the same servers and the same rows: without, with, with,
//! without. So neither another prefill nor a steady drift, such as that of merges, looks like a cost. A load begins when
//! the one before it is in the tables, and its rows are counted from then.

use anyhow::Context as _;
use serde::Serialize;

use super::{Figures, Measured, Site, Wanted, miscounted};
use crate::compare::{Ratios, alternate};
use crate::figures::round;
use crate::tables::Rows;

/// What all loads show.
#[derive(Debug, Serialize)]
pub(super) struct InTurn {
    /// The share of the rate that such deliveries cost: what `rows_rate.mean_ratio` lacks of 1.
    suspects_cost: f64,
    /// Where that lies with 95 % confidence.
    suspects_cost_95: Option<[f64; 2]>,
    rows_rate: Compared,
    own_cpu_us_per_event: Compared,
    clickhouse_cpu_us_per_event: Compared,
    /// The rows of all loads, counted again after the last one: a row that came twice may have come late.
    events: Rows,
    raw: Rows,
    turns: Vec<Turn>,
}

/// One load.
#[derive(Debug, Serialize)]
struct Turn {
    /// The share of its deliveries that were of an earlier time.
    suspects: f64,
    seed: u64,
    #[serde(flatten)]
    figures: Figures,
}

/// A figure of both loads of each pair. The ratios are of the value with to that without.
#[derive(Debug, Serialize)]
struct Compared {
    without: Vec<f64>,
    with: Vec<f64>,
    #[serde(flatten)]
    ratios: Ratios,
}

impl Compared {
    /// Takes the loads' values in their order, each with its share of deliveries of an earlier time.
    fn of(values: impl Iterator<Item = (f64, f64)>) -> Self {
        let (with, without): (Vec<_>, Vec<_>) = values.partition(|(suspects, _)| *suspects > 0.0);
        let values = |side: Vec<(f64, f64)>| side.into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        let (without, with) = (values(without), values(with));
        Self { ratios: Ratios::of(&without, &with), without, with }
    }
}

/// Makes `pairs` pairs of loads. Returns what they show, and what is wrong with the counts.
pub(super) async fn run(site: &Site<'_>, pairs: u32) -> anyhow::Result<(InTurn, Vec<String>)> {
    let (mut turns, mut problems, mut began) = (Vec::new(), Vec::new(), None);
    for (number, suspects) in (1..).zip(alternate(pairs, 0.0, site.options.suspects)) {
        let wanted = Wanted { number, suspects };
        let measured = site.measure(wanted).await.with_context(|| format!("turn {number} failed"))?;
        let Measured { figures, since, problems: found } = measured;
        eprintln!("turn {number} of {}: suspects {suspects}, {} rows a second", 2 * pairs, figures.rows_rate);
        began.get_or_insert(since);
        problems.extend(found.into_iter().map(|problem| format!("turn {number}: {problem}")));
        turns.push(Turn { suspects, seed: site.seed(wanted), figures });
    }
    let began = began.context("there was no turn")?;
    let events = site.tables.count_since("events", began).await?;
    let raw = site.tables.count_since("raw", began).await?;
    let rows = turns.iter().map(|turn| turn.figures.accepted - turn.figures.repeated).sum();
    problems.extend(miscounted(rows, &events, &raw).map(|problem| format!("all turns: {problem}")));
    Ok((in_turn(turns, events, raw), problems))
}

fn in_turn(turns: Vec<Turn>, events: Rows, raw: Rows) -> InTurn {
    let compared =
        |figure: fn(&Figures) -> f64| Compared::of(turns.iter().map(|turn| (turn.suspects, figure(&turn.figures))));
    let rows_rate = compared(|figures| figures.rows_rate);
    InTurn {
        suspects_cost: round(1.0 - rows_rate.ratios.mean_ratio),
        suspects_cost_95: rows_rate.ratios.interval_95.map(|[low, high]| [round(1.0 - high), round(1.0 - low)]),
        own_cpu_us_per_event: compared(|figures| figures.own_cpu_us_per_event),
        clickhouse_cpu_us_per_event: compared(|figures| {
            figures.processes.get("clickhouse").map_or(f64::NAN, |cost| cost.cpu_us_per_event)
        }),
        rows_rate,
        events,
        raw,
        turns,
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;

    #[test]
    fn each_load_is_compared_with_the_other_of_its_pair() {
        let shares = alternate(3, 0.0, 0.05);
        let compared = Compared::of(iter::zip(shares, [100.0, 90.0, 80.0, 200.0, 50.0, 45.0]));
        assert_eq!((compared.without, compared.with), (vec![100.0, 200.0, 50.0], vec![90.0, 80.0, 45.0]));
        let ratios = serde_json::to_value(compared.ratios).unwrap();
        assert_eq!(ratios["ratios"], serde_json::json!([0.9, 0.4, 0.9]));
        // The third root of 0.324.
        assert_eq!(ratios["mean_ratio"], 0.6868);
    }
}
