//! Other content under a known id: products that the broker dropped, although they were made of other content than the one
//! that it has.

use futures::future::join_all;

use crate::broker::Broker;
use crate::message::payload::{Content, Product};

/// A product that the broker dropped, because at `sequence` it has one with the same deduplication key.
pub(super) struct Known {
    pub(super) sequence: u64,
    /// What the dropped one was made of.
    pub(super) content: Content<String>,
}

/// How many of `known` were made of other content than the one that the broker has.
///
/// The messages are settled by now: a crash before this counts one too few, and one that makes them come again counts one
/// too many.
pub(super) async fn conflicts<Out: Product>(broker: &Broker, known: impl Iterator<Item = Known>) -> u64 {
    let is_other = |Known { sequence, content }: Known| async move {
        match broker.payload_at(Out::TO, sequence).await {
            Ok(stored) => Out::content_of(&stored).is_some_and(|stored| stored != content),
            Err(error) => {
                tracing::debug!(%error, "cannot tell what the broker has in the place of a product");
                false
            }
        }
    };
    // As many requests at once as a slice has messages.
    let others = join_all(known.map(is_other)).await;
    others.into_iter().filter(|is_other| *is_other).count() as u64
}
