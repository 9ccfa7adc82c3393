//! Lets through what was signed by whom it says, before normalize. Whether it was is another's to know.

use std::sync::Arc;

use async_trait::async_trait;
use headrace_runtime::chain::Stage;
use headrace_runtime::fault::{Fault, Reason, Verdict};
use headrace_runtime::payload::RawDelivery;

/// Whether a stored delivery was signed as its source signs; if not, why not, in words.
pub type Verify = Arc<dyn Fn(&RawDelivery) -> Result<(), String> + Send + Sync>;

/// The deliveries that pass.
#[derive(Clone)]
pub struct Verified(pub Verify);

#[async_trait]
impl Stage for Verified {
    type In = RawDelivery;
    type Out = RawDelivery;

    fn handover(&self) -> &'static str {
        "verified"
    }

    async fn process(&self, batch: Vec<RawDelivery>) -> Vec<Verdict<RawDelivery>> {
        let verdict = |raw| match (self.0)(&raw) {
            Ok(()) => Verdict::Forward(vec![raw]),
            Err(problem) => Verdict::Fail(Fault::poison(Reason::Unverified, anyhow::anyhow!(problem))),
        };
        batch.into_iter().map(verdict).collect()
    }
}
