//! What GitHub's answers mean. Pure: no clock, no I/O.
//!
//! The source for rate limits is GitHub's "Rate limits for the REST API". GitHub reports the primary limit in
//! `x-ratelimit-*`. It reports a secondary limit by 403 or 429, with `retry-after` or without. Without it, a client
//! must wait at least a minute.

use std::time::Duration;

use anyhow::anyhow;
use axum::http::{HeaderMap, StatusCode, header};
use headrace_schemas::time::Timestamp;
use serde::Deserialize;

/// How long to wait when GitHub does not say.
const SECONDARY_WAIT: Duration = Duration::from_secs(60);
/// GitHub renews the primary limit each hour.
const WAIT_MAX: Duration = Duration::from_secs(3_600);
/// We leave one part in this many of the primary limit to others who use the same token.
const SPARED_PART: u64 = 10;
/// How much of GitHub's message is shown, in characters.
const MESSAGE_CHARS: usize = 200;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum ApiError {
    /// A rate limit: the next call must wait for this long.
    Limited(Duration),
    /// GitHub is away or failing, and a later call may work. This request may have had its effect.
    Away(anyhow::Error),
    /// GitHub will not do this, with this status and message.
    Refused(StatusCode, String),
    /// A person must act.
    Broken(anyhow::Error),
}

/// What the headers of an answer say about the rate limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RateLimit {
    retry_after: Option<Duration>,
    limit: Option<u64>,
    pub(super) remaining: Option<u64>,
    reset_in: Duration,
}

impl RateLimit {
    pub(super) fn read(headers: &HeaderMap, now: Timestamp) -> Self {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
        let reset = number("x-ratelimit-reset").and_then(|seconds| i64::try_from(seconds).ok());
        let reset_in = reset.map_or(SECONDARY_WAIT, |reset| Timestamp::from_seconds(reset).since(now));
        Self {
            retry_after: number(header::RETRY_AFTER.as_str()).map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX)),
            limit: number("x-ratelimit-limit"),
            remaining: number("x-ratelimit-remaining"),
            // One second more, because GitHub's clock may differ from ours.
            reset_in: (reset_in + Duration::from_secs(1)).min(WAIT_MAX),
        }
    }

    /// How long to wait so that others who use the same token keep their part of the limit.
    pub(super) fn wait_to_spare(&self) -> Option<Duration> {
        let spared = self.limit? / SPARED_PART;
        (self.remaining? < spared).then_some(self.reset_in)
    }
}

/// The form of GitHub's error bodies.
#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: String,
    #[serde(default)]
    documentation_url: Option<String>,
}

/// Classifies an answer.
pub(super) fn classify(status: StatusCode, rate_limit: &RateLimit, body: &[u8]) -> Result<(), ApiError> {
    if status.is_success() {
        return Ok(());
    }
    let ErrorBody { message, documentation_url } = serde_json::from_slice(body).unwrap_or_default();
    let message: String = message.chars().take(MESSAGE_CHARS).collect();
    let broken = |what: &str| Err(ApiError::Broken(anyhow!("{what}; GitHub answers {status}: {message}")));
    // When a secondary limit has no header, only the link to GitHub's page reveals it.
    let is_limit_page = documentation_url.is_some_and(|url| url.contains("rate-limit"));
    match status {
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
            if let Some(wait) = rate_limit.retry_after {
                return Err(ApiError::Limited(wait));
            }
            if rate_limit.remaining == Some(0) {
                return Err(ApiError::Limited(rate_limit.reset_in));
            }
            if is_limit_page || status == StatusCode::TOO_MANY_REQUESTS {
                return Err(ApiError::Limited(SECONDARY_WAIT));
            }
            broken("the token or App lacks the permission `Webhooks: read and write`")
        }
        StatusCode::UNAUTHORIZED => broken("the token or the App's key is not accepted; it may have expired"),
        _ if status.is_redirection() => broken("the organization or repository was renamed; set its new name"),
        StatusCode::REQUEST_TIMEOUT => Err(ApiError::Away(anyhow!("GitHub answers {status}: {message}"))),
        _ if status.is_client_error() => Err(ApiError::Refused(status, message)),
        _ => Err(ApiError::Away(anyhow!("GitHub answers {status}: {message}"))),
    }
}

/// The cursor of the next page, from `Link: <https://…?per_page=100&cursor=v1_1>; rel="next"`. We take only the
/// cursor, because a link to another host must not get our credentials.
pub(super) fn next_cursor(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|value| value.split(',')).find(|link| link.contains("rel=\"next\""))?;
    let url = next.split_once('<')?.1.split_once('>')?.0;
    let cursor = url.split_once('?')?.1.split('&').find_map(|pair| pair.strip_prefix("cursor="))?;
    (!cursor.is_empty()).then(|| cursor.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    /// A word for what an answer means, and the wait in seconds.
    fn meaning(status: u16, pairs: &[(&'static str, &'static str)], body: &str) -> (&'static str, u64) {
        let rate_limit = RateLimit::read(&headers(pairs), Timestamp::from_seconds(1_000));
        match classify(StatusCode::from_u16(status).unwrap(), &rate_limit, body.as_bytes()) {
            Ok(()) => ("done", 0),
            Err(ApiError::Limited(wait)) => ("limited", wait.as_secs()),
            Err(ApiError::Away(_)) => ("away", 0),
            Err(ApiError::Refused(..)) => ("refused", 0),
            Err(ApiError::Broken(_)) => ("broken", 0),
        }
    }

    #[test]
    fn status_headers_and_page_decide() {
        let exhausted = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1030")];
        let secondary = r#"{"message":"You have exceeded a secondary rate limit.",
            "documentation_url":"https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api"}"#;
        let forbidden = r#"{"message":"Resource not accessible by integration","documentation_url":"https://docs.github.com/rest"}"#;
        for (found, expected) in [
            (meaning(200, &[], ""), ("done", 0)),
            (meaning(202, &[("x-ratelimit-remaining", "0")], "{}"), ("done", 0)),
            (meaning(403, &[("retry-after", "7")], forbidden), ("limited", 7)),
            (meaning(429, &[("retry-after", "99999")], ""), ("limited", 3_600)),
            (meaning(403, exhausted, forbidden), ("limited", 31)),
            (meaning(403, &[], secondary), ("limited", 60)),
            (meaning(429, &[], "<html>"), ("limited", 60)),
            (meaning(403, &[("x-ratelimit-remaining", "4999")], forbidden), ("broken", 0)),
            (meaning(401, &[], "{}"), ("broken", 0)),
            (meaning(301, &[], "{}"), ("broken", 0)),
            (meaning(404, &[], "{}"), ("refused", 0)),
            (meaning(422, &[], "{}"), ("refused", 0)),
            (meaning(502, &[], "<html>"), ("away", 0)),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_part_of_the_limit_is_left_to_others() {
        let wait = |remaining| {
            let pairs =
                &[("x-ratelimit-limit", "5000"), ("x-ratelimit-reset", "1100"), ("x-ratelimit-remaining", remaining)];
            RateLimit::read(&headers(pairs), Timestamp::from_seconds(1_000)).wait_to_spare().map(|wait| wait.as_secs())
        };
        assert_eq!([wait("500"), wait("499"), wait("x")], [None, Some(101), None]);
    }

    #[test]
    fn the_cursor_is_taken_from_the_next_link_only() {
        for (link, cursor) in [
            (
                r#"<https://api.github.com/app/hook/deliveries?per_page=100&cursor=v1_12077215967>; rel="next""#,
                Some("v1_12077215967"),
            ),
            (
                r#"<https://a/x?cursor=v1_1>; rel="prev", <https://a/x?cursor=v1_2&per_page=100>; rel="next""#,
                Some("v1_2"),
            ),
            (r#"<https://a/x?cursor=v1_1>; rel="prev""#, None),
            (r#"<https://a/x?per_page=100>; rel="next""#, None),
            ("", None),
        ] {
            assert_eq!(next_cursor(&headers(&[("link", link)])).as_deref(), cursor, "{link}");
        }
    }
}
