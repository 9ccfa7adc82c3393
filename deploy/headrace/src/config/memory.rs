//! What the parts of a process need in memory, and how its budget is divided among them.
//!
//! The needs follow from the configuration and from the largest message that the broker takes. The arithmetic is in
//! [`headrace_runtime::memory`], with the reasons why nobody waits for ever.

use anyhow::Context as _;
use headrace_ingest::github::recovery;
use headrace_ingest::sources;
use headrace_runtime::aside::feeder;
use headrace_runtime::broker::{HEADER_ROOM_BYTES, Stream};
use headrace_runtime::component::sink::SinkOptions;
use headrace_runtime::component::subscription::WhenBehind;
use headrace_runtime::config::Invalid;
use headrace_runtime::consume::chain::{SLICE_BYTES_MAX, TAKE_MAX, TAKE_MAX_BYTES};
use headrace_runtime::consume::stream_reader;
use headrace_runtime::memory::divide::{Division, Need, Reader, Room, TooSmall};
use headrace_runtime::memory::limit::limit;
use headrace_runtime::memory::{BODY_COPIES_DELIVERED, BODY_COPIES_READ, MESSAGE_BYTES, Share};
use headrace_runtime::message::payload::Payload;
use headrace_schemas::codec::RECORD_MAX_BYTES;
use headrace_schemas::event::Event;

use super::Config;
use crate::role::Role;

/// The largest message to reckon with before a broker is asked: NATS recommends 8 MiB as the highest `max_payload`.
const MESSAGE_MAX_USUAL: usize = (8 << 20) + HEADER_ROOM_BYTES;
/// What a slice of usual events takes besides its bodies.
const SLICE_EVENTS_BYTES: usize = 1 << 20;
/// The size of a usual event's message, to reckon with where many are read at once.
const EVENT_MESSAGE_BYTES: usize = 512;

/// What a body takes more than its bytes while it is unpacked.
const UNPACKED_BYTES: usize = 4 << 20;
/// The most bytes of bodies in a batch of a replay.
const REPLAY_BYTES_MAX: usize = 64 << 20;
/// The fewest deliveries that a batch of a replay may have. Look-ups and removals read whole hours of a table, so smaller
/// batches cost more.
const REPLAY_DELIVERIES_MIN: usize = 500;

/// What else lives on the memory that this process may have: the servers that `up` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beside {
    /// Nothing.
    Nothing,
    /// A NATS server, for which a fifth is left.
    Nats,
    /// An embedded ClickHouse, which takes up to half, and perhaps a NATS server, for which a tenth is left.
    ClickHouse,
}

impl Beside {
    /// The budget that leaves room for it, where `limit` bytes are allowed in all. A process takes 1.6 times its budget: the
    /// rest is for the program, what the allocator keeps, and the buffers of connections.
    const fn budget(self, limit: usize) -> usize {
        match self {
            Self::Nothing => limit / 8 * 5,
            Self::Nats => limit / 2,
            Self::ClickHouse => limit / 4,
        }
    }
}

/// The budget of a process, divided.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'c> {
    config: &'c Config,
    message_max: usize,
    division: Division,
}

/// What a component takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Bodies.
    Bodies,
    /// Events or alerts.
    Events,
}

impl Takes {
    /// What a component takes that reads `stream`.
    pub(crate) const fn of(stream: Stream) -> Self {
        match stream {
            Stream::Raw => Self::Bodies,
            _ => Self::Events,
        }
    }
}

impl<'c> Memory<'c> {
    /// Divides the budget among the parts of a process of `roles`. The broker's largest message has `message_max` bytes.
    ///
    /// # Errors
    /// When the configured budget is too small.
    pub(crate) fn divide(
        config: &'c Config,
        roles: &[Role],
        message_max: usize,
        beside: Beside,
    ) -> anyhow::Result<Self> {
        let need = need(config, roles, message_max);
        let division = divided(config, need, beside)
            .context("expected a higher `memory.budget_mb`, or processes of their own for the roles")?;
        let (budget_mb, most_mb) = (division.bytes / 1_000_000, need.most.div_ceil(1_000_000));
        tracing::info!(budget_mb, most_mb, "memory is divided; beyond `most_mb` a larger budget is of no use");
        Ok(Self { config, message_max, division })
    }

    /// The budget, in bytes.
    pub(crate) const fn budget(&self) -> usize {
        self.division.bytes
    }

    /// What the gateway may hold.
    pub(crate) fn gateway(&self) -> usize {
        self.division.of(gateway(self.config))
    }

    /// What a worker of the chain `name` may hold.
    pub(crate) fn chain(&self, name: &str, takes: Takes, workers: usize) -> Share {
        chain(self.config, takes, workers, self.message_max).share(name, &self.division)
    }

    /// What a worker of the sink `name` may hold.
    pub(crate) fn sink(&self, name: &str, takes: Takes, options: &SinkOptions) -> Share {
        sink(self.config, takes, options, self.message_max).share(name, &self.division)
    }

    /// What the worker may hold that brings a sink what it has missed.
    pub(crate) fn catch_up(&self, name: &str, options: &SinkOptions) -> Share {
        self.sink(name, Takes::Events, &SinkOptions { workers: 1, ..options.clone() })
    }
}

/// What a replay may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplayBatch {
    /// The most deliveries in a batch.
    pub(crate) deliveries_max: usize,
    /// The most bytes of their bodies. A larger body is a batch of its own.
    pub(crate) bytes_max: usize,
}

/// How large the batches of a replay may be, of at most `deliveries_max` deliveries.
///
/// # Errors
/// When the configured budget is too small.
pub(crate) fn replay(config: &Config, deliveries_max: usize) -> anyhow::Result<ReplayBatch> {
    let body = config.ingest.body_max_bytes;
    let bodies = Need::new(body, REPLAY_BYTES_MAX);
    let deliveries = Need::new(REPLAY_DELIVERIES_MIN.min(deliveries_max), deliveries_max);
    let page = stream_reader::PAGE_BYTES + stream_reader::PAGE * MESSAGE_BYTES;
    // Only one body at a time is read or written, and then it is there more than once.
    let fixed = Need::new(page + body.saturating_mul(BODY_COPIES_DELIVERED - 1), 0);
    let need = fixed.and(bodies).and(deliveries.times(Event::decoded_bytes(EVENT_MESSAGE_BYTES)));
    let division = divided(config, need, Beside::Nothing).context("a replay needs a higher `memory.budget_mb`")?;
    Ok(ReplayBatch { deliveries_max: division.of(deliveries), bytes_max: division.of(bodies) })
}

/// A wrong `memory.budget_mb`, as far as it can be told without asking the broker.
pub(super) fn validate(config: &Config, roles: &[Role]) -> Option<Invalid> {
    let error = Division::new(config.memory.budget()?, need(config, roles, MESSAGE_MAX_USUAL)).err()?;
    let message = format!(
        "expected at least {} MB for these roles, found {}; set it higher, or give the roles processes of their own",
        error.least_mb, error.found_mb
    );
    Some(Invalid::new("memory.budget_mb", message))
}

/// Divides the configured budget, or the default one, among those who need `need` in all.
fn divided(config: &Config, need: Need, beside: Beside) -> Result<Division, TooSmall> {
    Division::new(config.memory.budget().unwrap_or_else(|| default_budget(need.least, beside)), need)
}

/// The budget that nobody set.
fn default_budget(least: usize, beside: Beside) -> usize {
    let limit = limit().unwrap_or(usize::MAX);
    let budget = beside.budget(limit);
    if budget < least {
        let (limit_mb, least_mb) = (limit / 1_000_000, least.div_ceil(1_000_000));
        tracing::warn!(
            limit_mb,
            least_mb,
            "this process may need more memory than it is allowed to have; give it more, or fewer roles or `pipeline.lanes`"
        );
    }
    budget.max(least)
}

fn need(config: &Config, roles: &[Role], message_max: usize) -> Need {
    let mut needs = Vec::new();
    if roles.contains(&Role::Ingest) {
        needs.push(gateway(config));
    }
    if roles.contains(&Role::Collect) {
        // What cannot be set up is told at the start.
        let pulls = sources::pulls(&config.ingest, config.for_sources()).unwrap_or_default();
        needs.extend(pulls.iter().map(|pull| Need::new(pull.page_bytes_max(), 0)));
    }
    if roles.contains(&Role::Pipeline) {
        let lanes = config.pipeline.lanes;
        let chains = config.pipeline.chains.iter().enumerate().map(|(number, _)| {
            let takes = if number == 0 { Takes::Bodies } else { Takes::Events };
            chain(config, takes, lanes, message_max)
        });
        let alert = chain(config, Takes::Events, 1, message_max);
        needs.extend(chains.chain([alert]).map(|reader| reader.need()));
    }
    if roles.contains(&Role::Sinks) {
        let of = |stream, options: &SinkOptions| sink(config, Takes::of(stream), options, message_max).need();
        for instance in config.sinks.iter() {
            // Whose it is has no part in what it needs.
            for (component, part) in instance.parts("").unwrap_or_default() {
                needs.push(of(part.stream(), &part.options));
                let when_behind = config.sinks.owner(instance, component.stream).when_behind;
                if when_behind == WhenBehind::SetAside && config.clickhouse().is_some() {
                    needs.push(of(part.stream(), &SinkOptions { workers: 1, ..part.options }));
                    needs.push(Need::new(feeder::PAGE_BYTES, 0));
                }
            }
        }
    }
    if let Some(recover) = config.recover.as_ref().filter(|_| roles.contains(&Role::Recover)) {
        needs.push(Need::new(recovery::bytes_max(recover), 0));
    }
    needs.into_iter().fold(Need::default(), Need::and)
}

/// The largest body with its records, or the same body as it is unpacked.
fn gateway(config: &Config) -> Need {
    let (all, body) = (config.ingest.in_flight_max_bytes, config.ingest.body_max_bytes);
    let records = config.ingest.ndjson.as_ref().map_or(0, |ndjson| ndjson.records_bytes_max());
    Need::new(body.saturating_add(records.max(UNPACKED_BYTES)).min(all), all)
}

fn chain(config: &Config, takes: Takes, workers: usize, message_max: usize) -> Reader {
    let largest = match takes {
        Takes::Bodies => config.ingest.body_max_bytes.saturating_mul(BODY_COPIES_READ) + SLICE_EVENTS_BYTES,
        Takes::Events => Event::decoded_bytes(RECORD_MAX_BYTES),
    };
    Reader {
        workers,
        events_max: TAKE_MAX,
        bytes_max: TAKE_MAX_BYTES,
        message_max,
        values: Need::new(largest, SLICE_BYTES_MAX),
        room: Room::Shared,
    }
}

fn sink(config: &Config, takes: Takes, options: &SinkOptions, message_max: usize) -> Reader {
    let batching = options.batching;
    let values = match takes {
        Takes::Bodies => {
            let copies = |bytes: usize| bytes.saturating_mul(BODY_COPIES_DELIVERED) + SLICE_EVENTS_BYTES;
            Need::new(copies(config.ingest.body_max_bytes), copies(batching.bytes_max))
        }
        Takes::Events => {
            let usual = batching.events_max.saturating_mul(Event::decoded_bytes(EVENT_MESSAGE_BYTES));
            Need::new(Event::decoded_bytes(RECORD_MAX_BYTES), usual)
        }
    };
    let (workers, events_max, bytes_max) = (options.workers, batching.events_max, batching.bytes_max);
    Reader { workers, events_max, bytes_max, message_max, values, room: Room::Own }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_up_starts_beside_itself_leaves_it_less() {
        let limit = 8_000_000_000;
        let budgets = [Beside::Nothing, Beside::Nats, Beside::ClickHouse].map(|beside| beside.budget(limit));
        assert_eq!(budgets, [5_000_000_000, 4_000_000_000, 2_000_000_000]);
        // The process takes 1.6 times its budget, and the embedded ClickHouse up to half of the machine.
        assert!(budgets[2] / 10 * 16 + limit / 2 < limit, "nothing is left to NATS");
    }

    #[test]
    fn each_hook_that_is_looked_after_needs_memory() {
        let hook = "[[recover.hooks]]\nkind = 'organization'\norganization = 'acme'\nhook_id = 7\ntoken = 't'\n";
        let least = |hooks: usize, roles: &[Role]| {
            let config: Config = toml::from_str(&format!("[recover]\n{}", hook.repeat(hooks))).unwrap();
            need(&config, roles, MESSAGE_MAX_USUAL).least
        };
        let (one, two) = (least(1, &[Role::Recover]), least(2, &[Role::Recover]));
        assert!((30_000_000..50_000_000).contains(&one) && two == 2 * one, "{one}, {two}");
        assert_eq!(least(1, &[Role::Collect]), 0, "another process looks after it");
    }
}
