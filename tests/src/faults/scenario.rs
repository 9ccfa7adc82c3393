//! What runs, and what happens to it.

use super::Fault;

/// A set-up of servers and processes with the kinds of faults that it is for.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called on the command line and in reports.
    pub name: &'static str,
    /// The kinds of faults, each as often as the others.
    pub faults: &'static [Fault],
    /// NATS servers: 1, or 3 for a cluster with three copies of each stream.
    pub nats_servers: usize,
    /// Splunk and Jira are receivers too, and some of the deliveries are for them.
    pub receivers: bool,
    /// NATS and ClickHouse each have a file system of their own that can be filled. To mount one needs the right to.
    pub small_disks: bool,
}

impl Scenario {
    /// What the long run goes through.
    pub const ALL: [Self; 3] = [Self::ONE, Self::CLUSTER, Self::DISKS];
    /// One NATS server.
    pub const ONE: Self = Self {
        name: "one",
        faults: &[
            Fault::KillGateway,
            Fault::KillPipeline,
            Fault::KillSink,
            Fault::KillNats,
            Fault::KillClickHouse,
            Fault::KillAll,
            Fault::FreezePipeline,
            Fault::FreezeSink,
            Fault::FreezeClickHouse,
            Fault::FreezeNats,
            Fault::CrashGateway,
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
            Fault::NetworkNats,
            Fault::NetworkClickHouse,
            Fault::NetworkGateway,
        ],
        nats_servers: 1,
        receivers: true,
        small_disks: false,
    };
    /// Three NATS servers.
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
            Fault::KillAll,
            Fault::Rescale,
        ],
        nats_servers: 3,
        receivers: false,
        small_disks: false,
    };
    /// Disks that fill up.
    pub const DISKS: Self = Self {
        name: "disks",
        faults: &[Fault::DiskFullNats, Fault::DiskFullClickHouse, Fault::KillNats, Fault::KillClickHouse],
        nats_servers: 1,
        receivers: false,
        small_disks: true,
    };
}
