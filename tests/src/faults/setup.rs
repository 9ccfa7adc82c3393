//! The settings of the servers and processes in a run. They are short, so that a fault need not last long.

use super::Options;
use super::load::{SECRET, WINDOW_S};
use super::posts::TOKEN;
use std::net::SocketAddr;

/// After this many seconds another process reads the folder or bucket.
pub(super) const LEASE_S: u64 = 1;
/// `ack_wait` of the chains in these runs, in seconds.
pub(super) const ACK_WAIT_S: u64 = 4;
/// The longest insert in these runs, in seconds.
pub(super) const INSERT_S: u64 = 1;
/// The longest request to Splunk or Jira in these runs, in milliseconds.
pub(super) const RECEIVER_TIMEOUT_MS: u64 = 500;
/// The longest `ack_wait` of a sink that follows from these, in seconds. It is that of Jira, whose calls are six
/// requests.
pub(super) const SINK_ACK_WAIT_S: u64 = RECEIVER_TIMEOUT_MS * 6 * 2 / 1_000;

pub(super) fn configuration(
    nats: &str,
    clickhouse: SocketAddr,
    gateway: SocketAddr,
    read: &str,
    options: &Options,
    more: &str,
) -> String {
    let replicas = if options.scenario.nats_servers > 1 { 3 } else { 1 };
    let limits = |bytes: u64| format!("max_age_hours = 24, max_bytes = {bytes}");
    let (limits, of_events) = (limits(options.stream_bytes_max), limits(options.events_bytes_max));
    format!(
        "admin.listen = '127.0.0.1:0'\n\
         nats = {{ url = '{nats}', timeout_ms = 3000, clock_skew_ms = 100 }}\n\
         ingest = {{ listen = '{gateway}', answer_max_ms = 4000, github.secrets = ['{SECRET}'], \
         ndjson.tokens = ['{TOKEN}'], ndjson.folder = {{ {read}, interval_s = 1, settle_s = 1, last_line_s = 60 }} }}\n\
         collect.lease_s = {LEASE_S}\n\
         pipeline.ack_wait_s = {ACK_WAIT_S}\n\
         retry = {{ backoff_min_ms = 200, backoff_max_ms = 2000 }}\n\
         sinks.clickhouse = {{ url = 'http://{clickhouse}', insert_timeout_s = {INSERT_S}, clock_skew_ms = 200, \
         linger_ms = 200 }}\n\
         {more}\
         [streams]\n\
         replicas = {replicas}\n\
         duplicate_window_s = {WINDOW_S}\n\
         raw = {{ {limits} }}\n\
         events = {{ {of_events} }}\n\
         alerts = {{ {limits} }}\n\
         dead = {{ {limits} }}\n"
    )
}
