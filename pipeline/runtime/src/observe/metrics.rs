//! Every metric's name, unit and meaning, in one table, and their set-up.
//!
//! Labels come from bounded enums and configured names only: component, outcome, reason, stream, rule.

use std::time::Duration;

use headrace_schemas::time::Timestamp;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Requests by `reason`: `accepted`, `duplicate`, or the reason for which they were refused.
pub const REQUESTS: &str = "headrace_ingest_requests_total";
/// Records stored in RAW, by `source` and `outcome`: `stored`, or `duplicate` when RAW had them already. A request or a
/// page may bring several.
pub const RECORDS: &str = "headrace_ingest_records_total";
/// Requests whose sender was verified.
pub const VERIFIED: &str = "headrace_ingest_verified_total";
/// Bytes of bodies stored.
pub const STORED_BYTES: &str = "headrace_ingest_stored_bytes_total";
/// Requests being served.
pub const IN_FLIGHT: &str = "headrace_ingest_in_flight";
/// Room taken for their bodies.
pub const IN_FLIGHT_BYTES: &str = "headrace_ingest_in_flight_bytes";
/// Received to stored (PubAck).
pub const STORE_SECONDS: &str = "headrace_ingest_store_seconds";
/// Open connections, by `listener`: `gateway`, `admin`.
pub const CONNECTIONS: &str = "headrace_connections";
/// Connections dropped because there was no room for others, by `listener` and `reason`: `idle`, `body_slow`.
pub const CONNECTIONS_DROPPED: &str = "headrace_connections_dropped_total";
/// Messages settled, by `component` and `outcome`.
pub const SETTLED: &str = "headrace_settled_total";
/// Messages dead-lettered, by `component` and `reason`.
pub const DEAD: &str = "headrace_dead_letters_total";
/// Events discarded on purpose, by `component` and `reason`.
pub const DISCARDED: &str = "headrace_discarded_total";
/// Bytes of memory that a component has taken for messages, bodies and what is made of them, by `component`.
pub const HELD_BYTES: &str = "headrace_held_bytes";
/// The most that it may take, by `component`.
pub const HELD_BYTES_MAX: &str = "headrace_held_bytes_max";
/// How long a component waited for memory, each time that it had to, by `component`.
pub const MEMORY_WAIT_SECONDS: &str = "headrace_memory_wait_seconds";
/// What all components of the process may take together.
pub const MEMORY_BUDGET: &str = "headrace_memory_budget_bytes";
/// Messages given back untouched because they were held too long, by `component`.
pub const LAPSED: &str = "headrace_lapsed_total";
/// Messages published by a stage and confirmed, by `component`.
pub const PUBLISHED: &str = "headrace_published_total";
/// Received to published by a chain, by `component`.
pub const PUBLISH_SECONDS: &str = "headrace_publish_seconds";
/// Events delivered by a sink, by `component`.
pub const DELIVERED: &str = "headrace_delivered_total";
/// Received to delivered by a sink, by `component`.
pub const DELIVER_SECONDS: &str = "headrace_deliver_seconds";
/// Duration of one call of a sink, by `component`.
pub const CALL_SECONDS: &str = "headrace_sink_call_seconds";
/// Events per call of a sink, by `component`.
pub const CALL_EVENTS: &str = "headrace_sink_call_events";
/// How long a call of a sink waited for its rate, its receiver's wish or its breaker, by `component`.
pub const CALL_WAIT_SECONDS: &str = "headrace_sink_call_wait_seconds";
/// 1 while a sink makes no calls because they failed, or one that decides, by `component`; else 0.
pub const BREAKER_OPEN: &str = "headrace_sink_breaker_open";
/// Suspects looked up and found to be there already, by `component`.
pub const ALREADY_THERE: &str = "headrace_already_there_total";
/// Deliveries under the id of an event that was made of another kind or body, by `component`.
pub const CONFLICTS: &str = "headrace_conflicting_deliveries_total";
/// Messages of a consumer that wait, by `component`.
pub const LAG: &str = "headrace_consumer_lag";
/// Messages of a consumer that are delivered but not settled, by `component`.
pub const PENDING: &str = "headrace_consumer_pending";
/// Partitions of an earlier release's table that wait to be moved, by `component`; told by the process that moves them.
pub const EARLIER_PARTITIONS: &str = "headrace_clickhouse_earlier_partitions";
/// Messages that wait for a sink that is not configured any more, by `component`.
pub const UNREAD: &str = "headrace_consumer_unread";
/// 1 while a sink was set aside and has not caught up, by `component`.
pub const SET_ASIDE: &str = "headrace_sink_set_aside";
/// Seconds of the stream EVENTS that a sink has missed and was not brought yet, by `component`.
pub const MISSED_SECONDS: &str = "headrace_sink_missed_seconds";
/// Events that were brought once more to a sink that catches up, by `component`.
pub const CAUGHT_UP: &str = "headrace_sink_caught_up_total";
/// 1 while a person has a sink paused, by `sink`.
pub const PAUSED: &str = "headrace_sink_paused";
/// Messages removed from a full stream, or before they were too old, after they were settled or noted as missed, by
/// `stream`.
pub const PURGED: &str = "headrace_stream_purged_total";
/// Streams and buckets that somebody deleted and that were made anew, by `stream`: what they held is lost.
pub const RECREATED: &str = "headrace_streams_recreated_total";
/// Age of the oldest message that a consumer has not settled, 0 when all are, by `component` and `stream`.
pub const OLDEST_SECONDS: &str = "headrace_consumer_oldest_unsettled_seconds";
/// Messages in a stream, by `stream`.
pub const STREAM_MESSAGES: &str = "headrace_stream_messages";
/// Bytes in a stream, by `stream`.
pub const STREAM_BYTES: &str = "headrace_stream_bytes";
/// Bytes that a stream may hold, by `stream`; 0 when it has no limit.
pub const STREAM_BYTES_MAX: &str = "headrace_stream_max_bytes";
/// Dead letters that wait for a person, by `component`.
pub const DEAD_WAITING: &str = "headrace_dead_letters_waiting";
/// Events that a detection rule matched, by `rule`, its id. Events that are scored again count again.
pub const RULE_MATCHES: &str = "headrace_rule_matches_total";
/// 1, with the `version` and the `commit` that the process was built from.
pub const BUILD_INFO: &str = "headrace_build_info";
/// 1 when the component is healthy, 0 when it is not, by `component`.
pub const HEALTHY: &str = "headrace_healthy";

/// 1 in the process that reads a source, 0 in those that stand by, by `component`.
pub const COLLECT_LEADER: &str = "headrace_collect_leader";
/// Pages that a source was asked for, by `component` and `outcome`: `stored`, `empty`, `failed`, `unstored` when the
/// broker took not all of it, `over_budget` when it was not asked for because the hour's budget is used up.
pub const COLLECT_PAGES: &str = "headrace_collect_pages_total";
/// When a source had been read completely, in seconds since the Unix epoch, by `component`.
pub const COLLECT_READ: &str = "headrace_collect_read_timestamp_seconds";

/// 1 in the process that looks for missed deliveries, 0 in those that stand by.
pub const RECOVERY_LEADER: &str = "headrace_recovery_leader";
/// Runs over a hook's deliveries, by `hook` and `outcome`: `complete`, `failed`.
pub const RECOVERY_RUNS: &str = "headrace_recovery_runs_total";
/// Redeliveries asked for, by `hook` and `outcome`: `accepted`, `refused`, `unanswered`.
pub const RECOVERY_ASKED: &str = "headrace_recovery_asked_total";
/// Times that what changed of a hook was written to ClickHouse's table `gaps`, by `hook` and `outcome`: `written`,
/// `failed`.
pub const RECOVERY_SHOWN: &str = "headrace_recovery_table_writes_total";
/// Deliveries of the past week, by `hook` and `state`: `delivered`, and of those `seen`, `recovered`,
/// `waiting`, `missing`; of the missing `refused` and `too_old`.
pub const RECOVERY_DELIVERIES: &str = "headrace_recovery_deliveries";
/// When all of a hook's deliveries were last accounted for, in seconds since the Unix epoch, by `hook`.
pub const RECOVERY_CHECKED: &str = "headrace_recovery_checked_timestamp_seconds";
/// Requests left of GitHub's primary rate limit, by `hook`.
pub const RECOVERY_QUOTA: &str = "headrace_recovery_quota_remaining";

/// Bounds of every latency histogram, in seconds.
const SECONDS: [f64; 17] =
    [0.000_5, 0.001, 0.002, 0.004, 0.006, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0];
/// Bounds of every size histogram, in events.
const EVENTS: [f64; 10] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_000.0, 4_000.0, 10_000.0, 25_000.0, 50_000.0];

/// Installs the process's recorder and describes every metric.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(CALL_EVENTS.to_owned()), &EVENTS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

/// Tells which build this process is.
pub fn tell_build(version: &'static str, commit: &'static str) {
    gauge!(BUILD_INFO, "version" => version, "commit" => commit).set(1.0);
}

/// Tells how many partitions of an earlier release's table the sink `component` has still to move.
pub fn tell_earlier_partitions(component: &str, left: usize) {
    gauge!(EARLIER_PARTITIONS, "component" => component.to_owned()).set(left as f64);
}

fn describe() {
    describe_counters();
    describe_histograms();
    describe_gauges();
}

fn describe_counters() {
    let counters = [
        (REQUESTS, Unit::Count, "Requests to the gateway, by reason."),
        (RECORDS, Unit::Count, "Records stored in RAW, by source and outcome."),
        (VERIFIED, Unit::Count, "Requests whose sender was verified."),
        (STORED_BYTES, Unit::Bytes, "Bytes of bodies stored."),
        (CONNECTIONS_DROPPED, Unit::Count, "Connections dropped because there was no room for others, by reason."),
        (SETTLED, Unit::Count, "Messages settled, by component and outcome."),
        (DEAD, Unit::Count, "Messages dead-lettered, by component and reason."),
        (DISCARDED, Unit::Count, "Events discarded on purpose, by component and reason."),
        (LAPSED, Unit::Count, "Messages given back untouched because they were held too long."),
        (PUBLISHED, Unit::Count, "Messages published by a stage and confirmed."),
        (DELIVERED, Unit::Count, "Events delivered by a sink."),
        (ALREADY_THERE, Unit::Count, "Suspects looked up and found to be there already."),
        (CONFLICTS, Unit::Count, "Deliveries under the id of an event that was made of another kind or body."),
        (PURGED, Unit::Count, "Messages removed from a full stream, settled or noted as missed."),
        (CAUGHT_UP, Unit::Count, "Events that were brought once more to a sink that catches up."),
        (RECREATED, Unit::Count, "Streams that somebody deleted and that were made anew; what they held is lost."),
        (RULE_MATCHES, Unit::Count, "Events that a detection rule matched, by the rule's id."),
        (COLLECT_PAGES, Unit::Count, "Pages that a source was asked for, by component and outcome."),
        (RECOVERY_RUNS, Unit::Count, "Runs over a hook's deliveries, by hook and outcome."),
        (RECOVERY_ASKED, Unit::Count, "Redeliveries asked for, by hook and outcome."),
        (RECOVERY_SHOWN, Unit::Count, "Writes to ClickHouse's table `gaps`, by hook and outcome."),
    ];
    for (name, unit, text) in counters {
        describe_counter!(name, unit, text);
    }
}

fn describe_histograms() {
    let histograms = [
        (STORE_SECONDS, Unit::Seconds, "From receiving a request to its PubAck."),
        (PUBLISH_SECONDS, Unit::Seconds, "From receiving an event to its publication by a chain."),
        (DELIVER_SECONDS, Unit::Seconds, "From receiving an event to its delivery by a sink."),
        (CALL_SECONDS, Unit::Seconds, "Duration of one call of a sink."),
        (CALL_EVENTS, Unit::Count, "Events per call of a sink."),
        (CALL_WAIT_SECONDS, Unit::Seconds, "How long a call waited for its rate, its receiver's wish or its breaker."),
        (MEMORY_WAIT_SECONDS, Unit::Seconds, "How long a component waited for memory, each time that it had to."),
    ];
    for (name, unit, text) in histograms {
        describe_histogram!(name, unit, text);
    }
}

fn describe_gauges() {
    let gauges = [
        (IN_FLIGHT, Unit::Count, "Requests being served."),
        (IN_FLIGHT_BYTES, Unit::Bytes, "Room taken for the bodies of requests being served."),
        (
            HELD_BYTES,
            Unit::Bytes,
            "Bytes of memory that a component has taken for messages, bodies and what is made of them.",
        ),
        (HELD_BYTES_MAX, Unit::Bytes, "The most bytes of memory that a component may take."),
        (MEMORY_BUDGET, Unit::Bytes, "Bytes of memory that all components of the process may take together."),
        (CONNECTIONS, Unit::Count, "Open connections, by listener."),
        (LAG, Unit::Count, "Messages of a consumer that wait."),
        (PENDING, Unit::Count, "Messages of a consumer that are delivered but not settled."),
        (EARLIER_PARTITIONS, Unit::Count, "Partitions of an earlier release's table that wait to be moved."),
        (UNREAD, Unit::Count, "Messages that wait for a sink that is not configured any more."),
        (SET_ASIDE, Unit::Count, "1 while a sink was set aside and has not caught up."),
        (MISSED_SECONDS, Unit::Seconds, "Seconds of EVENTS that a sink has missed and was not brought yet."),
        (PAUSED, Unit::Count, "1 while a person has a sink paused."),
        (OLDEST_SECONDS, Unit::Seconds, "Age of the oldest message that a consumer has not settled; 0 when all are."),
        (STREAM_MESSAGES, Unit::Count, "Messages in a stream."),
        (STREAM_BYTES, Unit::Bytes, "Bytes in a stream."),
        (STREAM_BYTES_MAX, Unit::Bytes, "Bytes that a stream may hold; 0 when it has no limit."),
        (DEAD_WAITING, Unit::Count, "Dead letters that wait for a person, by component."),
        (BUILD_INFO, Unit::Count, "1, with the version and the commit that the process was built from."),
        (BREAKER_OPEN, Unit::Count, "1 while a sink makes no calls because they failed, or one that decides; else 0."),
        (HEALTHY, Unit::Count, "1 when the component is healthy, 0 when it is not."),
        (COLLECT_LEADER, Unit::Count, "1 in the process that reads a source, 0 in those that stand by."),
        (COLLECT_READ, Unit::Seconds, "When a source had been read completely, Unix time."),
        (RECOVERY_LEADER, Unit::Count, "1 in the process that looks for missed deliveries, 0 in those that stand by."),
        (RECOVERY_DELIVERIES, Unit::Count, "Deliveries of the past week, by hook and what became of them."),
        (RECOVERY_CHECKED, Unit::Seconds, "When all of a hook's deliveries were last accounted for, Unix time."),
        (RECOVERY_QUOTA, Unit::Count, "Requests left of GitHub's primary rate limit, by hook."),
    ];
    for (name, unit, text) in gauges {
        describe_gauge!(name, unit, text);
    }
}

/// Seconds since `received_at`, for a latency histogram.
#[must_use]
pub fn seconds_since(received_at: Timestamp) -> f64 {
    Timestamp::now().since(received_at).as_secs_f64()
}

/// A duration in seconds, for a histogram.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
