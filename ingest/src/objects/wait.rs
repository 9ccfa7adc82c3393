//! Waits for requests on a thread that may block.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::Error;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longer than the client waits by itself.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Waits as long as somebody wants the page. An object that stays open between two pages waits for the present one.
#[derive(Clone, Debug, Default)]
pub(super) struct Wait(Arc<Mutex<Option<(Handle, CancellationToken)>>>);

impl Wait {
    /// Begins a page, on the present runtime. When the guard is dropped, nobody wants it any more.
    pub(super) fn begin(&self) -> DropGuard {
        let stop = CancellationToken::new();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Handle::current(), stop.clone()));
        stop.drop_guard()
    }

    /// Waits for `request`.
    pub(super) fn on<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let failed = |why: &'static str| Error::Generic { store: "bucket", source: why.into() };
        let page = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((runtime, stop)) = page else { return Err(failed("no page was begun")) };
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
