//! Keeps a sink that is down from delaying anybody, and lets it catch up.
//!
//! A stream fills up with what one consumer has not settled, until its publishers wait and the gateway refuses. So
//! [`retention`] sets a sink aside that is far behind: it first writes down what the sink will miss, and then purges it.
//! When the sink works again, its [`feeder`] reads that from the installation's store and brings it to the sink once
//! more, through the stream CATCHUP. Between the two stands the [`record`]. Its rule: what is purged before a sink has
//! settled it is in the sink's record, and leaves it only when it is in CATCHUP. A crash makes the record larger than
//! need be, never smaller, so an event may come once more with the same id.
//!
//! [`pause`] is how a person stops a sink; a paused sink falls behind like one that is down.

mod expiry;
pub mod feeder;
pub mod history;
mod lacking;
mod pace;
pub mod pause;
pub mod record;
pub mod retention;
mod store;
mod unreadable;
mod waiting;

pub use self::store::{Asides, remove};

/// The mark of a consumer whose sink is set aside when it is far behind.
pub(crate) const CATCHES_UP: &str = "headrace.catches_up";
/// The mark of the consumer of the store from which the others catch up: the sequence after which it can give messages
/// back.
pub(crate) const STORE: &str = "headrace.store";
/// The mark of the same consumer that tells where the store is.
pub(crate) const STORE_PLACE: &str = "headrace.store_place";
/// The value of the former.
pub(crate) const YES: &str = "yes";

/// What follows a component's name in that of its consumer on CATCHUP.
const CONSUMER_SUFFIX: &str = "-catchup";

/// The durable consumer that brings a component what it has missed.
#[must_use]
pub fn consumer_of(component: &str) -> String {
    format!("{component}{CONSUMER_SUFFIX}")
}

/// The component of the durable consumer `name` on CATCHUP.
pub(crate) fn component_of(name: &str) -> &str {
    name.strip_suffix(CONSUMER_SUFFIX).unwrap_or(name)
}
