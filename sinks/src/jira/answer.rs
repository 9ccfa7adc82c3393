//! What Jira's answers mean. Pure, and tested by table.
//!
//! Sources: Atlassian's REST API reference, version 3 (`ErrorCollection`: `errorMessages` and, by
//! field, `errors`), and its page on rate limiting (429 and 503 with `Retry-After`).

use std::collections::BTreeMap;

use anyhow::anyhow;
use headrace_runtime::fault::{DeadReason, Effect, Fault};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::shared::http::Answer;

/// Why a request did not succeed, and whom that concerns.
#[derive(Debug)]
pub(super) enum ApiError {
    /// Jira as a whole: no item is to blame, and going on is pointless.
    Receiver(Fault),
    /// This item: poison, or not yet certain.
    Item(Fault),
    /// Either: Jira failed internally, perhaps because of this very item.
    Internal(Fault),
    /// The ticket that was meant is not there any more.
    Gone,
}

impl ApiError {
    /// Whether the request may have had its effect all the same.
    pub(super) const fn effect(&self) -> Effect {
        match self {
            Self::Receiver(fault) | Self::Item(fault) | Self::Internal(fault) => fault.effect,
            Self::Gone => Effect::None,
        }
    }
}

/// Jira's error body.
#[derive(Default, Deserialize)]
struct ErrorCollection {
    #[serde(default, rename = "errorMessages")]
    messages: Vec<String>,
    #[serde(default)]
    errors: BTreeMap<String, String>,
}

/// Reads a success as `T`, or says what went wrong and whether it may have had an effect.
pub(super) fn classify<T: DeserializeOwned>(answer: Result<Answer, Fault>) -> Result<T, ApiError> {
    let answer = answer.map_err(ApiError::Receiver)?;
    let found = || format!("HTTP {} with {}", answer.status, answer.excerpt());
    let receiver = |fault| ApiError::Receiver(fault);
    Err(match answer.status {
        200..=299 => {
            // 204 has no body; read it as null.
            let body = if answer.body.is_empty() { b"null" } else { answer.body.as_slice() };
            return serde_json::from_slice(body).map_err(|_| {
                let fault = Fault::transient(anyhow!("expected an answer of Jira, found {}", found()));
                ApiError::Receiver(fault.with_effect(Effect::Possible))
            });
        }
        400 | 422 => refused(&answer),
        401 => receiver(Fault::broken(anyhow!("Jira refuses `email` and `api_token`: {}", found()))),
        403 => receiver(Fault::broken(anyhow!("Jira forbids it to the account: {}", found()))),
        404 => ApiError::Gone,
        413 => {
            let problem = anyhow!("the ticket is too large for Jira: {}", found());
            ApiError::Item(Fault::poison(DeadReason::Rejected, problem))
        }
        429 => receiver(transient(&answer)),
        500 => ApiError::Internal(transient(&answer).with_effect(Effect::Possible)),
        408 | 409 | 425 | 501..=599 => receiver(transient(&answer).with_effect(Effect::Possible)),
        _ => receiver(Fault::broken(anyhow!("expected an answer of Jira, found {}; check `url`", found()))),
    })
}

fn transient(answer: &Answer) -> Fault {
    let problem = anyhow!("Jira cannot do it now: HTTP {} with {}", answer.status, answer.excerpt());
    Fault::transient_after(answer.retry_after, problem)
}

/// Classifies a 400. Fields that come from the alert are the alert's fault. All others come from the configuration, or
/// the project demands them, so no alert is to blame.
fn refused(answer: &Answer) -> ApiError {
    let Ok(ErrorCollection { messages, errors }) = serde_json::from_slice(&answer.body) else {
        let found = format!("HTTP {} with {}", answer.status, answer.excerpt());
        return ApiError::Receiver(Fault::broken(anyhow!("expected an error of Jira, found {found}; check `url`")));
    };
    let said = messages.into_iter().chain(errors.iter().map(|(field, text)| format!("{field}: {text}")));
    let said = said.collect::<Vec<_>>().join("; ");
    let of_the_alert = |field: &str| matches!(field, "summary" | "description" | "comment");
    if errors.keys().all(|field| of_the_alert(field)) {
        return ApiError::Item(Fault::poison(DeadReason::Rejected, anyhow!("Jira refuses the ticket: {said}")));
    }
    let advice = "check `project`, `issue_type`, `priorities` and `labels`, and the fields that the project requires";
    ApiError::Receiver(Fault::broken(anyhow!("Jira refuses the ticket's set-up: {said}; {advice}")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headrace_runtime::fault::FaultClass;
    use serde_json::Value;

    use super::*;

    fn told(answer: Answer) -> String {
        match classify::<Value>(Ok(answer)) {
            Ok(value) => format!("ok {value}"),
            Err(error) => {
                let effect = error.effect();
                let (scope, fault) = match error {
                    ApiError::Gone => return "gone".to_owned(),
                    ApiError::Receiver(fault) => ("receiver", fault),
                    ApiError::Item(fault) => ("item", fault),
                    ApiError::Internal(fault) => ("internal", fault),
                };
                let class = match fault.class {
                    FaultClass::Transient { .. } => "transient",
                    FaultClass::Poison(reason) => reason.code(),
                    FaultClass::Broken => "broken",
                };
                format!("{scope} {class}, effect {effect:?}")
            }
        }
    }

    #[test]
    fn every_answer_has_a_class() {
        const ITEM: &str = "item rejected, effect None";
        const BROKEN: &str = "receiver broken, effect None";
        const AWAY: &str = "receiver transient, effect Possible";
        for (status, body, want) in [
            (201, r#"{"id":"10000"}"#, r#"ok {"id":"10000"}"#),
            (204, "", "ok null"),
            (201, "<html>Sign in</html>", AWAY),
            (400, r#"{"errorMessages":[],"errors":{"summary":"Summary must be less than 255 characters."}}"#, ITEM),
            (400, r#"{"errorMessages":["Invalid request payload."],"errors":{}}"#, ITEM),
            (400, r#"{"errorMessages":[],"errors":{"comment":"Comment body is not valid!"}}"#, ITEM),
            (400, r#"{"errorMessages":[],"errors":{"project":"valid project is required"}}"#, BROKEN),
            (400, r#"{"errorMessages":[],"errors":{"issuetype":"Specify a valid issue type"}}"#, BROKEN),
            (400, r#"{"errors":{"summary":"x","customfield_10020":"Team is required."}}"#, BROKEN),
            (400, "<html>Bad Request</html>", BROKEN),
            (401, "", BROKEN),
            (403, "", BROKEN),
            (404, r#"{"errorMessages":["Issue does not exist or you do not have permission to see it."]}"#, "gone"),
            (413, "", ITEM),
            (429, "", "receiver transient, effect None"),
            (500, r#"{"errorMessages":["Internal server error"]}"#, "internal transient, effect Possible"),
            (502, "", AWAY),
            (503, "", AWAY),
            (504, "", AWAY),
            (302, "", BROKEN),
            (405, "", BROKEN),
        ] {
            assert_eq!(told(Answer { status, retry_after: None, body: body.into() }), want, "{status} {body}");
        }
    }

    #[test]
    fn a_wish_to_wait_is_passed_on() {
        let limited = Answer { status: 429, retry_after: Some(Duration::from_secs(30)), body: Vec::new() };
        let Err(ApiError::Receiver(fault)) = classify::<Value>(Ok(limited)) else { panic!("not a receiver's") };
        assert_eq!(fault.class, FaultClass::Transient { retry_after: Some(Duration::from_secs(30)) });
    }

    #[test]
    fn a_failure_without_an_answer_says_itself_what_it_did() {
        for effect in [Effect::None, Effect::Possible] {
            let no_answer = Fault::transient(anyhow!("no answer")).with_effect(effect);
            assert_eq!(classify::<Value>(Err(no_answer)).unwrap_err().effect(), effect);
        }
    }
}
