//! The open connections of a server: what each waits for, and which are dropped when there is no more room.
//!
//! Waiting costs a peer nothing, so a stranger can open as many connections as there are places. When no place is free,
//! some of the connections that wait for their peer are dropped. Those of the peer that has most of them go first. Of
//! its connections, those without a complete head go before those whose body comes slowest. Connections that have
//! carried a verified request go last of all.
//!
//! A connection may wait for [`STAY_MIN`] before it can be dropped, which is enough for a sender's head or next packet.
//! It is never dropped while its request has come in whole and is being served. As long as there is room nobody is
//! dropped, because behind a load balancer all peers have one address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{Gauge, counter, gauge};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::open_files;
use crate::observe::metrics::{CONNECTIONS, CONNECTIONS_DROPPED};

/// A connection may wait for its peer this long before it can be dropped for another. Under a flood this bounds how
/// many connections are let in per second: twice as many as there are places.
pub const STAY_MIN: Duration = Duration::from_millis(500);
/// A body that comes at this pace is never late. 25 MiB within eight seconds come fifty times as fast.
const PACE_BYTES_PER_S: u64 = 64 << 10;
/// Looking through all connections costs the same for one as for many. So one place in this many is made free at once.
const SHED_PART: usize = 64;
/// How often drops are reported at most.
const REPORT_PERIOD: Duration = Duration::from_secs(10);

const IDLE: u8 = 0;
const BODY: u8 = 1;
const SERVED: u8 = 2;

/// What connections that may be dropped wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// They wait for a head, or for the rest of a body.
    ForAnything,
    /// They wait for the rest of a body, whose beginning takes room.
    ForBody,
}

/// The connections of one server. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    listener: &'static str,
    max: usize,
    began: Instant,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Connection>>,
    unreported: Mutex<Unreported>,
    count: Gauge,
}

/// What was dropped and not reported yet.
#[derive(Default)]
struct Unreported {
    at: Option<Instant>,
    dropped: usize,
}

/// One connection, as its requests see it. Cheap to clone.
#[derive(Clone)]
pub struct Connection(Arc<State>);

struct State {
    peer: IpAddr,
    began: Instant,
    phase: AtomicU8,
    /// Until when what has come has earned it a stay, in microseconds since `began`.
    earned_us: AtomicU64,
    /// It waits for us, and not for its peer.
    held: AtomicBool,
    proven: AtomicBool,
    drop: CancellationToken,
}

/// Keeps a connection among the open ones until it is dropped.
pub(super) struct Opened {
    id: u64,
    connection: Connection,
    all: Connections,
}

impl Connections {
    /// No connections yet, and at most `max` at once, or fewer when the process may not open that many files.
    /// `listener` names the server in metrics and messages.
    #[must_use]
    pub fn new(listener: &'static str, max: usize) -> Self {
        let possible = open_files::connections_max().unwrap_or(usize::MAX);
        if possible < max {
            tracing::warn!(
                listener,
                connections_max = possible,
                configured = max,
                "the limit of open files allows fewer connections than configured; raise the hard limit \
                 (`ulimit -Hn`, systemd's LimitNOFILE)"
            );
        }
        Self(Arc::new(Inner {
            listener,
            max: max.min(possible),
            began: Instant::now(),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            unreported: Mutex::default(),
            count: gauge!(CONNECTIONS, "listener" => listener),
        }))
    }

    /// How many there may be at once.
    #[must_use]
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// Drops some of those that wait for `what`, if any has waited for [`STAY_MIN`]. Returns how many.
    pub fn shed(&self, what: Waiting) -> usize {
        let victims = self.victims(what);
        for (reason, connection) in &victims {
            counter!(CONNECTIONS_DROPPED, "listener" => self.0.listener, "reason" => *reason).increment(1);
            connection.0.drop.cancel();
        }
        if !victims.is_empty() {
            self.tell(victims.len());
        }
        victims.len()
    }

    fn victims(&self, what: Waiting) -> Vec<(&'static str, Connection)> {
        let now_us = micros(self.0.began);
        let mut waiting: HashMap<IpAddr, usize> = HashMap::new();
        let mut late = Vec::new();
        for connection in self.open_ones().values() {
            let state = &connection.0;
            let (phase, proven) = (state.phase.load(Ordering::Relaxed), state.proven.load(Ordering::Relaxed));
            if phase == SERVED || state.held.load(Ordering::Relaxed) || state.drop.is_cancelled() {
                continue;
            }
            if !proven {
                *waiting.entry(state.peer).or_default() += 1;
            }
            let late_us = now_us.saturating_sub(state.earned_us.load(Ordering::Relaxed));
            if u128::from(late_us) >= STAY_MIN.as_micros() && (what == Waiting::ForAnything || phase == BODY) {
                late.push((proven, phase, late_us, connection.clone()));
            }
        }
        let most = |peer: &IpAddr| waiting.get(peer).copied().unwrap_or_default();
        let order = |(proven, phase, late_us, connection): &(bool, u8, u64, Connection)| {
            (*proven, std::cmp::Reverse(most(&connection.0.peer)), *phase, std::cmp::Reverse(*late_us))
        };
        // Drop one at a time when waiting for a body's room, because bodies differ in size. Also drop proven
        // connections one at a time, because they are worth keeping.
        let count = if what == Waiting::ForBody { 1 } else { (self.0.max / SHED_PART).max(1) };
        if late.len() > count {
            late.select_nth_unstable_by_key(count, order);
            late.truncate(count);
        }
        late.sort_unstable_by_key(order);
        let unproven = late.iter().take_while(|(proven, ..)| !proven).count();
        late.truncate(unproven.max(1));
        let reason = |phase| if phase == IDLE { "idle" } else { "body_slow" };
        late.into_iter().map(|(_, phase, _, connection)| (reason(phase), connection)).collect()
    }

    /// Reports that a listener does not accept.
    pub(super) fn cannot_accept(&self, error: &io::Error) {
        tracing::debug!(%error, listener = self.0.listener, "cannot accept a connection");
        if self.due_report(0).is_some() {
            tracing::warn!(%error, listener = self.0.listener, "cannot accept a connection; tries again");
        }
    }

    fn tell(&self, count: usize) {
        if let Some(dropped) = self.due_report(count) {
            tracing::warn!(
                listener = self.0.listener,
                dropped,
                connections_max = self.0.max,
                "no room for further connections or bodies; those that wait longest for their peer are dropped"
            );
        }
    }

    fn due_report(&self, dropped: usize) -> Option<usize> {
        let mut unreported = self.0.unreported.lock().unwrap_or_else(PoisonError::into_inner);
        unreported.dropped += dropped;
        if unreported.at.is_some_and(|at| at.elapsed() < REPORT_PERIOD) {
            return None;
        }
        unreported.at = Some(Instant::now());
        Some(std::mem::take(&mut unreported.dropped))
    }

    pub(super) fn open(&self, peer: IpAddr) -> Opened {
        let connection = Connection(Arc::new(State {
            peer: one_peer(peer),
            began: self.0.began,
            phase: AtomicU8::new(IDLE),
            earned_us: AtomicU64::new(micros(self.0.began)),
            held: AtomicBool::new(false),
            proven: AtomicBool::new(false),
            drop: CancellationToken::new(),
        }));
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.open_ones().insert(id, connection.clone());
        self.0.count.increment(1);
        Opened { id, connection, all: self.clone() }
    }

    fn open_ones(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    pub(super) const fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.all.open_ones().remove(&self.id);
        self.all.0.count.decrement(1);
    }
}

impl Connection {
    /// Whose it is: an IPv4 address, or the network of an IPv6 address that one customer gets (/64). Behind a load
    /// balancer that is the load balancer.
    #[must_use]
    pub fn peer(&self) -> IpAddr {
        self.0.peer
    }

    /// Its present request was verified. Until its next request it is among the last to be dropped.
    pub fn prove(&self) {
        self.0.proven.store(true, Ordering::Relaxed);
    }

    /// It waits for us, and not for its peer. It is not dropped until [`Connection::goes_on`].
    pub fn waits_for_us(&self) {
        self.0.held.store(true, Ordering::Relaxed);
    }

    /// It waits for its peer again, as before.
    pub fn goes_on(&self) {
        self.0.earned_us.store(micros(self.0.began), Ordering::Relaxed);
        self.0.held.store(false, Ordering::Relaxed);
    }

    pub(super) fn request_began(&self, is_whole: bool) {
        // Clear this in case an earlier request was given up while it waited.
        self.0.held.store(false, Ordering::Relaxed);
        // Load balancers carry requests of many senders over one connection, so the next request may be a stranger's.
        self.0.proven.store(false, Ordering::Relaxed);
        self.enter(if is_whole { SERVED } else { BODY });
    }

    pub(super) fn came(&self, bytes: usize) {
        let earned_us = self.0.earned_us.load(Ordering::Relaxed);
        let more_us = (bytes as u64).saturating_mul(1_000_000) / PACE_BYTES_PER_S;
        self.0.earned_us.store(earned_us.saturating_add(more_us).min(micros(self.0.began)), Ordering::Relaxed);
    }

    pub(super) fn request_is_in(&self) {
        self.0.phase.store(SERVED, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.enter(IDLE);
    }

    /// Resolves when the connection must close.
    pub(super) async fn dropped(&self) {
        self.0.drop.cancelled().await;
    }

    fn enter(&self, phase: u8) {
        self.0.earned_us.store(micros(self.0.began), Ordering::Relaxed);
        self.0.phase.store(phase, Ordering::Relaxed);
    }
}

fn micros(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// What counts as one peer: an IPv4 address, or the network of an IPv6 address that one customer gets (/64).
fn one_peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Which of `opened` were dropped.
    fn dropped(opened: &[Opened]) -> Vec<usize> {
        let gone = opened.iter().enumerate().filter(|(_, opened)| opened.connection.0.drop.is_cancelled());
        gone.map(|(index, _)| index).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_before_its_time_or_while_it_is_served() {
        let all = Connections::new("test", 4);
        let opened = [all.open(address("10.0.0.1")), all.open(address("10.0.0.1"))];
        opened[1].connection.request_began(true);
        assert_eq!(all.shed(Waiting::ForAnything), 0);
        advance(STAY_MIN).await;
        assert_eq!((all.shed(Waiting::ForBody), all.shed(Waiting::ForAnything)), (0, 1));
        assert_eq!(all.shed(Waiting::ForAnything), 0, "who goes is not counted again");
        assert_eq!(dropped(&opened), [0]);
        opened[1].connection.answered();
        advance(STAY_MIN).await;
        assert_eq!(all.shed(Waiting::ForAnything), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_idle_go_first_then_the_slowest_then_the_proven() {
        let all = Connections::new("test", 4);
        let opened = [0; 5].map(|_| all.open(address("10.0.0.1")));
        let [proven, fast, slow, silent, idle] = opened.each_ref().map(Opened::connection);
        proven.request_began(true);
        proven.prove();
        proven.answered();
        for body in [fast, slow, silent] {
            body.request_began(false);
        }
        advance(Duration::from_secs(2)).await;
        fast.came(1 << 20);
        slow.came(10 << 10);
        advance(STAY_MIN).await;
        let mut order = Vec::new();
        while all.shed(Waiting::ForAnything) > 0 {
            order.extend(dropped(&opened).into_iter().filter(|index| !order.contains(index)).collect::<Vec<_>>());
        }
        assert!(!idle.0.proven.load(Ordering::Relaxed));
        assert_eq!(order, [4, 3, 2, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_with_most_connections_loses_them() {
        let all = Connections::new("test", 4);
        let sender = all.open(address("10.0.0.2"));
        advance(STAY_MIN).await;
        // One customer's network is one peer, whatever of it an address ends in.
        let strangers = [1, 2, 3].map(|host| all.open(address(&format!("2001:db8::{host}"))));
        advance(STAY_MIN).await;
        assert_eq!(all.shed(Waiting::ForAnything), 1);
        assert_eq!(all.shed(Waiting::ForAnything), 1);
        assert_eq!(dropped(&strangers).len(), 2, "though the sender waits longer");
        assert!(!sender.connection.0.drop.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_us_is_not_late() {
        let all = Connections::new("test", 4);
        let opened = [all.open(address("10.0.0.1"))];
        opened[0].connection.request_began(false);
        opened[0].connection.waits_for_us();
        advance(2 * STAY_MIN).await;
        assert_eq!(all.shed(Waiting::ForBody), 0);
        opened[0].connection.goes_on();
        assert_eq!(all.shed(Waiting::ForBody), 0);
        advance(STAY_MIN).await;
        assert_eq!(all.shed(Waiting::ForBody), 1);
    }
}
