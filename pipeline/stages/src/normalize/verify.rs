//! Lets only deliveries with a valid signature through to normalize. Whether a signature is valid is decided by
//! [`Verify`], which the caller gives.

use std::panic::resume_unwind;
use std::sync::Arc;

use async_trait::async_trait;
use headrace_runtime::component::stage::Stage;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::fault::{DeadReason, Fault};
use headrace_runtime::message::payload::RawDelivery;
use tokio::task::spawn_blocking;

/// Whether a stored delivery was signed as its source signs. If not, the text says why not.
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
        // Each secret hashes whole bodies of megabytes, which would block a thread of the reactor.
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
