//! Pausing: a person stops a sink, in every process that runs it, without taking it out of the configuration.
//!
//! The bucket `asides` says which sinks are paused. [`watch()`] looks there, and each worker of a sink passes its sink's
//! [`Gate`] before it takes messages. So a paused sink finishes what it holds, and takes no more.

use std::time::Duration;

use headrace_schemas::time::Timestamp;
use metrics::gauge;
use tokio::sync::watch::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;

use crate::aside::Asides;
use crate::broker::Broker;
use crate::every::every;
use crate::observe::metrics::PAUSED;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(2);

/// Whether a sink may take messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has looked yet.
    Unknown,
    Open,
    /// A person paused the sink at this time.
    Paused(Timestamp),
}

/// What a sink's workers pass before they take messages. Cheap to clone; by default it is open for ever.
#[derive(Clone, Debug)]
pub struct Gate(Receiver<State>);

/// Opens and closes the gates of one sink.
#[derive(Debug)]
pub struct Keeper {
    instance: String,
    state: Sender<State>,
}

impl Default for Gate {
    fn default() -> Self {
        Self(watch::channel(State::Open).1)
    }
}

impl Gate {
    /// Since when the sink is paused; `None` when it runs. Waits until that is known.
    pub(crate) async fn paused_since(&self, stop: &CancellationToken) -> Option<Timestamp> {
        match self.awaited(stop, |state| state != State::Unknown).await {
            State::Paused(since) => Some(since),
            State::Unknown | State::Open => None,
        }
    }

    /// Waits until the sink runs, or `stop`.
    pub(crate) async fn opened(&self, stop: &CancellationToken) {
        self.awaited(stop, |state| state == State::Open).await;
    }

    async fn awaited(&self, stop: &CancellationToken, is_awaited: impl Fn(State) -> bool) -> State {
        let mut state = self.0.clone();
        let changed = async {
            // Without its keeper, the gate stays as it is.
            if state.wait_for(|state| is_awaited(*state)).await.is_err() && !is_awaited(*self.0.borrow()) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            () = stop.cancelled() => {}
        }
        *self.0.borrow()
    }
}

impl Keeper {
    /// The gate of the sink `instance`, and who opens and closes it.
    #[must_use]
    pub fn new(instance: &str) -> (Self, Gate) {
        let (state, gate) = watch::channel(State::Unknown);
        (Self { instance: instance.to_owned(), state }, Gate(gate))
    }

    fn set(&self, state: State) {
        let before = self.state.send_replace(state);
        gauge!(PAUSED, "sink" => self.instance.clone()).set(if state == State::Open { 0.0 } else { 1.0 });
        match (before, state) {
            (State::Unknown | State::Open, State::Paused(since)) => tracing::warn!(
                sink = self.instance,
                %since,
                "this sink is paused and takes no more messages; `headrace sinks resume` lets it go on"
            ),
            (State::Paused(_), State::Open) => tracing::info!(sink = self.instance, "this sink goes on"),
            _ => {}
        }
    }
}

/// Opens and closes the gates of `keepers`, until `stop`.
///
/// # Errors
/// Never: when the broker does not answer, the gates stay as they are.
pub async fn watch(broker: Broker, keepers: &[Keeper], stop: CancellationToken) -> anyhow::Result<()> {
    let mut turns = every(PERIOD, &stop);
    let mut has_failed = false;
    while turns.next().await {
        match look(&broker, keepers).await {
            Ok(()) => has_failed = false,
            Err(error) if !has_failed => {
                has_failed = true;
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot look which sinks are paused; they go on as they are. The NATS user of the sinks needs the right to \
                     the bucket `asides`, see the page about NATS permissions"
                );
            }
            Err(_) => {}
        }
        // A sink must not stand still because nobody can tell whether it is paused.
        keepers
            .iter()
            .filter(|keeper| *keeper.state.borrow() == State::Unknown)
            .for_each(|keeper| keeper.set(State::Open));
    }
    Ok(())
}

async fn look(broker: &Broker, keepers: &[Keeper]) -> anyhow::Result<()> {
    let asides = Asides::open(broker).await?;
    for keeper in keepers {
        keeper.set(asides.paused_since(&keeper.instance).await?.map_or(State::Open, State::Paused));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_worker_waits_until_its_sink_runs() {
        let (keeper, gate) = Keeper::new("splunk");
        let stop = CancellationToken::new();
        assert!(gate.paused_since(&stop).now_or_never().is_none(), "nobody knows yet");
        let since = Timestamp::from_seconds(7);
        keeper.set(State::Paused(since));
        assert_eq!(gate.paused_since(&stop).await, Some(since));
        assert!(gate.opened(&stop).now_or_never().is_none());
        keeper.set(State::Open);
        gate.opened(&stop).await;
        assert_eq!(gate.paused_since(&stop).await, None);

        keeper.set(State::Paused(since));
        drop(keeper);
        assert!(gate.opened(&stop).now_or_never().is_none(), "nobody has opened it");
        stop.cancel();
        gate.opened(&stop).await;
        assert_eq!(Gate::default().paused_since(&CancellationToken::new()).await, None);
    }
}
