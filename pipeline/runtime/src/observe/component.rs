//! The standard signals of one component. Each is registered by who has it, when it begins: a series that stays at 0
//! says that nothing happened yet, and one that is not there that nothing can.

use std::sync::{Arc, OnceLock};

use metrics::{Counter, Histogram, counter, histogram};

use crate::fault::DeadReason;
use crate::observe::metrics::{
    CALL_EVENTS, CALL_SECONDS, CONFLICTS, DEAD, DELIVER_SECONDS, DELIVERED, DISCARDED, LAPSED, PUBLISH_SECONDS,
    PUBLISHED, SETTLED,
};

/// The signals of a component that takes messages from a stream.
#[derive(Clone)]
pub struct ComponentMetrics {
    component: String,
    /// Given back untouched.
    pub lapsed: Counter,
    acked: Counter,
    chain: Arc<OnceLock<ChainMetrics>>,
    sink: Arc<OnceLock<SinkMetrics>>,
}

/// What only a chain of stages does.
pub struct ChainMetrics {
    /// Messages published and confirmed.
    pub published: Counter,
    /// Received to published.
    pub publish_seconds: Histogram,
    /// Under a known id, and of another kind or body.
    pub conflicts: Counter,
}

/// What only a sink does.
pub struct SinkMetrics {
    /// Events delivered.
    pub delivered: Counter,
    /// Received to delivered.
    pub deliver_seconds: Histogram,
    /// Duration of one call of the sink.
    pub call_seconds: Histogram,
    /// Events per call of the sink.
    pub call_events: Histogram,
}

impl ComponentMetrics {
    /// The signals of the component called `component`. Its dead letters are counted from 0, or a rate would miss the
    /// first.
    #[must_use]
    pub fn new(component: &str) -> Self {
        let label = || component.to_owned();
        for reason in DeadReason::ALL {
            counter!(DEAD, "component" => label(), "reason" => reason.code()).increment(0);
        }
        Self {
            lapsed: counter!(LAPSED, "component" => label()),
            acked: counter!(SETTLED, "component" => label(), "outcome" => "done"),
            chain: Arc::default(),
            sink: Arc::default(),
            component: component.to_owned(),
        }
    }

    /// Those of a chain, registered at the first call.
    pub fn chain(&self) -> &ChainMetrics {
        let label = || self.component.clone();
        self.chain.get_or_init(|| ChainMetrics {
            published: counter!(PUBLISHED, "component" => label()),
            publish_seconds: histogram!(PUBLISH_SECONDS, "component" => label()),
            conflicts: counter!(CONFLICTS, "component" => label()),
        })
    }

    /// Those of a sink, registered at the first call.
    pub fn sink(&self) -> &SinkMetrics {
        let label = || self.component.clone();
        self.sink.get_or_init(|| SinkMetrics {
            delivered: counter!(DELIVERED, "component" => label()),
            deliver_seconds: histogram!(DELIVER_SECONDS, "component" => label()),
            call_seconds: histogram!(CALL_SECONDS, "component" => label()),
            call_events: histogram!(CALL_EVENTS, "component" => label()),
        })
    }

    /// Counts one settled message.
    pub fn settled(&self, outcome: &'static str) {
        match outcome {
            "done" => self.acked.increment(1),
            other => counter!(SETTLED, "component" => self.component.clone(), "outcome" => other).increment(1),
        }
    }

    /// Counts one dead letter.
    pub fn dead(&self, reason: &'static str) {
        counter!(DEAD, "component" => self.component.clone(), "reason" => reason).increment(1);
    }

    /// Counts one discarded event.
    pub fn discarded(&self, reason: &'static str) {
        counter!(DISCARDED, "component" => self.component.clone(), "reason" => reason).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_component_shows_what_it_does_and_all_reasons_from_the_beginning() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let _ = ComponentMetrics::new("normalize").chain();
            let _ = ComponentMetrics::new("splunk").sink();
        });
        let text = recorder.handle().render();
        let shows = |series: &str| text.contains(series);
        for (metric, component, expected) in [
            (PUBLISHED, "normalize", true),
            (CONFLICTS, "normalize", true),
            (DELIVERED, "normalize", false),
            (DELIVERED, "splunk", true),
            (PUBLISHED, "splunk", false),
            (CONFLICTS, "splunk", false),
        ] {
            assert_eq!(shows(&format!("{metric}{{component=\"{component}\"}} 0")), expected, "{metric}: {text}");
        }
        for reason in DeadReason::ALL.map(DeadReason::code) {
            assert!(shows(&format!("{DEAD}{{component=\"splunk\",reason=\"{reason}\"}} 0")), "{reason}: {text}");
        }
    }
}
