//! Waits until the running pipeline and sinks have settled everything that is to be replayed. They insert first
//! deliveries without a look-up, so they must not work on the same deliveries as the replay.

use std::time::Duration;

use anyhow::Context as _;
use headrace_runtime::broker::progress;
use headrace_runtime::broker::{Broker, Stream};
use headrace_stages::chains;
use tokio::time::sleep;

use super::status_line::StatusLine;
use crate::role::{CLICKHOUSE, CLICKHOUSE_RAW};

/// How often to check.
const PERIOD: Duration = Duration::from_millis(250);

/// Returns when every delivery up to the sequence `last` of RAW has its rows or was given up. It does not wait for a
/// component that has never run: such a component will look up everything that is older than itself.
pub(super) async fn wait_until_settled(
    broker: &Broker,
    pipeline: &chains::Config,
    last: u64,
    status_line: &mut StatusLine,
) -> anyhow::Result<()> {
    let mut way: Vec<(String, Stream)> = Vec::new();
    for chain in chains::build(pipeline, None)? {
        way.push((chain.subscription.component, chain.subscription.stream));
    }
    way.push((CLICKHOUSE.to_owned(), Stream::Events));
    way.push((CLICKHOUSE_RAW.to_owned(), Stream::Raw));
    // In this order: what a chain has settled is in the stream of the next one.
    for (component, stream) in way {
        let through = match stream {
            Stream::Raw => last,
            other => progress::last_sequence(broker, other).await?,
        };
        let mut is_told = false;
        loop {
            let left = progress::unsettled(broker, stream, &component, through).await;
            let left = match left.with_context(|| format!("cannot read the progress of {component}"))? {
                None | Some(0) => break,
                Some(left) => format!("waiting for {component}, which has up to {left} earlier messages to settle"),
            };
            if is_told {
                status_line.update(|| left);
            } else {
                status_line.print(&format!("{left}; is it running?"));
                is_told = true;
            }
            sleep(PERIOD).await;
        }
    }
    Ok(())
}
