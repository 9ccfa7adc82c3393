//! Decides how large the streams may grow in the NATS that `up` starts: as configured, else as the disk allows.

use std::path::Path;

use anyhow::Context as _;
use headrace_runtime::config::Streams;
use headrace_settings::{Loaded, Origin};

use crate::config::Config;

/// The settings that [`fit`] changes.
const SIZES: [&str; 4] =
    ["streams.raw.max_bytes", "streams.events.max_bytes", "streams.alerts.max_bytes", "streams.dead.max_bytes"];
/// The least size of a stream. A smaller one would be full after a few large bodies.
const BYTES_MIN: u64 = 8 << 20;

/// Whether the user has set the size of any stream. A table `[streams.raw]` alone, or an age in it, is not a size.
pub(crate) fn are_given(loaded: &Loaded<Config>) -> bool {
    SIZES.iter().any(|size| loaded.locate(size) != Origin::Default)
}

/// Makes the default streams smaller on a small disk. Together, they take at most half of its free space.
pub(crate) fn fit(streams: &mut Streams, path: &Path) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(path).with_context(|| format!("cannot see how much disk {} has", path.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    let all = [&mut streams.raw, &mut streams.events, &mut streams.alerts, &mut streams.dead];
    let wanted: u64 = all.iter().map(|limits| limits.max_bytes).sum();
    let share = (free as f64 / 2.0 / wanted as f64).min(1.0);
    for limits in all {
        limits.max_bytes = ((limits.max_bytes as f64 * share) as u64).max(BYTES_MIN);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use headrace_settings::{Document, Variables, reference};

    use super::*;
    use crate::config::PREFIX;

    fn are_given_by(text: &str, environment: &[(&str, &str)]) -> bool {
        let document = Document { name: "headrace.toml", text };
        let variables = Variables::of(PREFIX, environment.iter().copied());
        are_given(&headrace_settings::load(Some(document), &variables, |_| Vec::new()).unwrap())
    }

    #[test]
    fn only_a_size_is_taken_for_one() {
        assert!(!are_given_by("", &[]));
        assert!(!are_given_by(&reference::<Config>(PREFIX), &[]));
        // References that earlier releases printed have such headers.
        assert!(!are_given_by("[streams]\n[streams.raw]\n[streams.events]\n", &[]));
        assert!(!are_given_by("streams.raw.max_age_hours = 24", &[]));
        assert!(are_given_by("[streams.dead]\nmax_bytes = 1073741824", &[]));
        assert!(are_given_by("", &[("HEADRACE__STREAMS__RAW__MAX_BYTES", "1073741824")]));
        assert!(are_given_by("", &[("HEADRACE__STREAMS__EVENTS", "{ max_bytes = 1073741824 }")]));
    }
}
