//! Which messages an instance takes: filters of its consumers where subjects can say it, else an expression.
//!
//! The broker then passes over the others and nobody reads them. Each message is looked at once more all the same: while
//! processes of two configurations run, the consumer has the filters of one of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::batch::{Batch, Key};
use headrace_runtime::component::sink::{BatchResult, BoxedSink, Sink};
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::{Payload, RawDelivery};
use headrace_schemas::alert::Alert;
use headrace_schemas::event::{Category, Event, Severity};
use headrace_schemas::{subject, token};

use super::described::Common;
use super::only::Only;
use super::{AnySink, Part};

/// The most filters of one consumer. The broker compares each message with each of them.
const FILTERS_MAX: usize = 64;

impl Common {
    /// The settings that leave something out.
    pub(crate) fn selecting(&self) -> Vec<&'static str> {
        let Self { tenants, categories, min_severity, severities, only, .. } = self;
        let given = [
            ("tenants", !tenants.is_empty()),
            ("categories", !categories.is_empty()),
            ("min_severity", *min_severity != Severity::None),
            ("severities", !severities.is_empty()),
            ("only", only.is_some()),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(field, _)| field).collect()
    }

    /// What is wrong with the selection of an instance with these components.
    pub(crate) fn validate(&self, path: &str, components: &[(&str, Stream)]) -> Vec<Invalid> {
        let mut problems = Vec::new();
        for field in self.selecting() {
            let lacks = |stream: Stream| match stream {
                // The expression has messages of its own, below.
                Stream::Raw => !["tenants", "only"].contains(&field),
                Stream::Alerts => field == "categories",
                Stream::Events | Stream::Dead | Stream::CatchUp => false,
            };
            if let Some((_, stream)) = components.iter().find(|(_, stream)| lacks(*stream)) {
                let message =
                    format!("expected none, because this kind also reads {}, which does not tell it", stream.name());
                problems.push(Invalid::new(format!("{path}.{field}"), message));
            }
        }
        if let Some(only) = &self.only
            && let Err(message) = Only::check(only, components.iter().map(|(_, stream)| *stream))
        {
            problems.push(Invalid::new(format!("{path}.only"), message));
        }
        let counts = components.iter().filter_map(|(_, stream)| Some(self.filters(*stream)?.len()));
        if let Some(count) = counts.max().filter(|count| *count > FILTERS_MAX) {
            let message = format!(
                "expected at most {FILTERS_MAX} combinations of tenants, categories and severities, found {count}; leave one \
                 of the three out, or make several sinks"
            );
            problems.push(Invalid::new(path, message));
        }
        problems
    }

    /// The filters of a consumer of `stream`. `None` when it takes everything.
    fn filters(&self, stream: Stream) -> Option<Vec<String>> {
        let (tenants, severities) = (self.tokens(), self.severities());
        if tenants.is_empty() && self.categories.is_empty() && severities.is_empty() {
            return None;
        }
        Some(match stream {
            Stream::Events | Stream::CatchUp => subject::scored_of(&tenants, &self.categories, &severities),
            Stream::Alerts => subject::alerts_of(&tenants, &severities),
            Stream::Raw | Stream::Dead => {
                // Two spellings of one tenant are one filter: NATS refuses filters that overlap.
                let filters: BTreeSet<String> = tenants.iter().map(|tenant| subject::raw_of(Some(tenant))).collect();
                filters.into_iter().collect()
            }
        })
    }

    /// The tokens of its tenants. Made by name, so that no tenant gets into the sink of another whose token looks like its
    /// name.
    fn tokens(&self) -> Vec<String> {
        self.tenants.iter().map(|tenant| token::of_tenant(tenant)).collect()
    }

    /// The severities that it takes. Empty means all.
    fn severities(&self) -> Vec<Severity> {
        if !self.severities.is_empty() {
            return self.severities.clone();
        }
        let worse = Severity::ALL.iter().copied().filter(|severity| *severity >= self.min_severity);
        if self.min_severity == Severity::None { Vec::new() } else { worse.collect() }
    }

    /// Lets `part` take what is selected, and nothing else.
    ///
    /// # Errors
    /// When `only` is no expression.
    pub(crate) fn select(&self, mut part: Part) -> anyhow::Result<Part> {
        let filters = self.filters(part.stream());
        if filters.is_none() && self.only.is_none() {
            return Ok(part);
        }
        if let Some(filters) = filters {
            part.options.filters = filters;
        }
        let choice = Arc::new(Choice {
            tenants: self.tokens(),
            categories: self.categories.clone(),
            severities: self.severities(),
            only: self.only.as_deref().map(Only::of).transpose()?,
        });
        part.sink = match part.sink {
            AnySink::Raw(sink) => AnySink::Raw(BoxedSink::new(Chosen { sink, choice })),
            AnySink::Events(sink) => AnySink::Events(BoxedSink::new(Chosen { sink, choice })),
            AnySink::Alerts(sink) => AnySink::Alerts(BoxedSink::new(Chosen { sink, choice })),
        };
        Ok(part)
    }
}

/// What is taken. An empty list means all.
struct Choice {
    tenants: Vec<String>,
    categories: Vec<Category>,
    severities: Vec<Severity>,
    only: Option<Only>,
}

impl Choice {
    fn takes(&self, item: &impl Facts) -> bool {
        let is_one = |tenant: &str| self.tenants.is_empty() || self.tenants.iter().any(|own| own == tenant);
        is_one(item.tenant())
            && item.category().is_none_or(|category| self.categories.is_empty() || self.categories.contains(&category))
            && item.severity().is_none_or(|severity| self.severities.is_empty() || self.severities.contains(&severity))
            && self.only.as_ref().is_none_or(|only| item.satisfies(only))
    }
}

/// What the subject of an item tells.
trait Facts {
    fn tenant(&self) -> &str;
    fn category(&self) -> Option<Category>;
    fn severity(&self) -> Option<Severity>;
    /// Whether `only` holds for it.
    fn satisfies(&self, only: &Only) -> bool;
}

impl Facts for Event {
    fn tenant(&self) -> &str {
        &self.tenant
    }

    fn category(&self) -> Option<Category> {
        Some(self.category)
    }

    fn severity(&self) -> Option<Severity> {
        Some(Self::severity(self))
    }

    fn satisfies(&self, only: &Only) -> bool {
        only.holds(self)
    }
}

impl Facts for Alert {
    fn tenant(&self) -> &str {
        &self.tenant
    }

    fn category(&self) -> Option<Category> {
        None
    }

    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn satisfies(&self, only: &Only) -> bool {
        only.holds(self)
    }
}

impl Facts for RawDelivery {
    fn tenant(&self) -> &str {
        &self.tenant
    }

    fn category(&self) -> Option<Category> {
        None
    }

    fn severity(&self) -> Option<Severity> {
        None
    }

    fn satisfies(&self, _only: &Only) -> bool {
        // `validate` refuses the setting for bodies.
        true
    }
}

/// A sink that takes what is chosen.
struct Chosen<T> {
    sink: BoxedSink<T>,
    choice: Arc<Choice>,
}

#[async_trait]
impl<T: Payload + Facts> Sink for Chosen<T> {
    type Item = T;

    async fn check(&self) -> Result<(), Fault> {
        self.sink.check().await
    }

    fn wants(&self, item: &T) -> bool {
        self.choice.takes(item) && self.sink.wants(item)
    }

    fn key(&self, item: &T) -> Key {
        self.sink.key(item)
    }

    fn suspects_linger(&self) -> Duration {
        self.sink.suspects_linger()
    }

    async fn deliver(&self, batch: &Batch<T>) -> BatchResult {
        self.sink.deliver(batch).await
    }
}
