//! Moves the rows of an earlier release into the present tables, beside the sinks, and ends when there are none left.
//!
//! Each ClickHouse has a task and a lease of its own. Of several processes one does it, the one with the lease. [`Mover`] has the steps and says why each may be repeated.

use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::broker::Broker;
use headrace_runtime::observe::metrics::tell_earlier_partitions;
use headrace_runtime::state::StateStore;
use headrace_runtime::state::lease::{Job, Lease, lead};
use headrace_sinks::clickhouse::{self, Mover};
use headrace_sinks::kind::Identity;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::role::earlier_tables_lease;

/// How often to ask whether the present tables are made.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How often to look whether the last rows of `raw_1` have expired.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// The tables of earlier releases in one ClickHouse.
pub(crate) struct EarlierTables {
    broker: Broker,
    ttl: Duration,
    /// Our name as the holder of the lease.
    holder: String,
    /// The sink whose ClickHouse it is.
    own: Identity,
    config: clickhouse::Config,
    mover: Mover,
}

impl EarlierTables {
    /// Those of each ClickHouse whose tables this process may change. `installation` is the installation's id.
    pub(crate) fn of(config: &Config, installation: &str, broker: &Broker) -> Vec<Self> {
        let ttl = config.replay.lease();
        let tables = |(name, config): (&str, &clickhouse::Config)| {
            let holder = hex::encode(rand::random::<[u8; 8]>());
            let mover = config.mover(&holder)?;
            let own = Identity { instance: name.to_owned(), installation: installation.to_owned() };
            Some(Self { broker: broker.clone(), ttl, holder, own, config: config.clone(), mover })
        };
        config.sinks.of_kind().filter_map(tables).collect()
    }

    /// The name of the sink.
    pub(crate) fn store(&self) -> &str {
        &self.own.instance
    }

    /// Moves what there is.
    ///
    /// # Errors
    /// When a server does not answer or refuses; it may be called again.
    pub(crate) async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        // The tables get their earlier names when the present ones are made. The sink does that, and tells what hinders it.
        while self.config.verify(&self.own).await.is_err() {
            tokio::select! {
                () = sleep(ASK_EVERY) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
        if !self.is_needed().await? {
            return Ok(());
        }
        // Another process that has the lease lets us end, too.
        let done = stop.child_token();
        let key = earlier_tables_lease(self.store());
        let lease = Lease::new(StateStore::open(&self.broker).await?, key, &self.holder, self.ttl);
        lead(lease, &Moving { tables: self, done: &done }, &done).await
    }

    async fn is_needed(&self) -> anyhow::Result<bool> {
        self.mover.is_needed().await.map_err(|fault| fault.source)
    }
}

/// The job of the process with the lease.
struct Moving<'a> {
    tables: &'a EarlierTables,
    /// Cancelled when nothing is left to do.
    done: &'a CancellationToken,
}

#[async_trait]
impl Job for Moving<'_> {
    fn leads(&self, _: bool) {}

    async fn work(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            moved = self.move_all() => moved,
            () = stop.cancelled() => Ok(()),
        }
    }

    async fn stand_by(&self) -> anyhow::Result<()> {
        if !self.tables.is_needed().await? {
            self.done.cancel();
        }
        Ok(())
    }
}

impl Moving<'_> {
    async fn move_all(&self) -> anyhow::Result<()> {
        let (EarlierTables { config, mover, .. }, store) = (self.tables, self.tables.store());
        mover.take_over().await.map_err(|fault| fault.source)?;
        // A process of an earlier release may have been inserting when its table was renamed.
        sleep(config.insert_limit() + config.clock_skew() * 2).await;
        let partitions = mover.partitions().await.map_err(|fault| fault.source)?;
        if !partitions.is_empty() {
            tracing::info!(
                component = store,
                partitions = partitions.len(),
                "moving the events of an earlier release into the present table, the newest month first"
            );
        }
        tell_earlier_partitions(store, partitions.len());
        for (done, month) in (1..).zip(&partitions) {
            let rows = mover.move_partition(*month).await.map_err(|fault| fault.source)?;
            let left = partitions.len() - done;
            tell_earlier_partitions(store, left);
            tracing::info!(component = store, month, rows, left, "events of a month moved");
        }
        mover.drop_empty().await.map_err(|fault| fault.source)?;
        while self.tables.is_needed().await? {
            sleep(LOOK_EVERY).await;
            mover.drop_empty().await.map_err(|fault| fault.source)?;
        }
        self.done.cancel();
        Ok(())
    }
}
