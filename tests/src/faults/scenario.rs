//! The scenarios: which servers and processes run, and which faults happen to them.

use super::{Death, Fault};

/// A set of servers and processes, with the kinds of faults for it.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// The kinds of faults. All are equally likely.
    pub faults: &'static [Fault],
    /// NATS servers: 1, or 3 for a cluster with three replicas of each stream.
    pub nats_servers: usize,
    /// Whether Splunk and Jira are receivers too, and some deliveries are for them.
    pub receivers: bool,
    /// Where the role `collect` reads lines.
    pub origin: Origin,
    /// Who dies while a sink that was set aside catches up. `None` leaves it to the seed.
    pub death: Option<Death>,
    /// The file systems of NATS and ClickHouse that can be filled, if each has one of its own. Mounting needs the right
    /// to.
    pub disks: Option<SmallDisks>,
}

/// Where lines are written, for the role `collect` to read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The files of a folder.
    Folder,
    /// The objects of a bucket.
    Bucket,
}

/// Two file systems of one size, for NATS and for ClickHouse.
#[derive(Clone, Copy, Debug)]
pub struct SmallDisks {
    /// The size of each in bytes. A run must not fill it without a fault.
    pub bytes: u64,
    /// For how long it is full, in milliseconds: at least and at most. It stays full until writes are refused.
    pub full_ms: (u64, u64),
}

impl Scenario {
    /// The scenarios of the long run.
    pub const ALL: [Self; 3] = [Self::ONE, Self::CLUSTER, Self::DISKS];
    /// One NATS server.
    pub const ONE: Self = Self {
        name: "one",
        faults: &[
            Fault::KillGateway,
            Fault::KillCollect,
            Fault::KillPipeline,
            Fault::KillSink,
            Fault::KillNats,
            Fault::KillClickHouse,
            Fault::KillAll,
            Fault::FreezeCollect,
            Fault::FreezePipeline,
            Fault::FreezeSink,
            Fault::FreezeClickHouse,
            Fault::FreezeNats,
            Fault::CrashGateway,
            Fault::CrashCollect,
            Fault::CrashPipeline,
            Fault::CrashSink,
            Fault::RollingRestart,
            Fault::Rescale,
            Fault::SinksAway,
            Fault::ReadOnlyClickHouse,
            Fault::TooManyParts,
            Fault::MemoryLimit,
            Fault::ReceiversFail,
            Fault::ReceiversAway,
            Fault::SetAside,
            Fault::NetworkNats,
            Fault::NetworkClickHouse,
            Fault::NetworkGateway,
        ],
        nats_servers: 1,
        receivers: true,
        origin: Origin::Folder,
        death: None,
        disks: None,
    };
    /// Three NATS servers, and a bucket.
    pub const CLUSTER: Self = Self {
        name: "cluster",
        faults: &[
            Fault::KillLeader,
            Fault::KillNats,
            Fault::FreezeNats,
            Fault::RollingNats,
            Fault::KillPipeline,
            Fault::KillSink,
            Fault::KillGateway,
            Fault::KillClickHouse,
            Fault::KillCollect,
            Fault::KillAll,
            Fault::FreezeCollect,
            Fault::CrashCollect,
            Fault::Rescale,
            Fault::BucketFails,
            Fault::NetworkBucket,
        ],
        nats_servers: 3,
        receivers: false,
        origin: Origin::Bucket,
        death: None,
        disks: None,
    };
    /// Disks that fill up.
    pub const DISKS: Self = Self {
        name: "disks",
        faults: &[Fault::DiskFullNats, Fault::DiskFullClickHouse, Fault::KillNats, Fault::KillClickHouse],
        nats_servers: 1,
        receivers: false,
        origin: Origin::Folder,
        death: None,
        disks: Some(SmallDisks { bytes: 4 << 30, full_ms: (3_000, 15_000) }),
    };
}
