//! Figures as results hold them.

/// Four digits behind the point: more is noise to a reader.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
