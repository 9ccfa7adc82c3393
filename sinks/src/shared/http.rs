//! What sinks over HTTP share: the client, the bounded reading of an answer, and the class of a request that got none.
//! Each sink's own `classify` says what an answer means.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use headrace_runtime::certificate::{Untrusted, read_ca_file};
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::{Effect, Fault};
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Certificate, Client, RequestBuilder, Url, redirect};

/// A longer answer is cut. Receivers answer with a few hundred bytes, a search with more.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How much of an unexpected answer an error message shows, in characters.
const EXCERPT_CHARS: usize = 300;

/// A receiver's answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// `Retry-After`, when it can be read. The runtime bounds it.
    pub(crate) retry_after: Option<Duration>,
    /// The body, cut at a bound.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Whether the status is 2xx, which is not yet success.
    pub(crate) const fn is_2xx(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The beginning of the body on one line, for a person.
    pub(crate) fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        if text.trim().is_empty() {
            return "an empty body".to_owned();
        }
        let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("`{}`", line.chars().take(EXCERPT_CHARS).collect::<String>())
    }
}

/// A client that waits at most `timeout` for a whole answer and trusts `ca_path` besides the system's
/// certificates. It follows no redirects: a redirected POST would lose its body or its credentials.
pub(crate) fn client(timeout: Duration, ca_path: Option<&Path>) -> anyhow::Result<Client> {
    let mut builder = Client::builder()
        // Say so: another crate of this build turns HTTP/2 on, and receivers were tried with HTTP/1 alone.
        .http1_only()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("headrace/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = ca_path {
        let certificates = Certificate::from_pem_bundle(&read_ca_file(path)?)
            .with_context(|| format!("{} is no PEM file with certificates", path.display()))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().context("cannot set up the HTTP client")
}

/// Sends `request` and reads the whole answer.
///
/// # Errors
/// When there is none: transient, unless the receiver's certificate is refused. A request that did not leave this machine
/// has no effect.
pub(crate) async fn send(request: RequestBuilder) -> Result<Answer, Fault> {
    let no_answer = |error: reqwest::Error| {
        let effect = if error.is_connect() || error.is_builder() { Effect::None } else { Effect::Possible };
        // Leave out the URL: it may be long, and the component's name tells which receiver it is.
        let cause = anyhow::Error::new(error.without_url());
        let fault = match Untrusted::of(&cause) {
            Some(untrusted) => {
                let advice = untrusted.advice("`ca_path`", "`url`");
                Fault::broken(cause.context(format!("the receiver is not trusted: {advice}")))
            }
            None => Fault::transient(cause.context("the receiver did not answer")),
        };
        fault.with_effect(effect)
    };
    let mut response = request.send().await.map_err(no_answer)?;
    let retry_after = retry_after(response.headers(), SystemTime::now());
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        let room = ANSWER_BYTES_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(Answer { status, retry_after, body })
}

/// What `Retry-After` says, in seconds or as a date (RFC 9110, section 10.2.3). A date counts from the answer's own `Date`,
/// because the receiver's clock may not be ours. `now` is for an answer without one.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let given = text(RETRY_AFTER)?;
    if let Ok(seconds) = given.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(given).ok()?;
    let from = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
    Some(at.duration_since(from).unwrap_or_default())
}

/// What is wrong with a receiver's URL, if anything is.
pub(crate) fn check_url(url: &str, path: &str, example: &str) -> Option<Invalid> {
    let problem = match Url::parse(url) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => "not an http or https URL",
        Ok(url) if !url.username().is_empty() || url.password().is_some() => "a URL with credentials",
        Ok(url) if url.query().is_some() || url.fragment().is_some() => "a URL with a query or a fragment",
        Ok(_) => return None,
        Err(_) if url.is_empty() => "nothing",
        Err(_) => "no URL",
    };
    Some(Invalid::new(path, format!("expected the receiver's base URL such as `{example}`, found {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_base_url_passes() {
        for (url, found) in [
            ("https://hec.example.com:8088", None),
            ("http://127.0.0.1:8088/splunk", None),
            ("", Some("nothing")),
            ("hec.example.com", Some("no URL")),
            ("ftp://hec.example.com", Some("not an http or https URL")),
            ("https://user:secret@hec.example.com", Some("a URL with credentials")),
            ("https://hec.example.com?token=1", Some("a URL with a query or a fragment")),
        ] {
            let problem = check_url(url, "url", "https://x").map(|invalid| invalid.message);
            assert_eq!(problem.is_none(), found.is_none(), "{url}");
            assert!(problem.unwrap_or_default().ends_with(found.unwrap_or_default()), "{url}");
            assert!(!check_url(url, "url", "x").is_some_and(|invalid| invalid.message.contains("secret")), "{url}");
        }
    }

    #[test]
    fn a_wish_to_wait_is_read_in_both_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let early = "Sun, 06 Nov 1994 08:00:00 GMT";
        for (given, date, want) in [
            (Some("120"), None, Some(120)),
            (Some(" 0 "), None, Some(0)),
            (Some("Sun, 06 Nov 1994 08:50:37 GMT"), None, Some(60)),
            (Some("Sun, 06 Nov 1994 08:00:30 GMT"), Some(early), Some(30)),
            (Some("Sunday, 06-Nov-94 08:50:37 GMT"), None, Some(60)),
            (Some(early), None, Some(0)),
            (Some("soon"), None, None),
            (Some("-1"), None, None),
            (Some("1.5"), None, None),
            (None, Some(early), None),
        ] {
            let headers = [(RETRY_AFTER, given), (DATE, date)].into_iter();
            let headers = headers.filter_map(|(name, value)| Some((name, value?.parse().unwrap()))).collect();
            assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs), "{given:?} {date:?}");
        }
    }

    #[test]
    fn an_excerpt_is_short_and_on_one_line() {
        let answer = |body: &str| Answer { body: body.into(), ..Answer::default() };
        assert_eq!(answer("<html>\n  <b>no</b>\n").excerpt(), "`<html> <b>no</b>`");
        assert_eq!(answer(" \n").excerpt(), "an empty body");
        assert_eq!(answer(&"x".repeat(5_000)).excerpt().len(), EXCERPT_CHARS + 2);
    }
}
