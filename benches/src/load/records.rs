//! What comes by other sources than GitHub's webhooks: records that are posted as newline-delimited JSON, and lines of a file
//! in the folder that the product reads.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;

use super::repetitions::{Origin, Presented};
use crate::bodies::Bodies;
use crate::guid;
use crate::servers::TOKEN;

/// Ticks of an id in a microsecond.
const TICKS_PER_MICRO: u64 = 10;

/// By which source a delivery comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Webhook,
    Post,
    Line,
}

impl Way {
    /// What is of an earlier time and was never seen comes by each of them in turn. What was sent before came by the webhook.
    pub(super) const fn of(presented: Presented) -> Self {
        match (presented.origin, presented.index % 3) {
            (Origin::NeverSeen, 1) => Self::Post,
            (Origin::NeverSeen, 2) => Self::Line,
            _ => Self::Webhook,
        }
    }
}

/// Writes records.
pub(crate) struct Records(File);

impl Records {
    /// The lines go into a file in `folder`, of which each load has one of its own, by its number.
    pub(crate) fn open(folder: &Path, load: u32) -> anyhow::Result<Self> {
        let path = folder.join(format!("aged-{load}.ndjson"));
        File::create_new(&path).map(Self).with_context(|| format!("cannot make {}", path.display()))
    }

    /// Adds the line `record`. It is stored when the product has read it.
    pub(super) fn append(&mut self, record: &mut Vec<u8>) -> io::Result<()> {
        record.push(b'\n');
        self.0.write_all(record)
    }
}

/// Replaces the content of `out` by the record of `presented`, which has the body of its delivery.
pub(super) fn record(bodies: &Bodies, presented: Presented, out: &mut Vec<u8>) {
    let Presented { index, ticks, .. } = presented;
    let (kind, json) = (&bodies.of(index).event, bodies.json(index));
    let guid = guid::at(ticks, index);
    let guid = std::str::from_utf8(&guid).expect("a GUID is ASCII");
    let tenant = serde_json::to_string(&bodies.login(&json)).expect("a text can be written");
    let micros = ticks / TICKS_PER_MICRO;
    out.clear();
    let head = format!(r#"{{"id":"{guid}","time":{micros},"kind":"{kind}","tenant":{tenant},"delivery":"#);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&json);
    out.push(b'}');
}

/// Replaces the content of `out` by the request that posts `record`.
pub(super) fn post(record: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let head = format!(
        "POST /collect/ndjson HTTP/1.1\r\nHost: headrace.bench\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        record.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(record);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_seen_comes_by_three_sources_and_nothing_else_does() {
        let ways = |origin| [0, 1, 2].map(|index| Way::of(Presented { index, ticks: 0, origin }));
        assert_eq!(ways(Origin::NeverSeen), [Way::Webhook, Way::Post, Way::Line]);
        assert_eq!([ways(Origin::New), ways(Origin::Repeated)], [[Way::Webhook; 3]; 2]);
    }
}
