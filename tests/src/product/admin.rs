//! What a process reports about itself: `/readyz`, `/metrics`.

/// Sends a GET and returns status and text.
///
/// # Panics
/// When there is no answer.
pub async fn get(url: &str) -> (u16, String) {
    let response = reqwest::get(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    let status = response.status().as_u16();
    (status, response.text().await.unwrap_or_else(|error| panic!("{url}: {error}")))
}

/// The value of a series in Prometheus' text format. Name the series with its labels, as that text does:
/// `headrace_healthy{component="splunk"}`.
#[must_use]
pub fn sample(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
