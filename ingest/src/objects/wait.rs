//! Waits for requests on a thread that may block.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::answers::{Class, Failure};

/// Longer than the client waits by itself.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Waits as long as somebody wants the page. An object that stays open between two pages waits for the present one.
#[derive(Clone, Debug, Default)]
pub(super) struct Wait(Arc<Mutex<Option<Page>>>);

/// The present page.
#[derive(Clone, Debug)]
struct Page {
    runtime: Handle,
    stop: CancellationToken,
    until: Instant,
}

impl Wait {
    /// Begins a page of the length `time`, on the present runtime. When the guard is dropped, nobody wants it any more.
    pub(super) fn begin(&self, time: Duration) -> DropGuard {
        let stop = CancellationToken::new();
        let page = Page { runtime: Handle::current(), stop: stop.clone(), until: Instant::now() + time };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(page);
        stop.drop_guard()
    }

    fn page(&self) -> Option<Page> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the page's time is over.
    pub(super) fn is_over(&self) -> bool {
        self.page().is_some_and(|page| Instant::now() >= page.until)
    }

    /// Waits for `request`.
    pub(super) fn on<T>(&self, request: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let failed = |why: &'static str| Failure::new(Class::Away, why);
        let Some(Page { runtime, stop, .. }) = self.page() else { return Err(failed("no page was begun")) };
        runtime.block_on(async {
            tokio::select! {
                answer = timeout(REQUEST_MAX, request) => {
                    answer.unwrap_or_else(|_| Err(failed("the service did not answer in time")))
                }
                () = stop.cancelled() => Err(failed("nobody waits for the answer any more")),
            }
        })
    }
}
