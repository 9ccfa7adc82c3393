//! Figures in the form that the results have.

/// Rounds to four decimal places. More is noise to a reader.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
