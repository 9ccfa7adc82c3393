//! What happens and when. Only the seed decides it.

use std::time::Duration;

use headrace_runtime::crash::Point;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// `kill -9` of the gateway.
    KillGateway,
    /// `kill -9` of the process that reads the folder or bucket, or of the one that stands by.
    KillCollect,
    /// `kill -9` of a pipeline process.
    KillPipeline,
    /// `kill -9` of a sink process.
    KillSink,
    /// `kill -9` of a NATS server.
    KillNats,
    /// `kill -9` of ClickHouse.
    KillClickHouse,
    /// `kill -9` of everything at once.
    KillAll,
    /// The processes that read the folder or bucket are suspended, one after the other, for longer than the lease.
    FreezeCollect,
    /// A pipeline process is suspended for longer than its `ack_wait`, then resumed.
    FreezePipeline,
    /// A sink process is suspended for longer than its `ack_wait`, then resumed.
    FreezeSink,
    /// ClickHouse is suspended for longer than an insert may take, then resumed.
    FreezeClickHouse,
    /// The gateway crashes at a named point.
    CrashGateway,
    /// A process that reads the folder or bucket crashes at a named point.
    CrashCollect,
    /// A pipeline process crashes at a named point.
    CrashPipeline,
    /// A sink process crashes at a named point.
    CrashSink,
    /// All processes are asked to end and replaced, one after the other.
    RollingRestart,
    /// A pipeline or sink process is added or removed.
    Rescale,
    /// No sink process runs for a while.
    SinksAway,
    /// A NATS server is suspended for a while, then resumed.
    FreezeNats,
    /// ClickHouse refuses inserts: its tables are read-only.
    ReadOnlyClickHouse,
    /// ClickHouse refuses inserts: its tables have too many parts.
    TooManyParts,
    /// ClickHouse gets no more memory from the system.
    MemoryLimit,
    /// Splunk and Jira fail some requests, before or after the requests have their effect.
    ReceiversFail,
    /// Splunk and Jira accept no connections for a while.
    ReceiversAway,
    /// A Splunk takes nothing until its sink is set aside. A process or server is killed while the sink catches up.
    SetAside,
    /// The bucket's service refuses some requests, breaks them off or is slow.
    BucketFails,
    /// The disk under NATS is full for a while.
    DiskFullNats,
    /// The disk under ClickHouse is full for a while.
    DiskFullClickHouse,
    /// No sink process runs until a stream is full.
    FullStreams,
    /// The network to NATS misbehaves.
    NetworkNats,
    /// The network to ClickHouse misbehaves.
    NetworkClickHouse,
    /// The network before the gateway misbehaves.
    NetworkGateway,
    /// The network to the bucket misbehaves.
    NetworkBucket,
    /// `kill -9` of the server that leads a stream (only in a cluster).
    KillLeader,
    /// All NATS servers are replaced, one after the other (only in a cluster).
    RollingNats,
}

/// Who dies while a sink that was set aside catches up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Death {
    /// The process that brings events, when they are in CATCHUP and that is not noted.
    Bringer,
    /// All sink processes: one of them has what was brought.
    Sinks,
    /// A pipeline process.
    Pipeline,
    /// A NATS server.
    Nats,
    /// ClickHouse.
    ClickHouse,
}

impl Death {
    pub(super) const ALL: [Self; 5] = [Self::Bringer, Self::Sinks, Self::Pipeline, Self::Nats, Self::ClickHouse];
}

/// A random choice of faults, with a seed.
pub(super) struct Plan {
    random: StdRng,
    kinds: Vec<Fault>,
    left: Vec<Fault>,
    /// The longest that a fault may last.
    fault_max: Duration,
}

impl Plan {
    /// A plan in which those of `first` come before the `others`, each in a random order. Later rounds mix all.
    pub(super) fn new(seed: u64, first: &[Fault], others: &[Fault], fault_max: Duration) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut first, mut left) = (first.to_vec(), others.to_vec());
        first.shuffle(&mut random);
        left.shuffle(&mut random);
        // `next` takes from the end.
        left.append(&mut first);
        Self { random, kinds: left.clone(), left, fault_max }
    }

    /// The next fault. Each kind comes once before any comes again.
    pub(super) fn next(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.left.shuffle(&mut self.random);
        }
        self.left.pop().expect("a run has at least one kind of fault")
    }

    /// Makes a fault that did not happen the last one of its round.
    pub(super) fn repeat(&mut self, fault: Fault) {
        self.left.insert(0, fault);
    }

    /// The pause before the next fault.
    pub(super) fn gap(&mut self) -> Duration {
        self.millis(100, 1_500)
    }

    /// A duration between two bounds, in milliseconds.
    pub(super) fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    /// How long a fault lasts: between two bounds in milliseconds, but never longer than the run allows.
    pub(super) fn lasting(&mut self, least: u64, most: u64) -> Duration {
        self.millis(least, most).min(self.fault_max)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.random.random_range(0..bound.max(1))
    }

    /// One of `points`, and at which passing of it to crash.
    pub(super) fn point(&mut self, points: &[Point], passings: u64) -> (Point, u64) {
        let point = *points.choose(&mut self.random).expect("points are given");
        (point, self.random.random_range(1..=passings))
    }
}
