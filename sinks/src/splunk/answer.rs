//! What HEC's answers mean. Pure, and tested by table.
//!
//! Sources: Splunk's "Troubleshoot HTTP Event Collector" (codes 0–22), public clients of HEC (23–27), and for
//! batches splunk-otel's and moby's reports (opentelemetry-collector-contrib #36113, moby #35862): the events before
//! `invalid-event-number`, counted from 0, are indexed; that one and all after it are not.

use anyhow::anyhow;
use headrace_runtime::fault::{Effect, Fault};
use serde::Deserialize;

use crate::shared::http::Answer;

/// What became of the events of one request.
#[derive(Debug)]
pub(super) enum Disposition {
    /// All are accepted.
    Accepted,
    /// The events before `at` are accepted. The one at `at` is refused for good. HEC did not look at the others.
    Refused { at: usize, why: String },
    /// One or more events are to blame, and HEC does not tell which.
    Unplaced { why: String },
    /// The events before `at` are accepted. None of the others is to blame.
    Stopped { at: usize, fault: Fault },
}

#[derive(Deserialize)]
struct Body {
    code: u16,
    #[serde(default)]
    text: String,
    #[serde(default, rename = "invalid-event-number")]
    invalid_event_number: Option<usize>,
}

/// What `answer` to a request with `count` events means.
pub(super) fn classify(answer: &Answer, count: usize) -> Disposition {
    let Ok(body) = serde_json::from_slice::<Body>(&answer.body) else {
        return without_code(answer);
    };
    let said = format!("{} (HEC code {}, HTTP {})", body.text, body.code, answer.status);
    let at = body.invalid_event_number.filter(|at| *at < count);
    let stopped = |fault| Disposition::Stopped { at: at.unwrap_or(0), fault };
    match body.code {
        // 24 and 25 warn that a queue fills up; the events are accepted.
        0 | 24 | 25 if answer.is_2xx() => Disposition::Accepted,
        1 | 2 | 3 | 4 | 16 | 21 | 22 => stopped(Fault::broken(anyhow!(
            "Splunk refuses the token: {said}; set `token` to an enabled HEC token of this server"
        ))),
        7 => stopped(Fault::broken(anyhow!(
            "Splunk refuses the index: {said}; set `index` to one that exists and that the token may write to"
        ))),
        10 | 11 | 14 => {
            stopped(Fault::broken(anyhow!("the token has indexer acknowledgement on: {said}; use a token without it")))
        }
        6 | 12 | 13 | 15 => match at {
            Some(at) => Disposition::Refused { at, why: format!("Splunk refuses the event: {said}") },
            None => Disposition::Unplaced { why: format!("Splunk refuses the request: {said}") },
        },
        // 5 means no data: something on the way took the body. The others mean server trouble, full queues or shutting
        // down.
        5 | 8 | 9 | 18..=20 | 23 | 26 | 27 => {
            stopped(Fault::transient_after(answer.retry_after, anyhow!("Splunk cannot take events now: {said}")))
        }
        _ => without_code(answer),
    }
}

/// What an answer without a known code means. It may come from a proxy, another program or a later Splunk.
fn without_code(answer: &Answer) -> Disposition {
    let found = format!("HTTP {} with {}", answer.status, answer.excerpt());
    let fault = match answer.status {
        413 => return Disposition::Unplaced { why: format!("the request is too large for the receiver: {found}") },
        200..=299 => Fault::transient(anyhow!("expected an answer of HEC, found {found}; events may not be stored"))
            .with_effect(Effect::Possible),
        status @ (408 | 425 | 429 | 500..=599) => {
            // These may come from a proxy that does not know what became of the request.
            let effect = if status == 429 { Effect::None } else { Effect::Possible };
            Fault::transient_after(answer.retry_after, anyhow!("Splunk cannot take events now: {found}"))
                .with_effect(effect)
        }
        401 | 403 => Fault::broken(anyhow!("Splunk refuses us: {found}; check `token`")),
        404 => Fault::broken(anyhow!("no HEC at `url`: {found}; check `url`, and that HEC is enabled")),
        _ => Fault::broken(anyhow!("expected an answer of HEC, found {found}; check `url`")),
    };
    Disposition::Stopped { at: 0, fault }
}

/// What the health endpoint's answer means.
pub(super) fn classify_health(answer: &Answer) -> Result<(), Fault> {
    let code = serde_json::from_slice::<Body>(&answer.body).ok().map(|body| body.code);
    match code {
        Some(0 | 17 | 24 | 25) if answer.is_2xx() => Ok(()),
        _ => Err(refusal(classify(answer, 0))),
    }
}

/// What the answer to an empty request means: "no data" when the token is fine.
pub(super) fn classify_probe(answer: &Answer) -> Result<(), Fault> {
    match serde_json::from_slice::<Body>(&answer.body).ok().map(|body| body.code) {
        Some(5) => Ok(()),
        _ => Err(refusal(classify(answer, 0))),
    }
}

fn refusal(disposition: Disposition) -> Fault {
    match disposition {
        Disposition::Stopped { fault, .. } => fault,
        other => Fault::transient(anyhow!("expected an answer to a probe, found one to events: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headrace_runtime::fault::FaultClass;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, retry_after: None, body: body.into() }
    }

    /// The disposition in a word: what is done, what is refused, and why.
    fn told(disposition: &Disposition) -> String {
        match disposition {
            Disposition::Accepted => "accepted".to_owned(),
            Disposition::Refused { at, .. } => format!("{at} refused"),
            Disposition::Unplaced { .. } => "unplaced".to_owned(),
            Disposition::Stopped { at, fault } => match fault.class {
                FaultClass::Broken => format!("broken at {at}"),
                FaultClass::Transient { .. } => format!("transient at {at}"),
                FaultClass::Poison(_) => format!("poison at {at}"),
            },
        }
    }

    #[test]
    fn every_code_has_a_class() {
        for (status, body, want) in [
            (200, r#"{"text":"Success","code":0}"#, "accepted"),
            (200, r#"{"text":"Success","code":0,"ackId":7}"#, "accepted"),
            (200, r#"{"text":"HEC queue is approaching its capacity limit","code":24}"#, "accepted"),
            (200, r#"{"text":"ack channel is approaching its capacity limit","code":25}"#, "accepted"),
            (403, r#"{"text":"Token disabled","code":1}"#, "broken at 0"),
            (401, r#"{"text":"Token is required","code":2}"#, "broken at 0"),
            (401, r#"{"text":"Invalid authorization","code":3}"#, "broken at 0"),
            (403, r#"{"text":"Invalid token","code":4}"#, "broken at 0"),
            (400, r#"{"text":"No data","code":5}"#, "transient at 0"),
            (400, r#"{"text":"Invalid data format","code":6,"invalid-event-number":3}"#, "3 refused"),
            (400, r#"{"text":"Invalid data format","code":6}"#, "unplaced"),
            (400, r#"{"text":"Invalid data format","code":6,"invalid-event-number":10}"#, "unplaced"),
            (400, r#"{"text":"Incorrect index","code":7,"invalid-event-number":1}"#, "broken at 1"),
            (500, r#"{"text":"Internal server error","code":8}"#, "transient at 0"),
            (503, r#"{"text":"Server is busy","code":9}"#, "transient at 0"),
            (503, r#"{"text":"Server is busy","code":9,"invalid-event-number":4}"#, "transient at 4"),
            (400, r#"{"text":"Data channel is missing","code":10}"#, "broken at 0"),
            (400, r#"{"text":"Invalid data channel","code":11}"#, "broken at 0"),
            (400, r#"{"text":"Event field is required","code":12,"invalid-event-number":0}"#, "0 refused"),
            (400, r#"{"text":"Event field cannot be blank","code":13,"invalid-event-number":9}"#, "9 refused"),
            (400, r#"{"text":"ACK is disabled","code":14}"#, "broken at 0"),
            (400, r#"{"text":"Error in handling indexed fields","code":15,"invalid-event-number":2}"#, "2 refused"),
            (400, r#"{"text":"Query string authorization is not enabled","code":16}"#, "broken at 0"),
            (503, r#"{"text":"HEC is unhealthy, queues are full","code":18}"#, "transient at 0"),
            (
                503,
                r#"{"text":"HEC is unhealthy, queues are full, ack service unavailable","code":20}"#,
                "transient at 0",
            ),
            (400, r#"{"text":"Invalid token","code":21}"#, "broken at 0"),
            (400, r#"{"text":"Token disabled","code":22}"#, "broken at 0"),
            (503, r#"{"text":"Server is shutting down","code":23}"#, "transient at 0"),
            (429, r#"{"text":"HEC queue is at capacity","code":26}"#, "transient at 0"),
            (429, r#"{"text":"ack channel is at capacity","code":27}"#, "transient at 0"),
            (503, r#"{"text":"a later Splunk's trouble","code":99}"#, "transient at 0"),
            (400, r#"{"text":"a later Splunk's trouble","code":99}"#, "broken at 0"),
            // Not HEC.
            (200, "<html>Sign in</html>", "transient at 0"),
            (200, "", "transient at 0"),
            (200, r#"{"text":"HEC is healthy","code":17}"#, "transient at 0"),
            (503, r#"{"text":"Success","code":0}"#, "transient at 0"),
            (302, "", "broken at 0"),
            (401, "", "broken at 0"),
            (404, "<html>404</html>", "broken at 0"),
            (413, "<html>Request Entity Too Large</html>", "unplaced"),
            (429, "slow down", "transient at 0"),
            (502, "<html>Bad Gateway</html>", "transient at 0"),
            (418, "", "broken at 0"),
        ] {
            assert_eq!(told(&classify(&answer(status, body), 10)), want, "{status} {body}");
        }
    }

    #[test]
    fn a_wish_to_wait_is_passed_on() {
        let busy = Answer { retry_after: Some(Duration::from_secs(7)), ..answer(503, r#"{"code":9}"#) };
        let Disposition::Stopped { fault, .. } = classify(&busy, 1) else { panic!("not stopped") };
        assert_eq!(fault.class, FaultClass::Transient { retry_after: Some(Duration::from_secs(7)) });
    }

    #[test]
    fn health_and_token_are_told_apart() {
        assert!(classify_health(&answer(200, r#"{"text":"HEC is healthy","code":17}"#)).is_ok());
        assert!(classify_health(&answer(200, "healthy")).is_err());
        let full = classify_health(&answer(503, r#"{"text":"HEC is unhealthy, queues are full","code":18}"#));
        assert!(matches!(full.unwrap_err().class, FaultClass::Transient { .. }));
        assert!(classify_probe(&answer(400, r#"{"text":"No data","code":5}"#)).is_ok());
        let refused = classify_probe(&answer(403, r#"{"text":"Invalid token","code":4}"#));
        assert_eq!(refused.unwrap_err().class, FaultClass::Broken);
        assert!(classify_probe(&answer(200, r#"{"text":"Success","code":0}"#)).is_err());
    }
}
