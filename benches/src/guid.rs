//! Delivery GUIDs as GitHub makes them: version 1, with the time in them. The node holds the number of the delivery. So
//! code that sees the id later knows the delivery without a search.

use std::time::{Duration, SystemTime};

use uuid::Builder;

/// Characters in a GUID.
pub(crate) const LENGTH: usize = 36;
/// 100 ns intervals between the UUID epoch (1582-10-15) and the Unix epoch (RFC 9562, section 5.1).
const UUID_EPOCH_TICKS: u64 = 0x01B2_1DD2_1381_4000;
/// The first byte of the node. Its multicast bit says that the node is not a network card's address.
const NODE: u8 = 0x03;
/// Bits of the node that hold the number.
const INDEX_MASK: u64 = (1 << 40) - 1;

/// A GUID for delivery number `index`, made now.
pub(crate) fn make(index: u64) -> [u8; LENGTH] {
    at(now(), index)
}

/// The time now, in 100 ns since the Unix epoch.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(now.as_nanos() / 100).unwrap_or_default()
}

/// A GUID for delivery number `index`, made at `ticks` (100 ns since the Unix epoch).
pub(crate) fn at(ticks: u64, index: u64) -> [u8; LENGTH] {
    let ticks = UUID_EPOCH_TICKS + ticks;
    let mut node = (index & INDEX_MASK).to_be_bytes();
    node[2] = NODE;
    let node = [node[2], node[3], node[4], node[5], node[6], node[7]];
    let uuid = Builder::from_gregorian_timestamp(ticks, 0x1234, &node).into_uuid();
    let mut text = [0; LENGTH];
    uuid.hyphenated().encode_lower(&mut text);
    text
}

/// The number of the delivery with this event id. `None` if [`make`] did not make the id.
pub(crate) fn index_of(id: &str) -> Option<u64> {
    let (_, node) = id.rsplit_once('-')?;
    let node = u64::from_str_radix(node, 16).ok()?;
    (node >> 40 == u64::from(NODE)).then_some(node & INDEX_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use headrace_schemas::id::EventId;
    use headrace_schemas::time::Timestamp;

    #[test]
    fn a_guid_tells_its_number_and_its_time() {
        for index in [0, 1, 0x12_3456_789a] {
            let guid = make(index);
            let id = EventId::github(std::str::from_utf8(&guid).expect("ASCII"));
            assert_eq!(index_of(id.as_str()), Some(index));
            let age = Timestamp::now().since(id.created_at().expect("version 1"));
            assert!(age < Duration::from_secs(5), "{age:?}");
        }
        assert_eq!(index_of("github:72d3162e-cc78-11e3-81ab-4c9367dc0958"), None);
    }
}
