//! The command line.

mod chain;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use serde::{Serialize, Serializer};

pub(crate) use self::chain::{Ages, Chain, SuspectsBy};

const EXIT_CODES: &str =
    "Exit codes: 0 measured and every count agrees, 1 something failed or was lost, 2 the command line is wrong.";

/// The directory of other commits' programs: see `compare`.
pub(crate) const PRODUCTS: &str = "products";

/// Measures Headrace on this machine, with servers of its own. One JSON object goes to stdout, everything else to
/// stderr.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) case: Case,
}

impl Cli {
    /// Reads `arguments`, the first of which is the program. Also checks what clap cannot: options by each other's values.
    pub(crate) fn read<I>(arguments: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString> + Clone,
    {
        let cli = Self::try_parse_from(arguments)?;
        let checked = if let Case::Chain(chain) = &cli.case { chain.check() } else { Ok(()) };
        checked.map_err(|problem| Self::command().error(ErrorKind::ValueValidation, problem))?;
        Ok(cli)
    }
}

/// The cases.
#[derive(Debug, Subcommand)]
pub(crate) enum Case {
    /// The gateway with NATS alone, compared with what NATS accepts from a client without a gateway.
    #[command(after_help = format!("Example:\n  headrace-benches ingest --rate 20000 --seconds 60\n\n{EXIT_CODES}"))]
    Ingest(Ingest),
    /// Everything, from the webhook to the rows in ClickHouse.
    #[command(after_help = format!("Example:\n  headrace-benches chain --rate 11574 --seconds 60\n\n{EXIT_CODES}"))]
    Chain(Chain),
    /// How long an event takes to reach a subscriber and to become a row, at a given rate.
    #[command(after_help = format!("Example:\n  headrace-benches latency --rate 5000 --seconds 30\n\n{EXIT_CODES}"))]
    Latency(Latency),
    /// Nothing lost, nothing twice: processes, disks and networks fail under load for a long time.
    #[command(after_help = format!("Example:\n  headrace-benches faults --minutes 30 --seed 1\n\n{EXIT_CODES}"))]
    Faults(Faults),
    /// Minutes without ClickHouse at full load: memory, refusals once the stream is full, and the time to catch up.
    #[command(after_help = format!("Example:\n  headrace-benches outage --minutes 10 --rate 5000\n\n{EXIT_CODES}"))]
    Outage(Outage),
    /// How long alerts stand still after NATS was killed once, while matching events arrive.
    #[command(after_help = format!("Example:\n  headrace-benches crash --count 16000\n\n{EXIT_CODES}"))]
    Crash(Crash),
    /// Bodies of many megabytes while ClickHouse stands still: memory, and the time to catch up.
    #[command(after_help = format!("Example:\n  headrace-benches large-bodies --count 1000\n\n{EXIT_CODES}"))]
    LargeBodies(LargeBodies),
    /// How much NATS stores from one client, by when NATS syncs, how many servers there are, and how the client
    /// publishes.
    #[command(after_help = format!("Example:\n  headrace-benches durability --seconds 1 --rounds 3\n\n{EXIT_CODES}"))]
    Durability(Durability),
    /// The hot functions alone, on one core.
    #[command(after_help = format!("Example:\n  headrace-benches micro --seconds 2\n\n{EXIT_CODES}"))]
    Micro(Micro),
    /// The same case with this product and with that of another commit, in turn.
    #[command(after_help = format!(
        "Example:\n  headrace-benches compare --with main --rounds 5 -- chain --rate 0 --seconds 60\n\n{EXIT_CODES}"
    ))]
    Compare(Compare),
}

/// What a load sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Variety {
    /// Each delivery has ids, hashes, times, names and texts of its own.
    #[default]
    Varied,
    /// The bodies come again and again, byte for byte.
    Repeated,
}

/// What to send.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Sending {
    /// Whether each delivery has a body of its own.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) load: Variety,
    /// With `--load varied`: how many organizations the deliveries come from; each is a tenant. 0 keeps those of the
    /// bodies.
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = clap::value_parser!(u64).range(..=100_000))]
    pub(crate) organizations: u64,
    /// With `--load varied`: another seed gives other bodies.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Bodies to send, in the form of the index.json of the npm package @octokit/webhooks-examples. By default, that
    /// package's examples for api.github.com.
    #[arg(long, value_name = "FILE")]
    pub(crate) bodies: Option<PathBuf>,
}

/// Whose product is measured.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Tested {
    /// The program that is the product when its first argument is `headrace`: the bench of another build. By default
    /// this one. Load and counting are always of this one.
    #[arg(long, value_name = "PROGRAM")]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "without_home")]
    pub(crate) product: Option<PathBuf>,
}

/// The options of all cases with a load.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Common {
    /// How long to measure, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// How long to load before that, in seconds. This load counts as sent, but in no rate and no latency.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) warmup: u64,
    /// Connections kept open; each has at most one request under way.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub(crate) connections: u16,
    /// What to send.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) sending: Sending,
    /// Whose product is measured.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) tested: Tested,
}

impl Common {
    /// `seconds` as a duration.
    pub(crate) const fn window(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// `warmup` as a duration.
    pub(crate) const fn warmup(&self) -> Duration {
        Duration::from_secs(self.warmup)
    }
}

/// `headrace-benches ingest`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Ingest {
    /// Deliveries per second; 0 sends the next as soon as a connection is free.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0)]
    pub(crate) rate: u32,
    /// How the load is made.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
}

/// `headrace-benches latency`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Latency {
    /// Deliveries per second.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// How the load is made.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
}

/// `headrace-benches outage`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Outage {
    /// How long ClickHouse stands still, in minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    pub(crate) minutes: u64,
    /// Deliveries per second.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// What RAW holds at most, in bytes; at most a quarter of the free disk. By default, half of what arrives during
    /// the outage, so that RAW is full about halfway.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub(crate) raw_bytes: Option<u64>,
    /// How long to load before the outage, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) warmup: u64,
    /// How long the load goes on after ClickHouse's return, in seconds; within this time, the gateway must accept
    /// again.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) after: u64,
    /// How often to read memory and answers, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(crate) every: u64,
    /// Connections kept open; each has at most one request under way.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub(crate) connections: u16,
    /// What to send.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) sending: Sending,
    /// Whose product is measured.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) tested: Tested,
}

impl Outage {
    /// `minutes` as a duration.
    pub(crate) const fn outage(&self) -> Duration {
        Duration::from_secs(self.minutes * 60)
    }

    /// `warmup` as a duration.
    pub(crate) const fn warmup(&self) -> Duration {
        Duration::from_secs(self.warmup)
    }

    /// `after` as a duration.
    pub(crate) const fn after(&self) -> Duration {
        Duration::from_secs(self.after)
    }

    /// `every` as a duration.
    pub(crate) const fn every(&self) -> Duration {
        Duration::from_secs(self.every)
    }
}

/// `headrace-benches crash`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Crash {
    /// How many deliveries to send; each makes an alert of its own.
    #[arg(long, value_name = "COUNT", default_value_t = 16_000, value_parser = clap::value_parser!(u16).range(1_000..=60_000))]
    pub(crate) count: u16,
    /// Whose product is measured.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) tested: Tested,
}

/// `headrace-benches large-bodies`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct LargeBodies {
    /// How many bodies to send; all of them are on the disk at once.
    #[arg(long, value_name = "COUNT", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// Size of each body, in bytes. Bodies above NATS' max_payload of 8 MiB are stored as objects.
    #[arg(long, value_name = "BYTES", default_value_t = 20_971_520, value_parser = parse_body_bytes)]
    pub(crate) bytes: usize,
    /// Run gateway, stages and sinks as one process, which gets no more than so many MB of memory from the system
    /// (RLIMIT_DATA).
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(128..=65_536))]
    pub(crate) limit_mb: Option<u64>,
    /// Whose product is measured.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) tested: Tested,
}

/// `headrace-benches durability`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Durability {
    /// How long to measure each choice in each round, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// How often to go over all choices; a figure is the median of its rounds.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Only messages that are confirmed one by one: what the choice of `sync_interval` costs, without the batches.
    #[arg(long)]
    pub(crate) singles: bool,
    /// What to send.
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) sending: Sending,
}

/// `headrace-benches micro`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Micro {
    /// How long to measure each function, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Only the functions whose names begin with this, for example to profile one.
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Option<String>,
    /// Bodies to work on; as for the other cases.
    #[arg(long, value_name = "FILE")]
    pub(crate) bodies: Option<PathBuf>,
}

/// `headrace-benches faults`
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct Faults {
    /// How long faults are made, in all scenes together, in minutes.
    #[arg(long, value_name = "MINUTES", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1_440))]
    pub(crate) minutes: u64,
    /// The seed that decides what happens and when.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,
    /// New deliveries per second.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// Only these scenes: one, cluster, disks. By default all; disks needs the right to mount.
    #[arg(long, value_name = "NAME")]
    pub(crate) scene: Vec<String>,
    /// Where the servers keep their data; it is kept when something is wrong. By default a new directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// `headrace-benches compare`
#[derive(Clone, Debug, Args)]
pub(crate) struct Compare {
    /// The commit whose product is the other one. It is built as this program was: the same profile and features.
    #[arg(long, value_name = "COMMIT")]
    pub(crate) with: String,
    /// How many pairs of runs.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// The figures to compare, as the case prints them: `rows_rate`, `processes.nats.cpu_us_per_event`. By default the
    /// case's rate.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) figure: Vec<String>,
    /// Where other commits are built, and kept for the next time. By default in Headrace's cache.
    #[arg(long, value_name = "DIR")]
    pub(crate) target_dir: Option<PathBuf>,
    /// The case and its arguments.
    #[arg(value_name = "CASE", required = true, last = true)]
    pub(crate) case: Vec<String>,
}

/// A result says which commit's product it is of, not where that lay.
fn without_home<S: Serializer>(product: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    let parts = || product.iter().flat_map(|path| path.components());
    let home =
        parts().position(|part| part.as_os_str() == PRODUCTS).map_or(parts().count().saturating_sub(1), |at| at + 1);
    parts().skip(home).collect::<PathBuf>().serialize(serializer)
}

fn parse_body_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| (1_024..=25 << 20).contains(bytes));
    bytes.ok_or_else(|| "expected 1024 to 26214400, what the gateway takes".to_owned())
}
