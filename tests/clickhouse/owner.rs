//! A database is that of one sink, however its address is written and wherever the sinks run.

use headrace_runtime::component::sink::{BatchResult, Sink as _};
use headrace_runtime::fault::{Effect, Fault, FaultClass};
use headrace_sinks::clickhouse::Config;
use headrace_sinks::kind::{Identity, Kind as _};
use headrace_tests::conformance::receiver::Case as _;
use headrace_tests::standin::server::{Failure, When, Which};
use tokio::time::timeout;

use super::{ClickHouseCase, MINUTE, assert_all, batch, ready};

/// Begins as the processes of the sink `name` do.
async fn begin(config: &Config, name: &str) -> Result<(), Fault> {
    begin_as(config, &Identity::alone(name)).await
}

async fn begin_as(config: &Config, own: &Identity) -> Result<(), Fault> {
    for part in config.parts(own).unwrap() {
        part.check().await?;
    }
    Ok(())
}

fn assert_refused(begun: Result<(), Fault>, owner: &str) {
    let fault = begun.expect_err("another sink is the owner");
    assert_eq!(fault.class, FaultClass::Broken, "{fault}");
    let told = fault.to_string();
    let parts = [format!("that of the sink `{owner}`"), "`DROP TABLE headrace.owner`".to_owned()];
    assert!(parts.iter().all(|part| told.contains(part)), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sink_on_a_database_is_refused_however_its_address_is_written() {
    let case = ClickHouseCase::start().await;
    let config = Config { database: "headrace".to_owned(), ..case.with_long_timeout() };
    let respelt = Config { url: config.url.replace("127.0.0.1", "localhost") + "/", ..config.clone() };
    assert_ne!(config.url, respelt.url);
    // Two sinks that begin at once: one has the database, and keeps it.
    let (one, other) = tokio::join!(begin(&config, "clickhouse"), begin(&respelt, "copy"));
    let (owner, refused) = if one.is_ok() { ("clickhouse", other) } else { ("copy", one) };
    assert_refused(refused, owner);
    let guest = if owner == "copy" { "clickhouse" } else { "copy" };
    for process in [&config, &respelt] {
        begin(process, owner).await.unwrap();
        assert_refused(begin(process, guest).await, owner);
        let waiting = Config { migrate: false, ..process.clone() };
        begin(&waiting, owner).await.unwrap();
        assert_refused(begin(&waiting, guest).await, owner);
        assert_refused(process.prepare(Some(&Identity::alone(guest))).await.unwrap(), owner);
        process.prepare(None).await.unwrap().unwrap();
    }
    // Who writes for the owner asks nobody.
    config.restore().await.unwrap();
    config.create_side_table("tried", "a replay").await.unwrap();
    begin(&Config { database: "copy".to_owned(), ..config.clone() }, guest).await.unwrap();

    case.query("DROP TABLE headrace.owner SYNC");
    begin(&respelt, guest).await.unwrap();
    assert_refused(begin(&config, owner).await, guest);
}

fn of(installation: &str) -> Identity {
    Identity { instance: "clickhouse".to_owned(), installation: installation.to_owned() }
}

/// The comment that names the owner.
fn owner(case: &ClickHouseCase) -> String {
    case.query("SELECT comment FROM system.tables WHERE database = 'headrace' AND name = 'owner'").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_sink_of_another_installation_is_refused() {
    let case = ClickHouseCase::start().await;
    let config = Config { database: "headrace".to_owned(), ..case.with_long_timeout() };
    begin_as(&config, &of("a1")).await.unwrap();
    assert_eq!(owner(&case), "clickhouse@a1");
    for migrate in [true, false] {
        let other = Config { migrate, ..config.clone() };
        let fault = begin_as(&other, &of("b2")).await.expect_err("each event would have two rows");
        assert_eq!(fault.class, FaultClass::Broken, "{fault}");
        let told = fault.to_string();
        for part in ["only this installation (b2)", "of the installation a1", "`DROP TABLE headrace.owner`"] {
            assert!(told.contains(part), "{told}");
        }
        begin_as(&other, &of("a1")).await.unwrap();
    }
    // NATS was lost, and with it the id. A person hands the database over to what is the same installation.
    case.query("DROP TABLE headrace.owner SYNC");
    begin_as(&config, &of("b2")).await.unwrap();
    assert!(begin_as(&config, &of("a1")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_was_noted_by_its_name_alone_is_named_in_full_by_the_first_that_begins() {
    let case = ClickHouseCase::start().await;
    let config = Config { database: "headrace".to_owned(), ..case.with_long_timeout() };
    begin_as(&config, &of("a1")).await.unwrap();
    case.query("ALTER TABLE headrace.owner MODIFY COMMENT 'clickhouse'");
    // Who may change no table leaves it as it is.
    begin_as(&Config { migrate: false, ..config.clone() }, &of("b2")).await.unwrap();
    assert_eq!(owner(&case), "clickhouse");
    assert_refused(begin_as(&config, &Identity { instance: "copy".to_owned(), ..of("a1") }).await, "clickhouse");
    begin_as(&config, &of("a1")).await.unwrap();
    assert_eq!(owner(&case), "clickhouse@a1");
    assert!(begin_as(&config, &of("b2")).await.is_err());
}

/// Lets so much time pass for timers that a sink looks at the owner again.
async fn pass_time() {
    tokio::time::pause();
    tokio::time::advance(MINUTE).await;
    tokio::time::resume();
}

// On one thread, because only there can time be passed.
#[tokio::test]
async fn a_sink_at_work_stops_when_its_database_is_given_to_another_or_to_nobody() {
    let (case, sink) = ready().await;
    let refused = async |told: &str| {
        for _ in 0..2 {
            let BatchResult::Whole(fault) = sink.deliver(&batch(5..10, false, MINUTE)).await else {
                panic!("expected it to be refused: {told}")
            };
            assert_eq!((fault.class.clone(), fault.effect), (FaultClass::Broken, Effect::None), "{fault}");
            assert!(fault.to_string().contains(told), "{fault}");
        }
    };
    assert_all(&sink.deliver(&batch(0..5, false, MINUTE)).await, 5);
    case.query("ALTER TABLE headrace.owner MODIFY COMMENT 'copy'");
    pass_time().await;
    refused("is that of the sink `copy`").await;
    case.query("DROP TABLE headrace.owner SYNC");
    refused("as it did before, found no such table").await;
    assert_eq!(case.rows(), 5);
    // Another process of the sink takes the database back.
    begin(&case.with_long_timeout(), "clickhouse").await.unwrap();
    assert_all(&sink.deliver(&batch(5..10, false, MINUTE)).await, 5);
    assert_eq!(case.rows(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_stays_as_it_is_when_the_server_does_not_tell_the_owner() {
    let (case, _) = ready().await;
    let config = case.with_long_timeout();
    // It has not looked yet, so its first call does.
    let (sink, call_timeout) = (config.events(), config.event_options().call_timeout);
    case.proxy.fail_next(1, Failure::Hang, When::Before, Which::Any);
    // As the runtime calls it. What that cuts off may have had its effect, and becomes suspect.
    match timeout(call_timeout, sink.deliver(&batch(0..5, false, MINUTE))).await {
        Ok(BatchResult::Whole(fault)) => {
            let transient = FaultClass::Transient { retry_after: None };
            assert_eq!((fault.class.clone(), fault.effect), (transient, Effect::None), "{fault}");
            assert!(fault.to_string().contains("which sink writes `headrace`, found no answer"), "{fault}");
        }
        Ok(result) => panic!("expected it to be put off, found {result:?}"),
        Err(_) => panic!("expected an answer within the time of a call, found none"),
    }
    assert_eq!(case.rows(), 0);
    // The next call looks again.
    assert_all(&sink.deliver(&batch(0..5, false, MINUTE)).await, 5);
    assert_eq!(case.rows(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_handed_over_is_taken_back_by_a_new_process_alone() {
    let case = ClickHouseCase::start().await;
    let config = case.with_long_timeout();
    // Two processes. The part for events has begun in each, that for bodies not yet: a person may have it paused.
    let processes = [&config, &Config { migrate: false, ..config.clone() }]
        .map(|own| own.parts(&Identity::alone("clickhouse")).unwrap());
    for parts in &processes {
        parts[0].check().await.unwrap();
    }
    case.query("DROP TABLE headrace.owner SYNC");
    // Each worker that begins again checks first.
    for part in processes.iter().flatten().chain(&processes[0]) {
        let fault = part.check().await.expect_err("the database may belong to another by now");
        assert_eq!(fault.class, FaultClass::Broken, "{fault}");
        assert!(fault.to_string().contains("as it did before, found no such table"), "{fault}");
    }
    let owners = "SELECT count() FROM system.tables WHERE database = 'headrace' AND name = 'owner'";
    assert_eq!(case.query(owners), "0\n");
    begin(&config, "clickhouse").await.unwrap();
    for part in processes.iter().flatten() {
        part.check().await.unwrap();
    }
}
