//! What a kind of sink is: its configuration, and the components that are made of it.
//!
//! A kind implements [`Kind`] for its `Config`, and the line of [`crate::KINDS`] registers it. Everything else that
//! must know of it walks that registry. Only [`Kind::parts`] builds; nothing before it touches the network.
//! [`described`] has the settings that every instance has, whatever its kind.

mod calls;
mod configured;
pub(crate) mod described;
mod only;
mod selection;

use std::fmt::Debug;
use std::path::Path;

use async_trait::async_trait;
use headrace_runtime::broker::Stream;
use headrace_runtime::component::sink::{BoxedSink, Sink, SinkOptions};
use headrace_runtime::component::subscription::Start;
use headrace_runtime::config::Invalid;
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::RawDelivery;
use headrace_schemas::alert::Alert;
use headrace_schemas::event::{Event, Severity};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::calls::Terms;
pub(crate) use self::configured::Configured;
use self::described::{Common, Described};

/// The longest wait for a batch to fill that may be set, in milliseconds: a minute. Every event waits that long.
pub(crate) const LINGER_MAX_MS: u64 = 60_000;
/// The most events that a batch may be set to. A worker holds them all.
pub(crate) const BATCH_EVENTS_MAX: usize = 1_000_000;
/// The most bytes that a batch may be set to: a gibibyte. A worker holds them all.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 30;

/// Who an instance is, among all that may write to one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name of the instance.
    pub instance: String,
    /// The id of its installation, as [`headrace_runtime::state::installation::id`] tells it.
    pub installation: String,
}

/// A kind of sink. It is implemented by the kind's settings.
#[async_trait]
pub trait Kind: Clone + Debug + Default + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name of its folder, which is its name in the configuration.
    const NAME: &'static str;
    /// Its components, as [`Self::parts`] returns them: what follows the instance's name in the component's, and the
    /// stream. The rights in NATS follow from this.
    const COMPONENTS: &'static [(&'static str, Stream)];
    /// Where an instance begins whose configuration does not say it.
    const START: Start = Start::Stored;

    /// The least severity that an instance takes whose configuration does not say it.
    const MIN_SEVERITY: Severity = Severity::None;
    /// How many calls an instance makes at once whose configuration does not say it.
    const CONCURRENCY: usize = 1;
    /// Why it makes only one call at a time, if it does.
    const ONE_AT_A_TIME: Option<&'static str> = None;
    /// Whether the instance with the kind's own name is the installation's store, which must hold everything.
    const FIRST_IS_STORE: bool = false;

    /// Everything that is wrong with these settings, found without touching the network. `path` is where they are in
    /// the configuration.
    fn validate(&self, path: &str) -> Vec<Invalid>;

    /// The setting that no two instances may share, with its value, if there is one.
    fn place(&self) -> Option<(&'static str, String)> {
        None
    }

    /// A hash of where the installation's store keeps what it holds. It stays the same while that does. Only for kinds with
    /// [`Self::FIRST_IS_STORE`].
    fn store_place(&self) -> u64 {
        0
    }

    /// Builds the components of the instance `own`, in the order of [`Self::COMPONENTS`].
    ///
    /// # Errors
    /// When something that the settings name cannot be used, such as a file of certificates.
    fn parts(&self, own: &Identity) -> anyhow::Result<Vec<Part>>;

    /// Whether the receiver is reachable and accepts our credentials. Changes nothing there.
    ///
    /// # Errors
    /// Transient when it is away, broken when a person must act.
    async fn check(&self) -> Result<(), Fault> {
        for part in self.parts(&Identity::alone(Self::NAME)).map_err(Fault::broken)? {
            part.check().await?;
        }
        Ok(())
    }

    /// Makes what the receiver lacks for the instance `own`, such as tables. Without `own`, which is not known before NATS
    /// answers, only what is nobody's. `None` when there is nothing of the kind to make.
    async fn prepare(&self, _own: Option<&Identity>) -> Option<Result<(), Fault>> {
        None
    }

    /// The settings with which `up` runs this kind when the configuration has no instance of its name. `is_alone` says
    /// that the configuration names no sink but those that `up` itself would run. `data` is the data directory.
    fn of_up(_data: &Path, _is_alone: bool) -> Option<Self> {
        None
    }

    /// What `up` tells a person about an instance: a word and a text.
    fn told(&self) -> Option<(&'static str, String)> {
        None
    }
}

impl Identity {
    /// An instance whose receiver no other installation has, or is never asked whose it is.
    #[must_use]
    pub fn alone(instance: &str) -> Self {
        Self { instance: instance.to_owned(), installation: String::new() }
    }
}

/// A component of an instance: a sink on one stream.
pub struct Part {
    /// How it is run.
    pub options: SinkOptions,
    /// What it does.
    pub sink: AnySink,
}

/// A sink for one of the three things that sinks take.
pub enum AnySink {
    /// Bodies.
    Raw(BoxedSink<RawDelivery>),
    /// Scored events.
    Events(BoxedSink<Event>),
    /// Alerts.
    Alerts(BoxedSink<Alert>),
}

impl Part {
    /// A component for bodies.
    pub fn raw(sink: impl Sink<Item = RawDelivery>, options: SinkOptions) -> Self {
        Self { options, sink: AnySink::Raw(BoxedSink::new(sink)) }
    }

    /// A component for scored events.
    pub fn events(sink: impl Sink<Item = Event>, options: SinkOptions) -> Self {
        Self { options, sink: AnySink::Events(BoxedSink::new(sink)) }
    }

    /// A component for alerts.
    pub fn alerts(sink: impl Sink<Item = Alert>, options: SinkOptions) -> Self {
        Self { options, sink: AnySink::Alerts(BoxedSink::new(sink)) }
    }

    /// The stream that it reads.
    #[must_use]
    pub const fn stream(&self) -> Stream {
        match self.sink {
            AnySink::Raw(_) => Stream::Raw,
            AnySink::Events(_) => Stream::Events,
            AnySink::Alerts(_) => Stream::Alerts,
        }
    }

    /// Whether the receiver is reachable and accepts our credentials.
    ///
    /// # Errors
    /// Transient when it is away, broken when a person must act.
    pub async fn check(&self) -> Result<(), Fault> {
        match &self.sink {
            AnySink::Raw(sink) => sink.check().await,
            AnySink::Events(sink) => sink.check().await,
            AnySink::Alerts(sink) => sink.check().await,
        }
    }
}

/// A line of the registry.
pub struct Entry {
    /// The kind's name.
    pub name: &'static str,
    /// [`Kind::COMPONENTS`].
    pub components: &'static [(&'static str, Stream)],
    /// [`Kind::FIRST_IS_STORE`].
    pub(crate) first_is_store: bool,
    /// [`Kind::ONE_AT_A_TIME`].
    pub(crate) one_at_a_time: Option<&'static str>,
    /// What an instance is without settings of its own.
    pub(crate) defaults: fn() -> Common,
    pub(crate) schema: fn(&mut SchemaGenerator) -> Schema,
    pub(crate) read: fn(Value) -> Result<Box<dyn Configured>, serde_json::Error>,
    pub(crate) of_up: fn(&Path, bool) -> Option<Box<dyn Configured>>,
}

impl Entry {
    /// The line of a kind.
    #[must_use]
    pub const fn of<K: Kind>() -> Self {
        Self {
            name: K::NAME,
            components: K::COMPONENTS,
            first_is_store: K::FIRST_IS_STORE,
            one_at_a_time: K::ONE_AT_A_TIME,
            defaults: Common::of::<K>,
            schema: SchemaGenerator::subschema_for::<Described<K>>,
            read: |value| Ok(Box::new(serde_json::from_value::<K>(value)?)),
            of_up: |data, is_alone| Some(Box::new(K::of_up(data, is_alone)?)),
        }
    }
}
