//! What every source's requests go through: admission, the shared means of storing, the answers.

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
