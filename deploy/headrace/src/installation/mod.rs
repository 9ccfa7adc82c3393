//! What an installation keeps on this machine: the data directory of `up`, and what other commands read there.

pub(crate) mod ancestors;
pub(crate) mod contexts;
pub(crate) mod data_dir;
pub(crate) mod kept;
pub(crate) mod killed;
pub(crate) mod last_up;
pub(crate) mod locate;
mod opened;
pub(crate) mod private;
pub(crate) mod ready;
pub(crate) mod running;
pub(crate) mod secret_origin;
pub(crate) mod servers;
pub(crate) mod stream_sizes;
pub(crate) mod surroundings;
