//! Scored events to Splunk's HTTP Event Collector (HEC).
//!
//! One JSON envelope per event, many in a request. Receivers get every event at least once, with its stable id in the
//! indexed field `event_id`. An id is unique only within its `tenant`, so a search that drops repeats must go by both;
//! Splunk itself drops none. HEC answers when an event is in its queue. Indexer acknowledgement (`useACK`) is not used.
//! This was tried only against a stand-in that follows Splunk's published protocol, never against a Splunk server. What
//! an answer means is in [`answer`], what is sent in [`envelope`].

mod answer;
mod config;
mod envelope;

use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::batch::{Batch, BatchPolicy};
use headrace_runtime::component::sink::{BatchResult, Sink, SinkOptions};
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::{DeadReason, Fault};
use headrace_schemas::event::Event;
use headrace_schemas::subject;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url};
use tokio::time::Instant;

use self::answer::{Disposition, classify, classify_health, classify_probe};
pub use self::config::Config;
use self::envelope::{Frame, Packed, pack};
use crate::kind::{Identity, Kind, Part};
use crate::shared::http::{Answer, client, send};

/// How many requests of one call may take the full timeout.
const SLOW_REQUESTS_MAX: u32 = 3;

/// The sink.
pub struct Splunk {
    client: Client,
    events_url: Url,
    health_url: Url,
    authorization: HeaderValue,
    frame: Frame,
    request_bytes_max: usize,
    /// No request begins later than this after its call began.
    sending_max: Duration,
}

impl Config {
    /// Builds the sink. Reads `ca_path`, and connects to nothing yet.
    ///
    /// # Errors
    /// When the CA certificate cannot be read or the token cannot stand in a header.
    pub fn build(&self) -> anyhow::Result<Splunk> {
        let base = self.url.trim_end_matches('/');
        let mut authorization = HeaderValue::try_from(format!("Splunk {}", self.token.expose()))
            .map_err(|_| anyhow::anyhow!("expected a token of printable ASCII characters"))?;
        authorization.set_sensitive(true);
        Ok(Splunk {
            client: client(self.timeout(), self.ca_path.as_deref())?,
            events_url: Url::parse(&format!("{base}/services/collector/event"))?,
            health_url: Url::parse(&format!("{base}/services/collector/health"))?,
            authorization,
            frame: Frame::new(self),
            request_bytes_max: self.batch_bytes_max,
            sending_max: self.timeout() * (SLOW_REQUESTS_MAX - 1),
        })
    }

    /// The options with which it takes events.
    #[must_use]
    pub fn options(&self) -> SinkOptions {
        let call_timeout = self.timeout() * SLOW_REQUESTS_MAX;
        SinkOptions {
            filters: vec![subject::ALL_SCORED.to_owned()],
            batching: BatchPolicy {
                events_max: self.batch_events_max,
                bytes_max: crate::MESSAGES_BYTES_MAX,
                linger: Duration::from_millis(self.linger_ms),
            },
            call_timeout,
            ack_wait: call_timeout * 2,
            workers: Self::CONCURRENCY,
        }
    }
}

#[async_trait]
impl Kind for Config {
    const NAME: &'static str = "splunk";
    const COMPONENTS: &'static [(&'static str, Stream)] = &[("", Stream::Events)];
    const CONCURRENCY: usize = 2;

    fn validate(&self, path: &str) -> Vec<Invalid> {
        Self::validate(self, path)
    }

    fn parts(&self, _own: &Identity) -> anyhow::Result<Vec<Part>> {
        Ok(vec![Part::events(self.build()?, self.options())])
    }
}

#[async_trait]
impl Sink for Splunk {
    type Item = Event;

    async fn check(&self) -> Result<(), Fault> {
        let health = send(self.client.get(self.health_url.clone())).await?;
        classify_health(&health)?;
        // Splunk indexes nothing from an empty body, and HEC checks the token before the body.
        let probe = self.post(Vec::new(), false).await?;
        classify_probe(&probe)
    }

    async fn deliver(&self, batch: &Batch<Event>) -> BatchResult {
        let items = batch.items();
        let began = Instant::now();
        let mut results: Vec<Result<(), Fault>> = Vec::with_capacity(items.len());
        // Halved when HEC refuses a request without telling which event is to blame.
        let mut events_max = items.len();
        while results.len() < items.len() {
            let rest = &items[results.len()..];
            let Packed { body, events } =
                pack(&self.frame, &rest[..rest.len().min(events_max)], self.request_bytes_max).await;
            let disposition = match self.post(body, self.frame.compress).await {
                Ok(answer) => classify(&answer, events),
                Err(fault) => Disposition::Stopped { at: 0, fault },
            };
            match disposition {
                Disposition::Accepted => {
                    results.extend((0..events).map(|_| Ok(())));
                    events_max = events_max.saturating_mul(2);
                }
                Disposition::Refused { at, why } => {
                    results.extend((0..at).map(|_| Ok(())));
                    results.push(Err(Fault::poison(DeadReason::Rejected, anyhow::anyhow!(why))));
                }
                Disposition::Unplaced { why } if events == 1 => {
                    results.push(Err(Fault::poison(DeadReason::Rejected, anyhow::anyhow!(why))));
                }
                Disposition::Unplaced { .. } => events_max = events / 2,
                Disposition::Stopped { at, fault } => {
                    results.extend((0..at).map(|_| Ok(())));
                    return stopped(results, items.len(), fault);
                }
            }
            if results.len() < items.len() && began.elapsed() > self.sending_max {
                let late = Fault::transient(anyhow::anyhow!("the batch took too many requests for one call"));
                return stopped(results, items.len(), late);
            }
        }
        BatchResult::Each(results)
    }
}

impl Splunk {
    async fn post(&self, body: Vec<u8>, gzip: bool) -> Result<Answer, Fault> {
        let mut request = self
            .client
            .post(self.events_url.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json");
        if gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        if body.is_empty() {
            // The client library tells no length of an empty body, and proxies refuse a POST without one.
            request = request.header(CONTENT_LENGTH, 0);
        }
        send(request.body(body)).await
    }
}

/// The answer for a batch whose last events were not reached: they come again. As long as nothing is known about any
/// event, the batch as a whole comes again and no event loses an attempt.
fn stopped(mut results: Vec<Result<(), Fault>>, count: usize, fault: Fault) -> BatchResult {
    if results.is_empty() {
        return BatchResult::Whole(fault);
    }
    while results.len() < count {
        let (class, effect) = (fault.class.clone(), fault.effect);
        results.push(Err(Fault { class, effect, source: anyhow::anyhow!("{fault}") }));
    }
    BatchResult::Each(results)
}
