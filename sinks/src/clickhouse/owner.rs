//! Whose a database is: that of one sink of one installation, in however many processes. The comment of its table `owner`
//! says it, as `clickhouse@` and the id of the installation. Before installations had ids, it was the sink's name alone; such
//! a database is that of the sink with this name that begins first.
//!
//! Two sinks that write one table do not see each other's first deliveries, and each event gets two rows. The
//! configuration cannot always tell: a server has many addresses, and two processes may have two configurations. Only the
//! sinks look at the owner: when they begin, after each call that failed, and once a minute. Where no call has failed and
//! the server does not answer in time, they go on for another minute. A replay and the commands write for it, whoever it is.
//!
//! An operator hands a database over by dropping that table. A process whose sink was the owner must never make it anew:
//! its workers begin again after errors, and would take back what was handed over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clickhouse::Client;
use headrace_runtime::component::sink::BatchResult;
use headrace_runtime::fault::Fault;
use tokio::time::{Instant, timeout};

use super::classify::{fault, of_look_up};
use crate::kind::Identity;

/// The table that says whose the database is. It holds no rows.
const TABLE: &str = "owner";
/// What stands between the name of the sink, which has no such character, and the id of its installation.
const AT: char = '@';
/// How often a sink at work looks who the owner is.
const LOOK_EACH: Duration = Duration::from_secs(60);
/// How long a look counts when later ones get no answer. A busy server may answer too late for a look, and take the rows.
const BELIEVED_MAX: Duration = Duration::from_secs(120);
/// The longest that a call may wait for that look. The runtime counts the look as part of the call.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Looks for a sink at work whether the database is still its own.
pub(super) struct Watch {
    client: Client,
    database: String,
    own: Identity,
    look_max: Duration,
    /// The sink was the owner at least once in this process. An earlier release noted none, so a database without an owner
    /// may be in order.
    was_ours: Arc<AtomicBool>,
    /// How many calls failed as a whole, or were given no more time.
    failed: AtomicU64,
    /// The last look that found the database to be nobody else's.
    seen: Mutex<Option<Seen>>,
}

/// A look that found the database to be nobody else's.
#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    /// How many calls had failed when it began. It tells nothing of what came after the next failure.
    failed: u64,
}

/// A call. It has failed unless it is told otherwise, because the runtime drops a call that has no more time.
struct Call<'w> {
    failed: &'w AtomicU64,
    works: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.failed.fetch_add(u64::from(!self.works), Ordering::Relaxed);
    }
}

impl Watch {
    /// `insert_limit` is the time of an insert. A look never takes more of a call than that.
    pub(super) fn new(client: Client, database: &str, own: &Identity, insert_limit: Duration) -> Self {
        let (database, own) = (database.to_owned(), own.clone());
        let look_max = LOOK_MAX.min(insert_limit);
        let (was_ours, failed, seen) = (Arc::default(), AtomicU64::default(), Mutex::default());
        Self { client, database, own, look_max, was_ours, failed, seen }
    }

    /// The same for another part of the sink in this process. It looks for itself, and knows when the other was the owner:
    /// it may begin much later, because a person had it paused.
    pub(super) fn of_other_part(&self) -> Self {
        let Self { client, database, own, look_max, was_ours, failed: _, seen: _ } = self;
        let (client, database, own) = (client.clone(), database.clone(), own.clone());
        let (failed, seen) = (AtomicU64::default(), Mutex::default());
        Self { client, database, own, look_max: *look_max, was_ours: Arc::clone(was_ours), failed, seen }
    }

    /// Makes the sink the owner of a database that has none, unless it was the owner before. Of two that try, one succeeds.
    pub(super) async fn claim(&self) -> Result<(), Fault> {
        if self.was_ours() {
            return self.verify().await;
        }
        self.note(claim(&self.client, &self.database, &self.own)).await
    }

    /// Refuses the database of another sink. One without an owner is nobody else's, unless this sink was the owner.
    pub(super) async fn verify(&self) -> Result<(), Fault> {
        self.note(verify(&self.client, &self.database, &self.own)).await
    }

    /// Refuses a call when somebody else was made the owner, or the owner is no longer told. It looks when it is time to.
    /// Transient when the server has not answered for too long, or after a failed call: nothing was sent, so the batch goes
    /// again unchanged.
    pub(super) async fn still_ours(&self) -> Result<(), Fault> {
        if self.is_seen_within(LOOK_EACH) {
            return Ok(());
        }
        match timeout(self.look_max, self.verify()).await {
            Ok(looked) => looked,
            Err(_) if self.is_seen_within(BELIEVED_MAX) => Ok(()),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// Makes a call. If it fails as a whole, or has no more time, the next one looks: the address may lead to another server
    /// by then.
    pub(super) async fn during(&self, call: impl Future<Output = BatchResult>) -> BatchResult {
        let mut own = Call { failed: &self.failed, works: false };
        let result = call.await;
        own.works = !matches!(result, BatchResult::Whole(_) | BatchResult::TooMuch(_));
        result
    }

    /// Notes what a look finds.
    async fn note(&self, look: impl Future<Output = Result<Option<String>, Fault>>) -> Result<(), Fault> {
        let failed = self.failed();
        let accepted = look.await.and_then(|owner| self.accept(owner.as_deref()));
        *self.seen() = accepted.is_ok().then(|| Seen { at: Instant::now(), failed });
        accepted
    }

    /// Refuses no owner where this sink was the owner.
    fn accept(&self, owner: Option<&str>) -> Result<(), Fault> {
        if owner.is_none() && self.was_ours() {
            let Self { database, own: Identity { instance: sink, .. }, .. } = self;
            return Err(Fault::broken(anyhow::anyhow!(
                "expected that the table `{TABLE}` of `{database}` names the sink `{sink}`, as it did before, found no such \
                 table: another sink may take the database, and then each event would have two rows. If it was dropped to \
                 hand the database over, take this sink out of the configuration; otherwise start this process again, and \
                 the sink takes the database back"
            )));
        }
        self.was_ours.fetch_or(owner.is_some(), Ordering::Relaxed);
        Ok(())
    }

    fn no_answer(&self) -> Fault {
        let Self { database, look_max, .. } = self;
        let max_ms = look_max.as_millis();
        Fault::transient(anyhow::anyhow!(
            "expected ClickHouse to tell within {max_ms} ms which sink writes `{database}`, found no answer"
        ))
    }

    fn was_ours(&self) -> bool {
        self.was_ours.load(Ordering::Relaxed)
    }

    /// Whether a look within `time` found the database to be nobody else's, and no call has failed since it began.
    fn is_seen_within(&self, time: Duration) -> bool {
        self.seen().is_some_and(|seen| seen.at.elapsed() < time && seen.failed == self.failed())
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes `own` the owner of a database that has none. Of two that try, one succeeds. Returns the owner.
///
/// # Errors
/// Broken when another sink is the owner.
pub(super) async fn claim(client: &Client, database: &str, own: &Identity) -> Result<Option<String>, Fault> {
    let noted = noted(own);
    let sql = match found(client, database).await? {
        None => {
            "CREATE TABLE IF NOT EXISTS ? (note String COMMENT 'no row is ever here: the comment of this table names the sink \
             that writes this database') ENGINE = MergeTree ORDER BY note COMMENT ?"
        }
        // Of two installations that do this at once, the first sees the second within a minute.
        Some(owner) if owner == own.instance => "ALTER TABLE ? MODIFY COMMENT ?",
        Some(_) => return verify(client, database, own).await,
    };
    let made = client.query(sql).bind(clickhouse::sql::Identifier(TABLE)).bind(noted).execute().await;
    made.map_err(|error| {
        let fault = fault(error).fault;
        Fault { source: fault.source.context("cannot note in ClickHouse which sink writes the database"), ..fault }
    })?;
    verify(client, database, own).await
}

/// Refuses the database of another sink. One without an owner is nobody else's. Returns the owner, if there is one.
///
/// # Errors
/// Broken when another sink is the owner.
pub(super) async fn verify(client: &Client, database: &str, own: &Identity) -> Result<Option<String>, Fault> {
    match found(client, database).await? {
        Some(owner) if owner != noted(own) && owner != own.instance => {
            Err(Fault::broken(anyhow::anyhow!(refusal(database, own, &owner))))
        }
        owner => Ok(owner),
    }
}

/// The comment that says that `own` is the owner.
fn noted(own: &Identity) -> String {
    let Identity { instance, installation } = own;
    format!("{instance}{AT}{installation}")
}

/// Why `own` may not write the database of `owner`.
fn refusal(database: &str, own: &Identity, owner: &str) -> String {
    let Identity { instance, installation } = own;
    let (sink, other) = owner.split_once(AT).unwrap_or((owner, installation));
    let hand_over =
        format!("hand the database over with `DROP TABLE {database}.{TABLE}`; the sink that looks next takes it");
    if other == installation {
        return format!(
            "expected a database that only the sink `{instance}` writes, found that `{database}` there is that of the sink \
             `{sink}`, as the comment of its table `{TABLE}` says: with two sinks each event would have two rows. Give one of \
             them another `database`. If `{sink}` is gone or has another name now, {hand_over}"
        );
    }
    format!(
        "expected a database that only this installation ({installation}) writes, found that `{database}` there is that of \
         the sink `{sink}` of the installation {other}, as the comment of its table `{TABLE}` says: an event that both get \
         would have two rows. Give one of them another `database`. If it is this one, whose id was lost with its NATS, or if \
         the other is gone, {hand_over}"
    )
}

async fn found(client: &Client, database: &str) -> Result<Option<String>, Fault> {
    let query = client.query("SELECT comment FROM system.tables WHERE database = ? AND name = ?");
    let found = query.bind(database).bind(TABLE).fetch_optional::<String>().await;
    found.map_err(|error| of_look_up(fault(error)).fault)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;

    /// No server is asked: the address is none.
    fn watch() -> Watch {
        Watch::new(Client::default(), "headrace", &Identity::alone("clickhouse"), Duration::from_secs(10))
    }

    async fn look(watch: &Watch) {
        watch.note(async { Ok(Some("clickhouse".to_owned())) }).await.unwrap();
    }

    async fn fail(watch: &Watch) {
        watch.during(async { BatchResult::Whole(Fault::transient(anyhow::anyhow!("no"))) }).await;
    }

    #[tokio::test]
    async fn only_a_look_that_begins_after_a_failed_call_makes_up_for_it() {
        let watch = watch();
        look(&watch).await;
        let (tell, told) = oneshot::channel();
        let works = watch.during(async {
            told.await.unwrap();
            BatchResult::AlreadyThere
        });
        let fails = async {
            assert!(watch.is_seen_within(LOOK_EACH), "nothing has failed while a call only lasts");
            fail(&watch).await;
            tell.send(()).unwrap();
        };
        tokio::join!(works, fails);
        assert!(!watch.is_seen_within(LOOK_EACH), "the other call worked");
        look(&watch).await;
        assert!(watch.is_seen_within(LOOK_EACH));

        let no_time = timeout(Duration::ZERO, watch.during(std::future::pending())).await;
        assert!(no_time.is_err() && !watch.is_seen_within(LOOK_EACH));
        let found = async {
            fail(&watch).await;
            Ok(Some("clickhouse".to_owned()))
        };
        watch.note(found).await.unwrap();
        assert!(!watch.is_seen_within(LOOK_EACH), "the look began before");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_in_time_is_believed_for_a_while_unless_a_call_failed() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::default().with_url(format!("http://{}", silent.local_addr().unwrap()));
        let watch = Watch { client, ..watch() };
        let goes_on = async || watch.still_ours().await.is_ok();
        assert!(!goes_on().await, "nobody has looked");
        look(&watch).await;
        advance(LOOK_EACH).await;
        assert!(goes_on().await);
        advance(BELIEVED_MAX - LOOK_EACH).await;
        assert!(!goes_on().await, "it is too long ago");

        look(&watch).await;
        fail(&watch).await;
        assert!(!goes_on().await, "a call has failed");
        look(&watch).await;
        let taken = watch.note(async { Err(Fault::broken(anyhow::anyhow!("another's"))) }).await;
        assert!(taken.is_err() && !goes_on().await, "it was another's since");
    }
}
