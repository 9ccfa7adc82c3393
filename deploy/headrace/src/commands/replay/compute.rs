//! Sends deliveries through the stages.

use headrace_runtime::component::batch::Item;
use headrace_runtime::component::stage::BoxedStage;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_runtime::message::payload::{Payload as _, Product as _, RawDelivery};
use headrace_schemas::event::Event;

use super::record::Totals;
use super::retry::Retry;
use super::write::item;

/// How many deliveries the stages take before other tasks may run, as in the pipeline's own loop.
const SLICE: usize = 32;

/// Computes the events of `deliveries`, in their order. It counts deliveries that a filter leaves out or that can never
/// be computed.
///
/// # Errors
/// When a stage fails for too long, or a person must act.
pub(super) async fn compute(
    stage: &BoxedStage<RawDelivery, Event>,
    deliveries: &[RawDelivery],
    totals: &mut Totals,
    retry: &mut Retry<'_>,
) -> anyhow::Result<Vec<Item<Event>>> {
    let mut items = Vec::with_capacity(deliveries.len());
    for slice in deliveries.chunks(SLICE) {
        let mut left: Vec<&RawDelivery> = slice.iter().collect();
        let mut failures = 0;
        while !left.is_empty() {
            let verdicts = stage.process(left.iter().map(|&delivery| delivery.clone()).collect()).await;
            let (mut again, mut held_up) = (Vec::new(), None);
            for (delivery, verdict) in left.into_iter().zip(verdicts) {
                match fitting(verdict, stage.handover()) {
                    Verdict::Forward(events) => {
                        items.extend(events.into_iter().map(|event| item(event, delivery.sequence)));
                    }
                    Verdict::Discard(_) => totals.filtered += 1,
                    Verdict::Fail(poison @ Fault { class: FaultClass::Poison(_), .. }) => {
                        totals.fail(delivery.sequence, &delivery.tenant, delivery.id(), &poison);
                    }
                    Verdict::Fail(fault) => {
                        again.push(delivery);
                        held_up = Some(fault);
                    }
                }
            }
            if let Some(fault) = held_up {
                failures += 1;
                retry.rest("compute an event", fault, failures).await?;
            }
            left = again;
        }
        tokio::task::yield_now().await;
    }
    // Deliveries that were tried again came last, so restore the order.
    items.sort_by_key(|item| item.sequence);
    Ok(items)
}

/// Makes an event poison that is too large for a message, as the chain's own loop does.
fn fitting(verdict: Verdict<Event>, handover: &str) -> Verdict<Event> {
    let Verdict::Forward(events) = verdict else { return verdict };
    match events.iter().find_map(|event| event.write(handover).err()) {
        Some(fault) => Verdict::Fail(fault),
        None => Verdict::Forward(events),
    }
}
