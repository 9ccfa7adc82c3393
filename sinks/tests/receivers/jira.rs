//! The Jira sink against a stand-in that follows Atlassian's published REST API.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::component::batch::{Batch, Item};
use headrace_runtime::component::sink::{BatchResult, Sink as _, SinkOptions, Taken};
use headrace_runtime::fault::{Fault, FaultClass};
use headrace_runtime::secret::Secret;
use headrace_schemas::alert::{Alert, Status};
use headrace_schemas::event::Severity;
use headrace_schemas::time::Timestamp;
use headrace_sinks::jira::{Config, Jira as Sink};
use headrace_tests::conformance::receiver::{Case, Promise, ServerCase};
use headrace_tests::harness::samples::Sample as _;
use headrace_tests::harness::{CEILING, until};
use headrace_tests::sink_conformance;
use headrace_tests::standin::jira::{API_TOKEN, EMAIL, Issue, Jira, PROJECT, Rest};
use headrace_tests::standin::server::{Failure, Server, When, Which};

struct JiraCase(Jira);

pub(crate) fn config(jira: &Jira) -> Config {
    Config {
        url: jira.url(),
        email: EMAIL.to_owned(),
        api_token: Secret::new(API_TOKEN),
        project: PROJECT.to_owned(),
        priorities: BTreeMap::from([("critical".to_owned(), "Highest".to_owned())]),
        linger_ms: 50,
        timeout_ms: 500,
        index_lag_ms: 200,
        ..Config::default()
    }
}

#[async_trait]
impl Case for JiraCase {
    type Sink = Sink;
    const PROMISE: Promise = Promise::Once;

    async fn start() -> Self {
        let jira = Jira::start().await;
        // Less than the sink's `index_lag_ms`.
        jira.data().index_lag = Duration::from_millis(150);
        Self(jira)
    }
    fn sink(&self) -> Sink {
        config(&self.0).build().unwrap()
    }
    fn options(&self) -> SinkOptions {
        config(&self.0).options()
    }
    fn received(&self) -> Vec<String> {
        self.0.alerts()
    }
    async fn break_access(&self) {
        self.0.data().revoked = true;
    }
    async fn mend(&self) {
        self.0.data().revoked = false;
    }
    async fn settle_down(&self) {
        until("every ticket is indexed", || self.0.data().issues.iter().all(Issue::is_indexed)).await;
    }
}

impl ServerCase for JiraCase {
    type Protocol = Rest;

    fn peer(&self) -> &Server<Rest> {
        &self.0
    }
    fn refuse(&self, id: &str) {
        self.0.data().refused.insert(id.to_owned());
    }
}

sink_conformance!(
    JiraCase: success,
    unreadable_messages,
    partial_failure,
    poison,
    refuses_all,
    panics,
    transient,
    down,
    timeouts,
    lost_answers,
    broken,
    duplicates,
    shutdown,
    crash,
    busy,
    breaker,
);

fn batch(alerts: Vec<Alert>) -> Batch<Alert> {
    let item = |value| Item { value, suspect: true, redelivered: false, sequence: 1, stored_at: Timestamp::default() };
    Batch::new(alerts.into_iter().map(item).collect(), Duration::from_secs(60))
}

fn redelivered(alert: Alert) -> Batch<Alert> {
    let item = Item { value: alert, suspect: true, redelivered: true, sequence: 1, stored_at: Timestamp::default() };
    Batch::new(vec![item], Duration::from_secs(60))
}

/// Sample alert 1 after `count` events with this `risk`.
fn grown(count: i64, risk: i32) -> Alert {
    Alert { count, risk, status: Status::Updated, ..Alert::sample(1) }
}

fn each(result: BatchResult) -> Vec<Result<Taken, Fault>> {
    match result {
        BatchResult::Told(results) => results,
        other => panic!("expected an answer for each, found {other:?}"),
    }
}

fn assert_done(result: BatchResult) {
    assert!(each(result).iter().all(Result::is_ok));
}

/// Delivers a batch of one again until it is done.
async fn done_in_the_end(sink: &Sink, batch: &Batch<Alert>) {
    let done = async || each(sink.deliver(batch).await).remove(0).ok();
    headrace_local::poll::until("the alert is done", CEILING, done).await.unwrap();
}

/// How long to wait after a result with one transient fault.
fn wait_of(result: BatchResult) -> Duration {
    let fault = each(result).remove(0).unwrap_err();
    let FaultClass::Transient { retry_after: Some(wait) } = fault.class else { panic!("not a wait: {fault:?}") };
    wait
}

#[tokio::test]
async fn a_ticket_describes_its_alert_in_full() {
    let jira = Jira::start().await;
    let sink = config(&jira).build().unwrap();
    assert_done(sink.deliver(&batch(vec![Alert { severity: Severity::Critical, ..Alert::sample(1) }])).await);
    let data = jira.data();
    let fields = &data.issues[0].fields;
    assert_eq!(fields["summary"], "[CRITICAL] Repository made public: mona on acme/app-1");
    assert_eq!(fields["issuetype"]["name"], "Task");
    assert_eq!(fields["priority"]["name"], "Highest");
    assert_eq!(fields["labels"][0], "headrace");
    assert_eq!(data.issues[0].properties["headrace"]["count"], 1);
    let text = fields["description"].to_string();
    for expected in [
        "Severity: critical",
        "Risk: 85 of 100",
        "the repository became public",
        "action=publicized",
        "T1567",
        "Actor: mona",
        "Repository: acme/app-1",
        "github:72d3162e-cc78-11e3-81ab-4c9367dc0001",
    ] {
        assert!(text.contains(expected), "no `{expected}` in {text}");
    }
}

#[tokio::test]
async fn a_ticket_that_says_it_all_does_not_show_that_jira_accepts_anything() {
    let jira = Jira::start().await;
    let sink = config(&jira).build().unwrap();
    let mut taken = Vec::new();
    for alerts in [vec![Alert::sample(1)], vec![Alert::sample(1), Alert::sample(2)], vec![grown(2, 85)]] {
        taken.extend(each(sink.deliver(&batch(alerts)).await).into_iter().map(Result::unwrap));
    }
    assert_eq!(taken, [Taken::Now, Taken::Before, Taken::Now, Taken::Now]);
}

#[tokio::test]
async fn a_ticket_is_commented_when_the_alert_outgrows_it() {
    let jira = Jira::start().await;
    let sink = config(&jira).build().unwrap();
    assert_done(sink.deliver(&batch(vec![Alert::sample(1)])).await);
    // The alert's count and risk, and the ticket's comments after it.
    for (count, risk, comments) in
        [(1, 85, 0), (2, 85, 1), (3, 85, 1), (4, 85, 2), (5, 90, 3), (9, 90, 3), (10, 90, 4), (10, 90, 4)]
    {
        assert_done(sink.deliver(&batch(vec![grown(count, risk)])).await);
        assert_eq!(jira.data().issues[0].comments.len(), comments, "at {count} events, risk {risk}");
    }
    // The next process reads from the ticket what was said there already.
    let next = config(&jira).build().unwrap();
    assert_done(next.deliver(&batch(vec![grown(11, 90)])).await);
    assert_eq!(jira.data().issues[0].comments.len(), 4);
    assert_done(next.deliver(&batch(vec![grown(20, 90)])).await);
    assert_eq!(jira.data().issues[0].comments.len(), 5);
    assert_eq!(jira.data().issues.len(), 1);
    assert!(jira.data().issues[0].comments[4].to_string().contains("20 events by now"));
}

#[tokio::test]
async fn a_ticket_that_search_does_not_find_yet_is_remembered() {
    let jira = Jira::start().await;
    jira.data().index_stopped = true;
    let sink = config(&jira).build().unwrap();
    assert_done(sink.deliver(&batch(vec![Alert::sample(1), Alert::sample(2), Alert::sample(1)])).await);
    assert_done(sink.deliver(&batch(vec![grown(2, 85), Alert::sample(2)])).await);
    assert_eq!(jira.alerts().len(), 2);
    assert_eq!(jira.data().issues[0].comments.len(), 1);
}

#[tokio::test]
async fn the_next_process_waits_for_the_index_before_it_creates_a_ticket() {
    let jira = Jira::start().await;
    jira.data().index_stopped = true;
    let first = config(&jira).build().unwrap();
    assert_done(first.deliver(&batch(vec![Alert::sample(1)])).await);
    drop(first);

    let next = config(&jira).build().unwrap();
    let wait = wait_of(next.deliver(&redelivered(Alert::sample(1))).await);
    assert_eq!(wait, Duration::from_millis(200));
    jira.index_all();
    assert_done(next.deliver(&redelivered(Alert::sample(1))).await);
    assert_eq!(jira.alerts().len(), 1);
}

#[tokio::test]
async fn an_update_of_an_unknown_alert_gets_its_ticket_after_the_index_lag() {
    let jira = Jira::start().await;
    let sink = Config { index_lag_ms: 1, ..config(&jira) }.build().unwrap();
    wait_of(sink.deliver(&batch(vec![grown(7, 85)])).await);
    assert!(jira.alerts().is_empty());
    done_in_the_end(&sink, &batch(vec![grown(7, 85)])).await;
    assert_eq!(jira.alerts().len(), 1);
}

#[tokio::test]
async fn a_creation_without_a_clear_answer_is_not_repeated_while_the_index_lags() {
    let jira = Jira::start().await;
    jira.data().index_stopped = true;
    jira.fail_next(1, Failure::Status(504), When::After, Which::Deliveries);
    let sink = Config { index_lag_ms: 60_000, ..config(&jira) }.build().unwrap();
    assert!(matches!(sink.deliver(&batch(vec![Alert::sample(1)])).await, BatchResult::Whole(_)));
    for _ in 0..3 {
        let wait = wait_of(sink.deliver(&batch(vec![Alert::sample(1)])).await);
        assert!(wait > Duration::from_secs(50), "{wait:?}");
    }
    jira.index_all();
    assert_done(sink.deliver(&batch(vec![Alert::sample(1)])).await);
    assert_eq!(jira.alerts().len(), 1);
}

#[tokio::test]
async fn tickets_from_before_jira_went_down_are_not_created_again() {
    let jira = Jira::start().await;
    jira.data().index_stopped = true;
    let alerts = || (0..4).map(Alert::sample).collect::<Vec<_>>();
    let sink = Config { index_lag_ms: 60_000, ..config(&jira) }.build().unwrap();
    // Two creations pass, and the third fails.
    jira.fail_next(1, Failure::Hold, When::Before, Which::Deliveries);
    jira.fail_next(1, Failure::Hold, When::Before, Which::Deliveries);
    jira.fail_next(1, Failure::Status(503), When::Before, Which::Deliveries);
    let release = async {
        for held in 1..=2 {
            until("a creation is held", || jira.held() == held).await;
            jira.release();
        }
    };
    let items = batch(alerts());
    let (result, ()) = tokio::join!(sink.deliver(&items), release);
    assert!(matches!(result, BatchResult::Whole(Fault { class: FaultClass::Transient { .. }, .. })), "{result:?}");
    assert_eq!(jira.alerts().len(), 2);
    let results = each(sink.deliver(&items).await);
    // A 503 may have had its effect, hence the wait.
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
}

#[tokio::test]
async fn a_deleted_ticket_is_created_again() {
    let jira = Jira::start().await;
    let sink = Config { index_lag_ms: 1, ..config(&jira) }.build().unwrap();
    assert_done(sink.deliver(&batch(vec![Alert::sample(1)])).await);
    jira.data().issues.clear();
    let results = each(sink.deliver(&batch(vec![grown(2, 85)])).await);
    assert!(results[0].as_ref().is_err_and(|fault| matches!(fault.class, FaultClass::Transient { .. })));
    wait_of(sink.deliver(&redelivered(grown(2, 85))).await);
    done_in_the_end(&sink, &redelivered(grown(2, 85))).await;
    assert_eq!(jira.alerts().len(), 1);
}

#[tokio::test]
async fn the_oldest_of_several_tickets_is_updated() {
    let jira = Jira::start().await;
    jira.data().index_stopped = true;
    for _ in 0..3 {
        let process = config(&jira).build().unwrap();
        assert_done(process.deliver(&batch(vec![Alert::sample(1)])).await);
    }
    jira.index_all();
    let sink = config(&jira).build().unwrap();
    assert_done(sink.deliver(&batch(vec![grown(2, 85)])).await);
    let comments: Vec<usize> = jira.data().issues.iter().map(|issue| issue.comments.len()).collect();
    assert_eq!(comments, [1, 0, 0]);
}

#[tokio::test]
async fn an_internal_error_for_one_alert_does_not_stop_the_others() {
    let jira = Jira::start().await;
    jira.fail_next(1, Failure::Status(500), When::Before, Which::Deliveries);
    let sink = config(&jira).build().unwrap();
    let results = each(sink.deliver(&batch((0..3).map(Alert::sample).collect())).await);
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true]);
}

#[tokio::test]
async fn a_check_finds_what_the_project_lacks() {
    let jira = Jira::start().await;
    config(&jira).build().unwrap().check().await.unwrap();
    let broken = async |config: Config, expected: &str| {
        let fault = config.build().unwrap().check().await.unwrap_err();
        assert_eq!(fault.class, FaultClass::Broken, "{fault}");
        assert!(fault.to_string().contains(expected), "no `{expected}` in {fault}");
        assert!(!fault.to_string().contains(API_TOKEN), "no secret in {fault}");
    };
    broken(Config { api_token: Secret::new("old"), ..config(&jira) }, "api_token").await;
    broken(Config { project: "HR".to_owned(), ..config(&jira) }, "no project HR").await;
    broken(Config { issue_type: "Epic".to_owned(), ..config(&jira) }, "one of Task, Incident").await;
    jira.data().missing_fields.insert("labels".to_owned());
    broken(config(&jira), "lacks the field `labels`").await;
    jira.data().missing_fields.clear();
    jira.data().missing_permissions.insert("EDIT_ISSUES".to_owned());
    broken(config(&jira), "lacks EDIT_ISSUES").await;
    jira.down();
    let fault = config(&jira).build().unwrap().check().await.unwrap_err();
    assert!(matches!(fault.class, FaultClass::Transient { .. }), "{fault}");
}

#[tokio::test]
async fn a_wrong_setting_is_no_alerts_fault() {
    let jira = Jira::start().await;
    for wrong in [
        Config { issue_type: "Epic".to_owned(), ..config(&jira) },
        Config { project: "HR".to_owned(), ..config(&jira) },
        Config { priorities: BTreeMap::from([("high".to_owned(), "Urgent".to_owned())]), ..config(&jira) },
    ] {
        let result = wrong.build().unwrap().deliver(&batch(vec![Alert::sample(1)])).await;
        assert!(matches!(result, BatchResult::Whole(Fault { class: FaultClass::Broken, .. })), "{result:?}");
    }
    assert!(jira.alerts().is_empty());
}

#[tokio::test]
async fn odd_texts_make_acceptable_tickets() {
    let jira = Jira::start().await;
    let sink = config(&jira).build().unwrap();
    let odd = "\u{0}line\nbreak\r\n \"quoted\" \\ 😀 ".repeat(400);
    let alert = Alert {
        title: odd.clone(),
        actor: Some(odd.clone()),
        evidence: vec![odd.clone(); 100],
        reasons: vec![String::new(), odd],
        techniques: vec![],
        events: vec![],
        ..Alert::sample(1)
    };
    assert_done(sink.deliver(&batch(vec![alert])).await);
    assert_eq!(jira.alerts().len(), 1);
}
