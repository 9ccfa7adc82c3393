//! Measures the memory of processes over time. It reads `/proc` and disturbs nothing.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Serialize;

use crate::figures::round;

/// The processes to read, by name.
pub(crate) struct Resident(Vec<(String, u32)>);

/// How the memory of a process changed over time.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Growth {
    start_mb: f64,
    end_mb: f64,
    max_mb: f64,
    /// The slope of the least-squares line through the second half.
    slope_mb_per_min: f64,
}

impl Resident {
    pub(crate) fn new(processes: Vec<(String, u32)>) -> Self {
        Self(processes)
    }

    /// The resident memory of each process (`VmRSS`), in MB of 10^6 bytes.
    pub(crate) fn read(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        let read = |(name, pid): &(String, u32)| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.with_context(|| format!("cannot look at {name} (pid {pid}); did it end?"))?;
            let kib = status_kib(&status, "VmRSS").with_context(|| format!("expected a line VmRSS of {name}"))?;
            Ok((name.clone(), round((kib << 10) as f64 / 1e6)))
        };
        self.0.iter().map(read).collect()
    }
}

impl Growth {
    /// From points of minutes and megabytes, in order. `None` when there are no points.
    pub(crate) fn of(points: &[(f64, f64)]) -> Option<Self> {
        let ((_, start_mb), (_, end_mb)) = (*points.first()?, *points.last()?);
        let max_mb = points.iter().map(|(_, megabytes)| *megabytes).fold(0.0, f64::max);
        let slope_mb_per_min = round(slope(&points[points.len() / 2..]));
        Some(Self { start_mb, end_mb, max_mb, slope_mb_per_min })
    }
}

fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let spread = points.iter().map(|(x, _)| (x - x_mean).powi(2)).sum::<f64>();
    let shared = points.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum::<f64>();
    if spread > 0.0 { shared / spread } else { 0.0 }
}

/// A size in `/proc/<pid>/status`, by the name that it has there, in KiB.
pub(crate) fn status_kib(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_second_half() {
        let points = [(0.0, 100.0), (1.0, 300.0), (2.0, 200.0), (3.0, 202.0), (4.0, 204.0)];
        let growth = Growth { start_mb: 100.0, end_mb: 204.0, max_mb: 300.0, slope_mb_per_min: 2.0 };
        assert_eq!(Growth::of(&points), Some(growth));
        assert_eq!(Growth::of(&points[..1]).map(|growth| growth.slope_mb_per_min), Some(0.0));
        assert_eq!(Growth::of(&[]), None);
    }
}
