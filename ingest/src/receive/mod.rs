//! What every source's requests go through: admission, reading the body, storing its records, the refusals.
//!
//! It knows no source and judges no signature: each source does that in its own folder, such as `github`. Read `walk`
//! next for the way of a request.

pub(crate) mod admission;
pub(crate) mod body;
pub(crate) mod denial_log;
mod unpack;
mod walk;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::routing::post;
use futures::FutureExt as _;
use headrace_runtime::broker::Broker;
use headrace_runtime::publish::store_health::StoreHealth;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use self::admission::Admission;
use self::denial_log::DenialLog;
use self::walk::Receiver;
use crate::config::Config;
use crate::source::Push;
use headrace_runtime::observe::metrics::{IN_FLIGHT, REQUESTS, STORE_SECONDS, VERIFIED};

/// What all sources share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) admission: Admission,
    pub(crate) stores: StoreHealth,
    pub(crate) broker: Broker,
    pub(crate) denials: DenialLog,
    pub(crate) signals: Signals,
}

/// The metrics of the data path, looked up once.
pub(crate) struct Signals {
    accepted: Counter,
    duplicate: Counter,
    verified: Counter,
    in_flight: Gauge,
    store_seconds: Histogram,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            accepted: counter!(REQUESTS, "reason" => "accepted"),
            duplicate: counter!(REQUESTS, "reason" => "duplicate"),
            verified: counter!(VERIFIED),
            in_flight: gauge!(IN_FLIGHT),
            store_seconds: histogram!(STORE_SECONDS),
        }
    }
}

/// A source that is ready to be served. Cheap to clone.
#[derive(Clone)]
pub struct Mount(Arc<dyn Mounted>);

trait Mounted: Send + Sync {
    fn paths(&self) -> Vec<String>;
    fn routes(&self, shared: &Arc<Shared>) -> Router;
}

struct Mounting<P>(Arc<P>);

impl Mount {
    /// Makes `source` ready.
    #[must_use]
    pub fn of(source: impl Push) -> Self {
        Self(Arc::new(Mounting(Arc::new(source))))
    }

    /// The paths that it serves.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.paths()
    }

    /// Its routes, each for POST alone.
    pub(crate) fn routes(&self, shared: &Arc<Shared>) -> Router {
        self.0.routes(shared)
    }
}

impl<P: Push> Mounted for Mounting<P> {
    fn paths(&self) -> Vec<String> {
        self.0.paths()
    }

    fn routes(&self, shared: &Arc<Shared>) -> Router {
        let receiver = Arc::new(Receiver::new(&self.0, shared));
        self.paths().into_iter().fold(Router::new(), |router, path| {
            let (receiver, own) = (Arc::clone(&receiver), Arc::<str>::from(path.as_str()));
            let handler = move |request: Request| {
                let (receiver, path) = (Arc::clone(&receiver), Arc::clone(&own));
                // Boxed at once: the layers around it would move all of it.
                async move { receiver.receive(&path, request).await }.boxed()
            };
            router.route(&path, post(handler))
        })
    }
}
