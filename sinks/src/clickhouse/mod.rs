//! ClickHouse, in bulk: events into `events`, bodies into `raw`, each exactly once.
//!
//! `write` holds all that writes: `write/insert.rs` says how an event gets only one row, and the numbered files in
//! `write/migrations/` make the tables. `read` holds the queries. `classify.rs` says what failures mean, `owner.rs` whose a
//! database is, `kind.rs` what the registry of kinds must know.

mod access;
mod classify;
mod kind;
mod owner;
mod place;
mod read;
mod sink;
mod told;
mod write;

use std::path::PathBuf;
use std::time::Duration;

use clickhouse::{Client, Compression};
use headrace_runtime::certificate::{client_trusting, read_ca_file};
use headrace_runtime::component::batch::BatchPolicy;
use headrace_runtime::component::sink::SinkOptions;
use headrace_runtime::config::Invalid;
use headrace_runtime::consume::stream_reader::Window;
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::RawDelivery;
use headrace_runtime::secret::{Secret, redact_url};
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use headrace_schemas::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::access::Access;
use self::access::DEFAULT_USER;
use self::classify::fault;
use self::owner::Watch;
pub use self::read::event::{EventTable, StoredEvent};
pub use self::read::received::{RawTable, Received};
pub use self::sink::{Events, Raw};
pub use self::write::earlier::Mover;
pub use self::write::gaps::{Gaps, GapsRow};
use self::write::insert::{Table, Times};
use self::write::migrate::Migrator;
pub use self::write::rewrite::{ITEMS_MAX, Rewrite, Unproven, Written};
use self::write::{migrate, side};
use crate::kind::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, Identity, Kind as _, LINGER_MAX_MS};

/// The environment variable with the file of CAs to trust instead of the system's.
const TRUSTED: &str = "SSL_CERT_FILE";
/// What follows the instance's name in the name of the component for bodies.
const RAW_SUFFIX: &str = "-raw";
/// Items in one look-up.
pub(crate) const LOOKUP_MAX: usize = 4_000;

/// ClickHouse.
#[derive(Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address of the HTTP interface, which may contain user and password. `up` starts an embedded server when this is
    /// empty. With `https://` the server's certificate must come from a CA that the system trusts, or one in `ca_path`.
    /// The environment variable `SSL_CERT_FILE` names a file (PEM) of others to trust instead of the system's. Example:
    /// `https://clickhouse.example.com:8443`.
    pub url: String,
    /// Database; it is created when it does not exist.
    pub database: String,
    /// User name.
    pub user: String,
    /// Password of `user`.
    pub password: Secret,
    /// A file of CA certificates (PEM) to trust besides the system's. Example: `/etc/headrace/clickhouse-ca.pem`.
    pub ca_path: Option<PathBuf>,
    /// Whether inserts travel compressed (LZ4). Off where the server is on the same machine: it saves both
    /// sides the work.
    pub compress: bool,
    /// Whether to create and update the tables, and to move the rows of an earlier release. Off where another user does
    /// the first with `headrace check --migrate`.
    pub migrate: bool,
    /// Most events in one insert. Large ones are far cheaper: 10,000 to 50,000 is best.
    #[schemars(range(min = 1, max = BATCH_EVENTS_MAX))]
    pub batch_events_max: usize,
    /// Most bytes of messages in one insert, with the bodies that they refer to; a larger body is inserted alone.
    #[schemars(range(min = 1_048_576, max = BATCH_BYTES_MAX))]
    pub batch_bytes_max: usize,
    /// Longest wait for a batch to fill, in milliseconds. Each event waits up to this long.
    #[schemars(range(min = 10, max = LINGER_MAX_MS))]
    pub linger_ms: u64,
    /// Time the server may spend on one insert, in seconds. The server gets this limit too, so that an insert that we
    /// gave up cannot succeed later.
    #[schemars(range(min = 1, max = 600))]
    pub insert_timeout_s: u64,
    /// How much the clocks of ClickHouse's servers and ours may differ, in milliseconds. The server refuses rows that
    /// come this close to the end of the time in which they are ours. Example: 5000.
    #[schemars(range(min = 10, max = 60_000))]
    pub clock_skew_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            database: "headrace".to_owned(),
            user: DEFAULT_USER.to_owned(),
            password: Secret::default(),
            ca_path: None,
            compress: true,
            migrate: true,
            batch_events_max: 25_000,
            batch_bytes_max: 32 << 20,
            linger_ms: 1_000,
            insert_timeout_s: 10,
            clock_skew_ms: 2_000,
        }
    }
}

impl Config {
    /// What is wrong with these values, below `path`. An empty `url` is the caller's to fill or refuse.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: String| problems.push(Invalid::new(format!("{path}.{field}"), message));
        if !self.url.is_empty() && !self.url.starts_with("http://") && !self.url.starts_with("https://") {
            refuse("url", format!("expected http:// or https:// and a host, found `{}`", redact_url(&self.url)));
        }
        if self.names_user_twice() {
            let message = "expected the user and the password either in the URL or in `user` and `password`, found them in \
                           both; take them out of one";
            refuse("url", message.to_owned());
        }
        // The client library panics without a CA to trust, even where it needs none.
        let trusted = std::env::var_os(TRUSTED).map(|path| read_ca_file(path.as_ref()));
        if let Some(Err(error)) = trusted {
            let message =
                format!("expected a file of CA certificates (PEM) in the environment variable {TRUSTED}; {error:#}");
            refuse("url", message);
        }
        if let Some(Err(error)) = self.ca_path.as_deref().map(client_trusting) {
            refuse("ca_path", format!("expected a file of CA certificates (PEM); {error:#}"));
        }
        let plain = |char: char| char.is_ascii_alphanumeric() || char == '_';
        if self.database.is_empty() || !self.database.chars().all(plain) {
            refuse("database", format!("expected letters, digits and `_`, found `{}`", self.database));
        }
        problems
    }

    /// The options of the sink for events.
    #[must_use]
    pub fn event_options(&self) -> SinkOptions {
        self.options(vec![subject::ALL_SCORED.to_owned()])
    }

    /// The options of the sink for bodies.
    #[must_use]
    pub fn raw_options(&self) -> SinkOptions {
        self.options(Vec::new())
    }

    fn options(&self, filters: Vec<String>) -> SinkOptions {
        // A call may look up and then insert. Now and then it looks at the owner before that, for no longer than an
        // insert may last.
        let call_timeout = self.insert_limit() * 2 + self.clock_skew();
        SinkOptions {
            filters,
            batching: BatchPolicy {
                events_max: self.batch_events_max,
                bytes_max: self.batch_bytes_max,
                linger: Duration::from_millis(self.linger_ms),
            },
            call_timeout,
            ack_wait: call_timeout * 2,
            workers: Self::CONCURRENCY,
        }
    }

    fn client(&self) -> Client {
        let Access { url, user, password, ca_path } = self.access();
        access::unnamed_client(ca_path.as_deref())
            .with_url(url)
            .with_user(user)
            .with_password(password.expose())
            .with_database(&self.database)
            .with_compression(if self.compress { Compression::Lz4 } else { Compression::None })
            .with_product_info("headrace", env!("CARGO_PKG_VERSION"))
    }

    /// The sink for events, of the only installation that writes the database.
    #[must_use]
    pub fn events(&self) -> Events {
        self.events_of(Self::NAME, self.watch(&Identity::alone(Self::NAME)))
    }

    /// The sink for bodies, of the only installation that writes the database.
    #[must_use]
    pub fn raw(&self) -> Raw {
        self.raw_of(Self::NAME, self.watch(&Identity::alone(Self::NAME)))
    }

    fn events_of(&self, instance: &str, owner: Watch) -> Events {
        Events { table: self.table("events", instance), config: self.clone(), migrator: self.migrator(), owner }
    }

    fn raw_of(&self, instance: &str, owner: Watch) -> Raw {
        let table = self.table("raw", &format!("{instance}{RAW_SUFFIX}"));
        Raw { table, config: self.clone(), migrator: self.migrator(), owner }
    }

    fn migrator(&self) -> Migrator {
        Migrator::new(self.client(), &self.database)
    }

    fn watch(&self, own: &Identity) -> Watch {
        // A call holds messages meanwhile.
        let limit_s = self.insert_timeout_s.to_string();
        let client = self.client().with_setting("max_execution_time", limit_s);
        Watch::new(client, &self.database, own, self.insert_limit())
    }

    fn table(&self, name: &str, component: &str) -> Table {
        Table::new(self.client(), name, component, Times { limit: self.insert_limit(), clock_skew: self.clock_skew() })
    }

    /// The table of events as a record of what was scored.
    #[must_use]
    pub fn event_table(&self) -> EventTable {
        EventTable::new(self.client())
    }

    /// The table of bodies as a record of what was received.
    #[must_use]
    pub fn raw_table(&self) -> RawTable {
        RawTable::new(self.client())
    }

    /// The table of what became of deliveries, by hook and hour.
    #[must_use]
    pub fn gaps(&self) -> Gaps {
        Gaps::new(self.client(), self.insert_limit())
    }

    /// Whether the server answers and accepts us.
    ///
    /// # Errors
    /// Transient when it is away, broken when a person must act.
    pub async fn reach(&self) -> Result<(), Fault> {
        // Not in our database, which may not exist yet.
        let client = self.client().with_database("default");
        client.query("SELECT 1").fetch_one::<u8>().await.map(|_| ()).map_err(|error| fault(error).fault)
    }

    /// Creates the database and brings the tables to this release's version.
    ///
    /// # Errors
    /// Transient when the server is away, broken when it refuses.
    pub async fn migrate(&self) -> Result<(), Fault> {
        migrate::run(&self.client(), &self.database).await
    }

    /// Whether the tables are of this release's version, and nobody's but the sink `own`'s.
    ///
    /// # Errors
    /// Transient when the server is away, broken when they are not.
    pub async fn verify(&self, own: &Identity) -> Result<(), Fault> {
        let (client, database) = (self.client(), &self.database);
        migrate::verify(&client, database).await?;
        owner::verify(&client, database, own).await.map(|_| ())
    }

    /// Makes the tables ready to be filled once more, including those that were dropped.
    ///
    /// # Errors
    /// Transient when the server is away, broken when it refuses.
    pub async fn restore(&self) -> Result<(), Fault> {
        self.reach().await?;
        let (client, database) = (self.client(), &self.database);
        if self.migrate { migrate::restore(&client, database).await } else { migrate::verify(&client, database).await }
    }

    /// What moves the rows of an earlier release, if this process may change tables. `holder` is a name that no other
    /// process has, of letters and digits.
    #[must_use]
    pub fn mover(&self, holder: &str) -> Option<Mover> {
        self.migrate.then(|| Mover::new(self.client(), holder))
    }

    /// Refuses to go on while rows of an earlier release are still to be moved: rows that are replaced must be in one
    /// table.
    ///
    /// # Errors
    /// Transient when the server is away, broken when rows are left.
    pub async fn ensure_moved(&self) -> Result<(), Fault> {
        let left = Mover::new(self.client(), "").partitions().await?.len();
        if left == 0 {
            return Ok(());
        }
        Err(Fault::broken(anyhow::anyhow!(
            "expected all events in the table `events`, found {left} months in `events_1`, the table of an earlier release; \
             the role `sinks` moves them where `sinks.clickhouse.migrate` is on. Try again when `events_1` is gone"
        )))
    }

    /// How long after it was sent an insert can still succeed.
    #[must_use]
    pub const fn insert_limit(&self) -> Duration {
        Duration::from_secs(self.insert_timeout_s)
    }

    /// `clock_skew_ms` as a duration.
    #[must_use]
    pub const fn clock_skew(&self) -> Duration {
        Duration::from_millis(self.clock_skew_ms)
    }

    /// The time by the server's clock.
    ///
    /// # Errors
    /// Transient when the server is away, broken when it refuses.
    pub async fn now(&self) -> Result<Timestamp, Fault> {
        let client = self.client().with_database("default");
        let now = client.query("SELECT toUnixTimestamp64Micro(now64(6))").fetch_one::<i64>().await;
        now.map(Timestamp::from_micros).map_err(|error| fault(error).fault)
    }

    /// Makes tables anew that were dropped, unless migrations are missing.
    ///
    /// # Errors
    /// Transient when the server is away, broken when it refuses.
    pub async fn restore_dropped(&self) -> Result<(), Fault> {
        migrate::restore_dropped(&self.client(), &self.database).await
    }

    /// Makes the table `name`, with the columns of `events` and the comment `comment`. Does nothing when it is there
    /// with that very comment.
    ///
    /// # Errors
    /// Broken when there is another table of that name.
    pub async fn create_side_table(&self, name: &str, comment: &str) -> Result<(), Fault> {
        side::create(&self.client(), &self.database, name, comment).await
    }

    /// The table `events`, to be written once more: the rows of `window` that were inserted before `since` by the
    /// server's clock are replaced. No two writers may have the same name.
    #[must_use]
    pub fn events_rewritten(&self, window: &Window, since: Timestamp, writer: &str) -> Rewrite<Event> {
        let table = self.table("events", "clickhouse").scoped(writer);
        Rewrite::replacing(table, window, since)
    }

    /// The table `raw`, to add the bodies that it lacks. No two writers may have the same name.
    #[must_use]
    pub fn bodies_completed(&self, since: Timestamp, writer: &str) -> Rewrite<RawDelivery> {
        let table = self.table("raw", "clickhouse-raw").scoped(writer);
        Rewrite::completing(table, since)
    }

    /// The table `name` that [`Self::create_side_table`] made, in which nobody else writes. No two writers may have
    /// the same name.
    #[must_use]
    pub fn side_table(&self, name: &str, writer: &str) -> Rewrite<Event> {
        let table = self.table(name, "clickhouse").scoped(writer);
        Rewrite::completing(table, Timestamp::default())
    }

    /// Makes the tables ready for the sink that `owner` is about.
    async fn begin(&self, migrator: &Migrator, owner: &Watch) -> Result<(), Fault> {
        self.reach().await?;
        if !self.migrate {
            migrate::verify(&self.client(), &self.database).await?;
            return owner.verify().await;
        }
        migrator.run().await?;
        owner.claim().await
    }
}
