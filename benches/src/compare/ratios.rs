//! What the values of several rounds say about two builds.

use serde::Serialize;

use crate::figures::round;

/// Two-sided 95 % quantiles of Student's t distribution, by degrees of freedom from 1 on.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// What pairs of values say about what was changed between the two of each pair.
#[derive(Debug, Serialize)]
pub(crate) struct Ratios {
    /// The changed value divided by the other one, pair by pair.
    ratios: Vec<f64>,
    median_ratio: f64,
    min_ratio: f64,
    max_ratio: f64,
    /// The geometric mean of the ratios.
    pub(crate) mean_ratio: f64,
    /// Where the ratio lies with 95 % confidence: Student's t on the logarithms of the ratios. None of one pair, and of
    /// values that are not positive.
    pub(crate) interval_95: Option<[f64; 2]>,
}

impl Ratios {
    /// Divides each value of `changed` by its partner in `base`.
    pub(crate) fn of(base: &[f64], changed: &[f64]) -> Self {
        let ratios: Vec<f64> = changed.iter().zip(base).map(|(changed, base)| changed / base).collect();
        let mut sorted = ratios.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        Self {
            median_ratio: round(median(&sorted)),
            min_ratio: round(sorted.first().copied().unwrap_or(f64::NAN)),
            max_ratio: round(sorted.last().copied().unwrap_or(f64::NAN)),
            mean_ratio: round(mean_logarithm(&ratios).exp()),
            interval_95: interval(&ratios).map(|bounds| bounds.map(round)),
            ratios: ratios.into_iter().map(round).collect(),
        }
    }
}

/// One figure of both builds.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    /// The other commit's values, by round.
    with: Vec<f64>,
    /// This commit's.
    this: Vec<f64>,
    /// This commit's divided by the other's.
    #[serde(flatten)]
    ratios: Ratios,
}

/// Compares the values of each pair.
pub(super) fn compare(with: Vec<f64>, this: Vec<f64>) -> Compared {
    Compared { ratios: Ratios::of(&with, &this), with, this }
}

/// Of an even count, the mean of the middle two.
fn median(sorted: &[f64]) -> f64 {
    match sorted {
        [] => f64::NAN,
        _ => f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]),
    }
}

fn mean_logarithm(ratios: &[f64]) -> f64 {
    ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64
}

fn interval(ratios: &[f64]) -> Option<[f64; 2]> {
    let freedom = ratios.len().checked_sub(1).filter(|freedom| *freedom > 0)?;
    if ratios.iter().any(|ratio| !ratio.is_finite() || *ratio <= 0.0) {
        return None;
    }
    let mean = mean_logarithm(ratios);
    let variance = ratios.iter().map(|ratio| (ratio.ln() - mean).powi(2)).sum::<f64>() / freedom as f64;
    // Beyond the table, the normal distribution is close enough.
    let t = T_95.get(freedom - 1).copied().unwrap_or(2.0);
    let half = t * (variance / ratios.len() as f64).sqrt();
    Some([(mean - half).exp(), (mean + half).exp()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let compared = Ratios::of(&[100.0, 50.0, 200.0], &[110.0, 60.0, 260.0]);
        assert_eq!(compared.ratios, [1.1, 1.2, 1.3]);
        assert_eq!((compared.median_ratio, compared.min_ratio, compared.max_ratio), (1.2, 1.1, 1.3));
        // The third root of 1.716.
        assert_eq!(compared.mean_ratio, 1.1972);
        // By hand: mean of the logarithms 0.180000, deviation 0.083600, t 4.303.
        let [low, high] = compared.interval_95.unwrap();
        assert!((low - 0.9727).abs() < 5e-4 && (high - 1.4735).abs() < 5e-4, "{low} {high}");
        assert_eq!(Ratios::of(&[1.0, 1.0], &[1.0, 2.0]).median_ratio, 1.5);
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        assert!(Ratios::of(&[1.0], &[2.0]).interval_95.is_none());
        assert!(Ratios::of(&[1.0, 0.0], &[0.0, 1.0]).interval_95.is_none());
        let same = Ratios::of(&[2.0; 4], &[2.0; 4]);
        assert_eq!(same.interval_95, Some([1.0, 1.0]));
    }
}
