//! What every source's requests go through: admission, reading the body, the refusals.
//!
//! It knows no source and judges no signature: each source does that in its own folder, such as `github`.

pub(crate) mod admission;
pub(crate) mod body;
pub(crate) mod reply;

use headrace_runtime::broker::Broker;
use headrace_runtime::publish::Publisher;
use headrace_runtime::publish::store_health::StoreHealth;

use self::admission::Admission;
use crate::config::Config;

/// What all sources share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) admission: Admission,
    pub(crate) stores: StoreHealth,
    pub(crate) broker: Broker,
    pub(crate) publisher: Publisher,
}
