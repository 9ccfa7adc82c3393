//! A database is that of one sink, however its address is written and wherever the sinks run.

use headrace_runtime::fault::{Fault, FaultClass};
use headrace_sinks::clickhouse::Config;
use headrace_sinks::kind::Kind as _;
use headrace_tests::conformance::receiver::Case as _;

use super::ClickHouseCase;

/// Begins as the processes of the sink `name` do.
async fn begin(config: &Config, name: &str) -> Result<(), Fault> {
    for part in config.parts(name).unwrap() {
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
        assert_refused(process.prepare(guest).await.unwrap(), owner);
    }
    // Who writes for the owner asks nobody.
    config.restore().await.unwrap();
    config.create_side_table("tried", "a replay").await.unwrap();
    begin(&Config { database: "copy".to_owned(), ..config.clone() }, guest).await.unwrap();

    case.query("DROP TABLE headrace.owner SYNC");
    begin(&respelt, guest).await.unwrap();
    assert_refused(begin(&config, owner).await, guest);
}
