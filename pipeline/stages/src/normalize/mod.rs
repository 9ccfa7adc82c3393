//! normalize: a body → an [`Event`]. Each source has a folder that knows its bodies.

mod github;
mod verify;

use async_trait::async_trait;
use headrace_runtime::component::stage::{Stage, Verdict};
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::event::Event;

pub use self::github::normalize;
pub use self::verify::{Verified, Verify};

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
