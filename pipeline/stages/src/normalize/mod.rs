//! normalize: a body → an [`Event`]. Each source has a folder that knows its bodies.

mod document;
mod github;
mod ndjson;
mod verify;

use async_trait::async_trait;
use headrace_runtime::component::stage::{Stage, Verdict};
use headrace_runtime::fault::{DeadReason, Fault};
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::Event;

pub use self::verify::{Verified, Verify};

/// Makes an event of a body of one source.
type Normalizer = fn(&RawDelivery) -> Result<Event, Fault>;

/// Who reads the bodies of each source. A new source is a folder here and a line.
pub const SOURCES: [(&str, Normalizer); 2] = [("github", github::normalize), ("ndjson", ndjson::normalize)];

/// Makes an event of a body, as its source writes them.
///
/// # Errors
/// Poison, when the body is not what its source sends, or nobody here knows its source.
pub fn normalize(raw: &RawDelivery) -> Result<Event, Fault> {
    match SOURCES.iter().find(|(source, _)| *source == raw.source) {
        Some((_, normalize)) => normalize(raw),
        None => {
            let known = SOURCES.map(|(source, _)| source).join(", ");
            let found = raw.source.escape_debug();
            let problem = anyhow::anyhow!("expected a source that normalize knows ({known}), found `{found}`");
            Err(Fault::poison(DeadReason::Malformed, problem))
        }
    }
}

/// The stage.
#[derive(Clone, Copy, Debug, Default)]
pub struct Normalize;

#[async_trait]
impl Stage for Normalize {
    type In = RawDelivery;
    type Out = Event;

    fn handover(&self) -> &'static str {
        "normalized"
    }

    async fn process(&self, batch: Vec<RawDelivery>) -> Vec<Verdict<Event>> {
        let verdict = |raw| match normalize(&raw) {
            Ok(event) => Verdict::Forward(vec![event]),
            Err(fault) => Verdict::Fail(fault),
        };
        batch.into_iter().map(verdict).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use headrace_runtime::fault::FaultClass;

    use super::*;
    use crate::fixture;

    #[test]
    fn every_folder_is_a_source() {
        let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/normalize")).unwrap();
        let folders = folders.map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_dir());
        let folders: BTreeSet<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert_eq!(folders, SOURCES.map(|(source, _)| source.to_owned()).into());
    }

    #[test]
    fn a_body_is_read_as_its_source_writes_it() {
        let body = r#"{"sender":{"login":"mona"},"actor":"ada"}"#;
        let actor =
            |source: &str| normalize(&fixture::raw(source, "push", body)).map(|event| event.actor.unwrap().login);
        assert_eq!(actor("github").ok().as_deref(), Some("mona"));
        assert_eq!(actor("ndjson").ok().as_deref(), Some("ada"));
        let fault = actor("git\nlab").unwrap_err();
        assert_eq!(fault.class, FaultClass::Poison(DeadReason::Malformed));
        let expected = "expected a source that normalize knows (github, ndjson), found `git\\nlab`";
        assert!(format!("{fault}").contains(expected), "{fault}");
    }
}
