//! The headers of a message of RAW: ours, and those that came with the body.

use async_nats::HeaderMap;
use headrace_schemas::header;

use super::Delivered;

/// What the headers of a message of RAW tell.
#[derive(Default)]
pub(super) struct RawHeaders<'h> {
    pub(super) id: Option<&'h str>,
    pub(super) source: Option<&'h str>,
    pub(super) event: Option<&'h str>,
    pub(super) event_time: Option<&'h str>,
    pub(super) received_at: Option<&'h str>,
    pub(super) sha256: Option<&'h str>,
    pub(super) object: Option<&'h str>,
    /// The headers that came with the body, in the order of their names.
    pub(super) original: Vec<(String, String)>,
}

impl<'h> RawHeaders<'h> {
    /// Looks at each header once: that costs less than to look one up by its name.
    pub(super) fn of(message: &'h Delivered) -> Self {
        let mut told = Self::default();
        for (name, values) in message.headers().into_iter().flat_map(HeaderMap::iter) {
            let name: &str = name.as_ref();
            let Some(first) = values.first() else { continue };
            let place = match name {
                header::ID => &mut told.id,
                header::SOURCE => &mut told.source,
                header::EVENT => &mut told.event,
                header::EVENT_TIME => &mut told.event_time,
                header::RECEIVED_AT => &mut told.received_at,
                header::BODY_SHA256 => &mut told.sha256,
                header::BODY_OBJECT => &mut told.object,
                _ if is_own(name) => continue,
                _ => {
                    told.original.extend(values.iter().map(|value| (name.to_owned(), value.as_str().to_owned())));
                    continue;
                }
            };
            *place = Some(first.as_str());
        }
        // The client library keeps headers in a random order. Sorted, a delivery that is read twice is the same both
        // times.
        told.original.sort_unstable();
        told
    }
}

/// Whether a header is ours or the broker's.
fn is_own(name: &str) -> bool {
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    begins("Headrace-") || begins("Nats-") || name == header::TRACEPARENT
}
