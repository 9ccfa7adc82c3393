//! Turns a component's panic on a message into a fault of that message, and of no other.
//!
//! Without this its worker would end, start again and be given the same messages again, for ever.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

use crate::fault::{DeadReason, Effect, Fault};

/// Runs `work` of `who`. A panic becomes a poison fault that names `who`. What `work` did before may have had its effect.
///
/// `AssertUnwindSafe` is right here: whatever of a component outlives a call is guarded by locks, which a panic
/// poisons, or is atomic.
pub(crate) async fn caught<T>(who: &str, work: impl Future<Output = T>) -> Result<T, Fault> {
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.map_err(|panic| {
        let problem = anyhow::anyhow!("{who} panicked: {}", words(&*panic));
        Fault::poison(DeadReason::Panicked, problem).with_effect(Effect::Possible)
    })
}

/// The panic's message. The place of the panic is on stderr.
fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_fault_that_names_it() {
        assert_eq!(caught("the stage", async { 7 }).await.unwrap(), 7);
        let number = 7;
        for (found, words) in [
            (caught("the stage", async { panic!("plain") }).await, "the stage panicked: plain"),
            (caught("the sink", async { panic!("number {number}") }).await, "the sink panicked: number 7"),
            (caught("it", async { std::panic::panic_any(7) }).await, "it panicked: without a message"),
        ] {
            let fault: Fault = found.unwrap_err();
            assert_eq!(fault.to_string(), words);
            assert_eq!(fault.class, crate::fault::FaultClass::Poison(DeadReason::Panicked));
            assert_eq!(fault.effect, Effect::Possible, "it may have done its work before");
        }
    }
}
