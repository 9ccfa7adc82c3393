//! Stages: the contract, and how several become one.
//!
//! A chain of stages is a stage, so that fused and cut chains are the same code. [`crate::consume::chain`] runs them.

use async_trait::async_trait;

use crate::fault::{DiscardReason, Fault};

/// One step of the pipeline. Stages are pure as far as they can be: they never see NATS, never retry,
/// sleep, acknowledge or spawn.
#[async_trait]
pub trait Stage: Send + Sync + 'static {
    /// What it takes.
    type In: Send;
    /// What it makes.
    type Out: Send;

    /// The hand-over by which its products go on: `normalized`, `enriched`, `scored`, `alerted`.
    fn handover(&self) -> &'static str;

    /// Answers for every event of `batch`, in its order. With fewer or more answers than events, none of them counts.
    async fn process(&self, batch: Vec<Self::In>) -> Vec<Verdict<Self::Out>>;
}

/// A stage whose types are known and whose identity is not.
pub type BoxedStage<In, Out> = Box<dyn Stage<In = In, Out = Out>>;

/// Fuses two stages into one, with nothing between them.
#[must_use]
pub fn fuse<A, B, C>(first: BoxedStage<A, B>, second: BoxedStage<B, C>) -> BoxedStage<A, C>
where
    A: Send + 'static,
    B: Send + 'static,
    C: Send + 'static,
{
    Box::new(Fused { first, second })
}

struct Fused<A, B, C> {
    first: BoxedStage<A, B>,
    second: BoxedStage<B, C>,
}

#[async_trait]
impl<A: Send + 'static, B: Send + 'static, C: Send + 'static> Stage for Fused<A, B, C> {
    type In = A;
    type Out = C;

    fn handover(&self) -> &'static str {
        self.second.handover()
    }

    async fn process(&self, batch: Vec<A>) -> Vec<Verdict<C>> {
        let mut between = Vec::with_capacity(batch.len());
        let mut shapes = Vec::with_capacity(batch.len());
        for verdict in self.first.process(batch).await {
            shapes.push(match verdict {
                Verdict::Forward(events) => {
                    let count = events.len();
                    between.extend(events);
                    Ok(count)
                }
                Verdict::Discard(reason) => Err(Verdict::Discard(reason)),
                Verdict::Fail(fault) => Err(Verdict::Fail(fault)),
            });
        }
        let expected = between.len();
        let verdicts = self.second.process(between).await;
        if verdicts.len() != expected {
            // Nobody knows whose answers are missing, so no event has one.
            return Vec::new();
        }
        let mut verdicts = verdicts.into_iter();
        shapes
            .into_iter()
            .map(|shape| shape.map_or_else(|own| own, |count| merge(verdicts.by_ref().take(count))))
            .collect()
    }
}

/// The verdict on an event that became several. They go on together, or the event fails as a whole.
fn merge<T>(parts: impl Iterator<Item = Verdict<T>>) -> Verdict<T> {
    let mut forward = Vec::new();
    let (mut failed, mut discarded) = (None, None);
    for part in parts {
        match part {
            Verdict::Forward(events) => forward.extend(events),
            Verdict::Discard(reason) => discarded = Some(reason),
            Verdict::Fail(fault) => failed = failed.or(Some(fault)),
        }
    }
    match (failed, discarded) {
        (Some(fault), _) => Verdict::Fail(fault),
        (None, Some(reason)) if forward.is_empty() => Verdict::Discard(reason),
        _ => Verdict::Forward(forward),
    }
}

/// A stage's answer for one event.
#[derive(Debug)]
pub enum Verdict<T> {
    /// It goes on as these. None when another event of the batch carries its effect.
    Forward(Vec<T>),
    /// It is left out on purpose.
    Discard(DiscardReason),
    /// It failed.
    Fail(Fault),
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    struct Each<F>(&'static str, F);

    #[async_trait]
    impl<F: Fn(u32) -> Verdict<u32> + Send + Sync + 'static> Stage for Each<F> {
        type In = u32;
        type Out = u32;
        fn handover(&self) -> &'static str {
            self.0
        }
        async fn process(&self, batch: Vec<u32>) -> Vec<Verdict<u32>> {
            batch.into_iter().map(&self.1).collect()
        }
    }

    /// Gives one answer less than it should.
    struct Short;

    #[async_trait]
    impl Stage for Short {
        type In = u32;
        type Out = u32;
        fn handover(&self) -> &'static str {
            "short"
        }
        async fn process(&self, batch: Vec<u32>) -> Vec<Verdict<u32>> {
            batch.into_iter().skip(1).map(|number| Verdict::Forward(vec![number])).collect()
        }
    }

    #[tokio::test]
    async fn a_fused_chain_passes_on_that_an_answer_is_missing() {
        let whole = || Box::new(Each("whole", |number| Verdict::Forward(vec![number])));
        for (first, second) in
            [(whole() as BoxedStage<_, _>, Box::new(Short) as BoxedStage<_, _>), (Box::new(Short), whole())]
        {
            assert_ne!(fuse(first, second).process(vec![1, 2, 3]).await.len(), 3);
        }
    }

    #[tokio::test]
    async fn a_fused_chain_answers_for_each_input() {
        let first = Each("first", |number| match number {
            0 => Verdict::Discard(DiscardReason::Filtered),
            1 => Verdict::Fail(Fault::transient(anyhow!("one"))),
            2 => Verdict::Forward(vec![]),
            many => Verdict::Forward((0..many).map(|part| many * 10 + part).collect()),
        });
        let second = Each("second", |number| match number {
            41 => Verdict::Fail(Fault::transient(anyhow!("forty-one"))),
            30..=40 => Verdict::Forward(vec![number + 100]),
            _ => Verdict::Discard(DiscardReason::Filtered),
        });
        let chain = fuse(Box::new(first), Box::new(second));
        assert_eq!(chain.handover(), "second");
        let told = chain.process(vec![3, 0, 1, 2, 4, 5]).await;
        let told: Vec<String> = told
            .into_iter()
            .map(|verdict| match verdict {
                Verdict::Forward(numbers) => format!("{numbers:?}"),
                Verdict::Discard(reason) => reason.code().to_owned(),
                Verdict::Fail(fault) => fault.to_string(),
            })
            .collect();
        assert_eq!(told, ["[130, 131, 132]", "filtered", "one", "[]", "forty-one", "filtered"]);
    }
}
