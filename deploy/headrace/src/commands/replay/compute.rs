//! Deliveries through the stages.

use headrace_runtime::component::batch::Item;
use headrace_runtime::component::stage::BoxedStage;
use headrace_runtime::component::stage::Verdict;
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_runtime::message::payload::{Payload as _, Product as _, RawDelivery};
use headrace_schemas::event::Event;

use super::record::Totals;
use super::retry::Retry;
use super::write::item;

/// Deliveries that the stages work on before other tasks run, as in the pipeline's own loop.
const SLICE: usize = 32;

/// The events of `deliveries`, in their order. What is left out or can never be computed is counted.
///
/// # Errors
/// When a stage cannot work for too long, or a person must act.
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
    // Those that were held up came last.
    items.sort_by_key(|item| item.sequence);
    Ok(items)
}

/// The verdict as the broker would have it: an event that fits no message is poison in the chain's own loop.
fn fitting(verdict: Verdict<Event>, handover: &str) -> Verdict<Event> {
    let Verdict::Forward(events) = verdict else { return verdict };
    match events.iter().find_map(|event| event.write(handover).err()) {
        Some(fault) => Verdict::Fail(fault),
        None => Verdict::Forward(events),
    }
}
