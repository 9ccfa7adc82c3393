//! A bucket of the strict stand-in, and the objects that are written into it. The role `collect` reads them through a
//! proxy.

use std::sync::Arc;

use super::history::History;
use super::plan::Plan;
use super::proxy::Proxy;
use crate::standin::s3::{ACCESS_KEY_ID, BUCKET, REGION, S3, SECRET_ACCESS_KEY, packed};
use crate::standin::server::{Failure, When, Which};

/// Requests that fail, one after the other. At the third failure, an object would be set aside.
const FAILURES: usize = 2;
/// One object in this many comes under a name before that of its predecessor.
const LATE_EVERY: u64 = 10;
/// One object in this many is packed.
const PACKED_EVERY: u64 = 3;

/// The bucket.
pub(super) struct Bucket {
    s3: Arc<S3>,
    proxy: Proxy,
}

impl Bucket {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let s3 = Arc::new(S3::start().await);
        let proxy = Proxy::start(s3.address()).await?;
        Ok(Self { s3, proxy })
    }

    /// The settings by which it is read. Everything is listed at nearly every look.
    pub(super) fn configuration(&self) -> String {
        format!(
            "url = 's3://{BUCKET}/audit', bucket = {{ endpoint = 'http://{}', region = '{REGION}', \
             access_key_id = '{ACCESS_KEY_ID}', secret_access_key = '{SECRET_ACCESS_KEY}', full_listing_s = 2 }}",
            self.proxy.address()
        )
    }

    /// The network before it.
    pub(super) const fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Makes the next requests fail. The last one may only be held, until [`Self::release`].
    pub(super) fn fail(&self, plan: &mut Plan) {
        let failures = [
            Failure::Status(503),
            Failure::StatusAfter(503, 1),
            Failure::Status(500),
            Failure::Reset,
            Failure::Torn,
            Failure::Hold,
        ];
        for left in (0..FAILURES).rev() {
            let count = if left == 0 { failures.len() } else { failures.len() - 1 };
            self.s3.fail_next(1, failures[plan.below(count)], When::Before, Which::Any);
        }
    }

    /// How many requests are still to fail.
    pub(super) fn failures_left(&self) -> usize {
        self.s3.failures_left()
    }

    /// Answers what is held.
    pub(super) fn release(&self) {
        self.s3.release();
    }

    /// Objects of so many lines each.
    pub(super) fn objects(&self, lines: usize) -> Objects {
        Objects { s3: Arc::clone(&self.s3), lines_max: lines, lines: Vec::new(), number: 0 }
    }
}

/// Writes objects.
pub(super) struct Objects {
    s3: Arc<S3>,
    lines_max: usize,
    /// Those of the next object, each with its number.
    lines: Vec<(u64, String)>,
    number: u64,
}

impl Objects {
    /// Adds a line. When the object has enough of them, it is put into the bucket.
    pub(super) fn write(&mut self, number: u64, line: String, history: &History) {
        self.lines.push((number, line));
        if self.lines.len() >= self.lines_max {
            self.put(history);
        }
    }

    /// Puts what there is into the bucket.
    pub(super) fn put(&mut self, history: &History) {
        let text: String = self.lines.iter().map(|(_, line)| format!("{line}\n")).collect();
        let number = self.number;
        let name = if number % LATE_EVERY == LATE_EVERY - 1 {
            format!("{:08}-late", number - 2)
        } else {
            format!("{number:08}")
        };
        if number.is_multiple_of(PACKED_EVERY) {
            self.s3.bucket().put(&format!("audit/{name}.ndjson.gz"), packed(&text));
        } else {
            self.s3.bucket().put(&format!("audit/{name}.ndjson"), text);
        }
        self.number += 1;
        for (number, line) in self.lines.drain(..) {
            history.note_line(number, line.as_bytes());
        }
    }
}
