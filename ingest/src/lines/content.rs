//! What is plain or packed, and what is told of it when it cannot be unpacked.

use std::io::{self, BufRead, BufReader, ErrorKind};

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::{Gathered, Lines, Place, Records};

const BUFFER_BYTES: usize = 64 << 10;
/// So much of what is packed is passed over before the page's time is looked at again.
const PASSED_BYTES: u64 = 8 << 20;

/// The lines of a file or object.
pub(crate) type Content = Lines<Box<dyn BufRead + Send>>;

/// The lines of `bytes`.
pub(crate) fn plain(bytes: impl BufRead + Send + 'static, bytes_max: usize) -> Content {
    Lines::new(Box::new(bytes), bytes_max)
}

/// The lines of what `packed` unpacks to.
pub(crate) fn unpacked(packed: impl BufRead + Send + 'static, bytes_max: usize) -> Content {
    plain(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(packed)), bytes_max)
}

/// Whether what is packed is to blame for a failure to unpack it, not where it comes from.
pub(crate) fn is_of_content(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

impl Gathered {
    /// Passes over `content` from `at` to `offset`, as far as the page has room. Whether it came there, or to the end.
    pub(crate) fn pass_over(&mut self, content: &mut Content, at: &mut u64, offset: u64) -> io::Result<bool> {
        while *at < offset {
            if self.is_full() {
                return Ok(false);
            }
            let mut passed = 0;
            let skipped = content.skip(PASSED_BYTES.min(offset - *at), &mut passed);
            *at += passed;
            self.count(passed);
            skipped?;
            if passed == 0 {
                break;
            }
        }
        Ok(true)
    }

    /// Adds a record that says that `what` is there, a file or object, cannot be unpacked from `place` on. `so_far` is what
    /// was unpacked of the line there.
    pub(crate) fn cut_off(
        &mut self,
        records: &dyn Records,
        place: Place<'_>,
        what: &str,
        so_far: &[u8],
        error: &io::Error,
    ) {
        let why = format!("cannot unpack the {what} from here on ({error})");
        self.unreadable(records, place, so_far, Sha256::digest(so_far).into(), &why);
    }
}
