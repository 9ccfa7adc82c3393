//! Pausing: a person stops a sink, in every process that runs it, without taking it out of the configuration.
//!
//! The bucket `asides` says which sinks are paused. [`watch()`] looks there, and each worker of a sink passes its sink's
//! [`Gate`] before it takes messages. So a paused sink finishes what it holds, and takes no more.

use std::time::Duration;

use headrace_schemas::time::Timestamp;
use metrics::gauge;
use tokio::sync::watch::{self, Receiver, Sender};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::aside::Asides;
use crate::broker::Broker;
use crate::every::every;
use crate::observe::metrics::PAUSED;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(2);
/// How long the gates stay closed while nobody can tell which sinks are paused. A broker may be choosing its leader.
const UNKNOWN_MAX: Duration = Duration::from_secs(30);

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
    let (mut turns, mut looks) = (every(PERIOD, &stop), Looks::begin());
    while turns.next().await {
        let looked = look(&broker, keepers).await;
        looks.note(keepers, looked);
    }
    Ok(())
}

/// How looking goes.
struct Looks {
    began: Instant,
    has_failed: bool,
}

impl Looks {
    fn begin() -> Self {
        Self { began: Instant::now(), has_failed: false }
    }

    /// Notes how a look ended, which set the gates of `keepers` if it succeeded.
    fn note(&mut self, keepers: &[Keeper], looked: anyhow::Result<()>) {
        match looked {
            Ok(()) => self.has_failed = false,
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot look which sinks are paused; they go on as they are, and those of a process that has just begun wait \
                     for up to half a minute. The NATS user of the sinks needs the right to the bucket `asides`, see the page \
                     about NATS permissions"
                );
            }
            Err(_) => {}
        }
        // A sink must not stand still for ever because nobody can tell whether it is paused. But a broker that is slow must not
        // let a paused one run.
        if self.began.elapsed() >= UNKNOWN_MAX {
            let unknown = keepers.iter().filter(|keeper| *keeper.state.borrow() == State::Unknown);
            unknown.for_each(|keeper| keeper.set(State::Open));
        }
    }
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

    #[tokio::test(start_paused = true)]
    async fn a_sink_does_not_run_because_the_broker_is_slow_to_tell_that_it_is_paused() {
        let ((keeper, gate), stop) = (Keeper::new("splunk"), CancellationToken::new());
        let (keepers, mut looks) = ([keeper], Looks::begin());
        looks.note(&keepers, Err(anyhow::anyhow!("no leader yet")));
        tokio::time::advance(UNKNOWN_MAX - PERIOD).await;
        looks.note(&keepers, Err(anyhow::anyhow!("no leader yet")));
        assert!(gate.opened(&stop).now_or_never().is_none(), "it runs");
        let since = Timestamp::from_seconds(7);
        keepers[0].set(State::Paused(since));
        looks.note(&keepers, Ok(()));
        tokio::time::advance(UNKNOWN_MAX).await;
        looks.note(&keepers, Err(anyhow::anyhow!("no leader once more")));
        assert_eq!(gate.paused_since(&stop).await, Some(since), "it stays as it was told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_runs_in_the_end_when_nobody_can_tell() {
        let ((keeper, gate), mut looks) = (Keeper::new("splunk"), Looks::begin());
        tokio::time::advance(UNKNOWN_MAX).await;
        looks.note(&[keeper], Err(anyhow::anyhow!("no right")));
        gate.opened(&CancellationToken::new()).await;
    }

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
