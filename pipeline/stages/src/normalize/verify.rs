//! Lets through what was signed by whom it says, before normalize. Whether it was is another's to know.

use std::panic::resume_unwind;
use std::sync::Arc;

use async_trait::async_trait;
use headrace_runtime::component::stage::Stage;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::fault::{DeadReason, Fault};
use headrace_runtime::message::payload::RawDelivery;
use tokio::task::spawn_blocking;

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
        let verify = Arc::clone(&self.0);
        // Bodies of megabytes, and each secret hashes all of them: that would keep a thread of the reactor.
        let verified = spawn_blocking(move || batch.into_iter().map(|raw| verdict(&verify, raw)).collect()).await;
        verified.unwrap_or_else(|ended| resume_unwind(ended.into_panic()))
    }
}

fn verdict(verify: &Verify, raw: RawDelivery) -> Verdict<RawDelivery> {
    match verify(&raw) {
        Ok(()) => Verdict::Forward(vec![raw]),
        Err(problem) => Verdict::Fail(Fault::poison(DeadReason::Unverified, anyhow::anyhow!(problem))),
    }
}
