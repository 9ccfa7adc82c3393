//! A password in an address works, and nothing prints it.

use headrace_tests::product::process::Launch;
use tempfile::TempDir;

use super::PROGRAM;
use super::roles::{check, configuration, servers_with};

#[tokio::test]
async fn a_user_in_the_address_of_clickhouse_works() {
    let dir = TempDir::new().unwrap();
    // This password must be escaped in a URL.
    let (nats, clickhouse) = servers_with(dir.path(), &["--password", "sesame@1"]).await;
    let config = dir.path().join("headrace.toml");
    let with = |credentials: &str| clickhouse.url().replacen("http://", &format!("http://{credentials}@"), 1);
    let write = |url: &str| std::fs::write(&config, configuration(&nats.url(), url, dir.path())).unwrap();

    write(&with("default:sesame%401"));
    let (code, report, problem) = check(&config).await;
    assert_eq!(code, Some(0), "{report}{problem}");
    assert!(report.contains(&format!("ok      clickhouse {}\n", with("default:***"))), "{report}");
    // The sinks connect with the same password as `check`.
    let sinks = Launch::run(PROGRAM, "sinks", &config, dir.path()).start().await;
    assert!(!sinks.log().contains("running without this sink"), "{}", sinks.log());
    sinks.stop().await;

    write(&with("default:wrong-one"));
    let (code, report, problem) = check(&config).await;
    assert_eq!(code, Some(1), "{report}{problem}");
    assert!(report.contains(&format!("failed  clickhouse {}: ", with("default:***"))), "{report}");
    assert!(!format!("{report}{problem}").contains("wrong-one"), "{report}{problem}");
}

#[tokio::test]
async fn a_password_in_an_address_is_never_printed() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("headrace.toml");
    let (nats, clickhouse) = ("nats://alice:hidden@127.0.0.1:1", "http://bob:hidden@127.0.0.1:1");
    std::fs::write(&config, configuration(nats, clickhouse, dir.path())).unwrap();
    let (code, report, problem) = check(&config).await;
    assert_eq!(code, Some(4), "{report}{problem}");
    let printed = format!("{report}{problem}");
    for place in
        ["nats://alice:***@127.0.0.1:1: cannot connect to NATS at nats://alice:***@", "http://bob:***@127.0.0.1:1"]
    {
        assert!(printed.contains(place), "no {place} in {printed}");
    }
    assert!(!printed.contains("hidden"), "{printed}");

    let run = Launch::run(PROGRAM, "sinks", &config, dir.path()).set("HEADRACE__NATS__START_WAIT_S", "1");
    let (code, log) = run.refused().await;
    assert_eq!(code, Some(4), "{log}");
    assert!(log.contains("nats://alice:***@127.0.0.1:1") && !log.contains("hidden"), "{log}");

    let text =
        configuration(nats, clickhouse, dir.path()).replacen("[sinks.clickhouse]", "[sinks.clickhouse]\nuser = 'c'", 1);
    std::fs::write(&config, text).unwrap();
    let (code, report, problem) = check(&config).await;
    assert_eq!(code, Some(2), "{report}{problem}");
    assert!(
        problem.contains("sinks.clickhouse.url: expected the user and the password either in the URL or"),
        "{problem}"
    );
    assert!(!format!("{report}{problem}").contains("hidden"), "{report}{problem}");
}
