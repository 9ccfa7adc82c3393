//! A company's own CAs: the binary reaches every server through TLS, and nobody whom it should not trust.

use std::path::{Path, PathBuf};

use headrace_local::{clickhouse, nats, poll};
use headrace_tests::harness::accounts::Operator;
use headrace_tests::harness::certificates::Authority;
use headrace_tests::harness::tls_proxy::TlsProxy;
use headrace_tests::harness::{CEILING, configured, until};
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::{Launch, command, complained, said};
use headrace_tests::standin::jira::{self, Jira};
use headrace_tests::standin::splunk::{self, Splunk};
use tempfile::TempDir;

use super::PROGRAM;
use super::roles::{SECRET, configuration, servers_with};

/// The environment variable with the file of CAs to trust instead of the system's.
const TRUSTED: &str = "SSL_CERT_FILE";

/// Every server behind TLS, and the files of those who may be trusted.
struct Company {
    nats: nats::Running,
    clickhouse: clickhouse::Running,
    clickhouse_proxy: TlsProxy,
    splunk: Splunk,
    splunk_proxy: TlsProxy,
    jira: Jira,
    jira_proxy: TlsProxy,
    /// The CA of NATS, Splunk and Jira.
    services: PathBuf,
    /// The CA of ClickHouse.
    database: PathBuf,
    credentials: PathBuf,
}

impl Company {
    async fn start(dir: &Path) -> Self {
        let (services, database) = (Authority::new("services"), Authority::new("database"));
        let identity = services.issue("127.0.0.1");
        let operator = Operator::default();
        let credentials = dir.join("headrace.creds");
        std::fs::write(&credentials, operator.credentials()).unwrap();
        let block = identity.nats_block(dir) + &operator.nats_block();
        // The NATS without TLS that comes with it is not wanted, and ends here.
        let (_, clickhouse) = servers_with(dir, &[]).await;
        let (splunk, jira) = (Splunk::start().await, Jira::start().await);
        Self {
            nats: configured(&dir.join("nats-tls"), &block).await,
            clickhouse_proxy: TlsProxy::start(&clickhouse.url(), &database.issue("127.0.0.1")).await,
            clickhouse,
            splunk_proxy: TlsProxy::start(&splunk.url(), &identity).await,
            splunk,
            jira_proxy: TlsProxy::start(&jira.url(), &identity).await,
            jira,
            services: services.write(dir, "services.pem"),
            database: database.write(dir, "database.pem"),
            credentials,
        }
    }

    /// A configuration that trusts `ca_path` for NATS.
    fn configuration(&self, ca_path: &Path, dir: &Path) -> String {
        let own = configuration(&self.nats.url().replace("nats://", "tls://"), &self.clickhouse_proxy.url(), dir);
        format!(
            r#"
nats.ca_path = "{ca_path}"
nats.credentials_path = "{credentials}"
{own}
[sinks.splunk]
url = "{splunk}"
token = "{token}"
index = "{index}"
linger_ms = 50
ca_path = "{services}"

[sinks.jira]
url = "{jira}"
email = "{email}"
api_token = "{api_token}"
project = "{project}"
linger_ms = 50
index_lag_ms = 100
ca_path = "{services}"
"#,
            ca_path = ca_path.display(),
            credentials = self.credentials.display(),
            services = self.services.display(),
            splunk = self.splunk_proxy.url(),
            token = splunk::TOKEN,
            index = splunk::INDEX,
            jira = self.jira_proxy.url(),
            email = jira::EMAIL,
            api_token = jira::API_TOKEN,
            project = jira::PROJECT,
        )
    }
}

/// Exit code, stdout and stderr of a command that trusts `ca` instead of the system's.
async fn trusting(ca: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let variable = format!("{TRUSTED}={}", ca.display());
    let output = command("/usr/bin/env", [variable.as_str(), PROGRAM].iter().chain(arguments)).await;
    (output.status.code(), said(&output), complained(&output))
}

#[tokio::test]
async fn an_event_goes_through_tls_to_every_receiver() {
    let dir = TempDir::new().unwrap();
    let company = Company::start(dir.path()).await;
    let config = dir.path().join("headrace.toml");
    std::fs::write(&config, company.configuration(&company.services, dir.path())).unwrap();
    let place = ["--config", config.to_str().unwrap()];

    let (code, report, problem) = trusting(&company.database, &["check", place[0], place[1]]).await;
    assert_eq!(code, Some(0), "{report}{problem}");
    for checked in ["ok      nats tls://", "ok      clickhouse https://", "ok      splunk\n", "ok      jira\n"] {
        assert!(report.contains(checked), "{report}");
    }
    let launch = Launch::run(PROGRAM, "ingest", &config, dir.path()).argument("pipeline").argument("sinks");
    let run = launch.set(TRUSTED, &company.database).start().await;
    let hook = Hook::new(format!("{}/webhooks/github", run.ready().gateway.as_ref().unwrap()), SECRET);
    let publicized = r#"{"action":"publicized","repository":{"id":1,"full_name":"acme/a","private":false,"owner":{"login":"acme"}},"sender":{"login":"mona"}}"#;
    let guid = guid();
    hook.store("repository", &guid, publicized).await;
    until("Splunk has the event", || company.splunk.ids() == [format!("github:{guid}")]).await;
    until("Jira has a ticket", || company.jira.alerts().len() == 1).await;
    // A question goes the same way as the rows.
    let asked = ["query", "SELECT id FROM headrace.events FORMAT TSV", place[0], place[1]];
    let stored = async || {
        let (_, rows, _) = trusting(&company.database, &asked).await;
        (rows == format!("github:{guid}\n")).then_some(())
    };
    poll::until("ClickHouse has the row", CEILING, stored).await.unwrap();
    run.stop().await;

    // ClickHouse answers, but is not who it should be: that is no matter of waiting.
    let (code, report, problem) = trusting(&company.services, &["check", place[0], place[1]]).await;
    assert_eq!(code, Some(1), "{report}{problem}");
    let told = format!(
        "failed  clickhouse {}: ClickHouse is not trusted: its certificate comes from a CA that is not trusted \
         here; set `ca_path` or the environment variable SSL_CERT_FILE to a file with",
        company.clickhouse_proxy.url()
    );
    assert!(report.contains(&told), "{report}");
    clickhouse_is_trusted_by_its_own_setting(&company, dir.path()).await;
    let (code, _, problem) = trusting(&dir.path().join("absent.pem"), &["check", place[0], place[1]]).await;
    assert_eq!(code, Some(2), "{problem}");
    assert!(
        problem.contains("CA certificates (PEM) in the environment variable SSL_CERT_FILE; cannot read"),
        "{problem}"
    );
    nats_of_another_ca_ends_a_start(&company, dir.path()).await;
    an_absent_file_of_cas_ends_a_start(&company, dir.path()).await;
    company.nats.stop().await;
    company.clickhouse.stop().await;
}

/// As the other receivers are, without a variable that changes what everything else trusts.
async fn clickhouse_is_trusted_by_its_own_setting(company: &Company, dir: &Path) {
    let config = dir.join("own.toml");
    let own = format!("[sinks.clickhouse]\nca_path = '{}'\n", company.database.display());
    let text = company.configuration(&company.services, dir).replace("[sinks.clickhouse]\n", &own);
    std::fs::write(&config, text).unwrap();
    let place = ["--config", config.to_str().unwrap()];
    let (code, report, problem) = trusting(&company.services, &["check", place[0], place[1]]).await;
    assert_eq!(code, Some(0), "{report}{problem}");
    let (code, rows, problem) = trusting(&company.services, &["query", "SELECT 7", place[0], place[1]]).await;
    assert_eq!((code, rows.trim().ends_with('7')), (Some(0), true), "{rows}{problem}");
}

/// A start waits a minute for a NATS that is away. It waits for none that it must not trust.
async fn nats_of_another_ca_ends_a_start(company: &Company, dir: &Path) {
    let config = dir.join("other.toml");
    std::fs::write(&config, company.configuration(&company.database, dir)).unwrap();
    let launch = Launch::run(PROGRAM, "pipeline", &config, dir).set(TRUSTED, &company.database);
    let (code, log) = launch.refused().await;
    assert_eq!(code, Some(1), "{log}");
    let told = "a CA that is not trusted here; set `nats.ca_path` to a file with that CA's certificate";
    assert!(log.contains(told) && !log.contains("cannot start yet"), "{log}");
}

/// No waiting makes a file that is not there, so it is a wrong setting like any other.
async fn an_absent_file_of_cas_ends_a_start(company: &Company, dir: &Path) {
    let (config, absent) = (dir.join("absent.toml"), dir.join("absent.pem"));
    std::fs::write(&config, company.configuration(&absent, dir)).unwrap();
    let launch = Launch::run(PROGRAM, "pipeline", &config, dir).set(TRUSTED, &company.database);
    let (code, log) = launch.refused().await;
    assert_eq!(code, Some(2), "{log}");
    let told = format!("cannot read the CA certificate {}", absent.display());
    assert!(log.contains("nats.ca_path: expected a file of CA certificates (PEM)") && log.contains(&told), "{log}");
    assert!(!log.contains("cannot start yet"), "{log}");
}
