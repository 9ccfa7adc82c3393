//! Stops a query whose client went away. The engine cannot interrupt a call from outside. So each query has a mark in
//! its `log_comment`, and another session ends it with `KILL QUERY`.
//!
//! Only a query that changes nothing may be stopped. An insert runs to its end even if its client leaves in the middle
//! of the commit.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::format;
use crate::engine::Engine;

/// The pause between two attempts to stop a query. There are several, because a kill finds nothing until the query has
/// begun.
const KILL_EVERY: Duration = Duration::from_millis(500);

/// What a statement's thread and its client's connection tell each other.
pub(super) struct CancelHandle {
    comment: String,
    /// The statement may be stopped from now on.
    armed: CancellationToken,
    /// The client left.
    abandoned: CancellationToken,
    finished: CancellationToken,
}

impl CancelHandle {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            comment: format!("headrace {}", uuid::Uuid::new_v4()),
            armed: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            finished: CancellationToken::new(),
        })
    }

    /// The mark that the query carries.
    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// Sixteen letters that no answer contains by chance.
    pub(super) fn tag(&self) -> String {
        let digits = uuid::Uuid::new_v4().into_bytes();
        digits.iter().map(|byte| char::from(b'a' + byte % 26)).collect()
    }

    /// Notes that the query carries its mark. Returns false if the client has left already.
    pub(super) fn arm(&self) -> bool {
        self.armed.cancel();
        !self.abandoned.is_cancelled()
    }

    /// Returns a guard. When it is dropped, the statement counts as ended.
    pub(super) fn ends_with_this(&self) -> DropGuard {
        self.finished.clone().drop_guard()
    }
}

/// Stops all running statements when the server ends. Blocks.
pub(super) fn kill_all(engine: &Engine) -> Result<(), String> {
    kill_where(engine, "1")
}

fn kill_where(engine: &Engine, condition: &str) -> Result<(), String> {
    let mut session = engine.connect().map_err(|error| error.to_string())?;
    let sql = format!("KILL QUERY WHERE {condition} ASYNC");
    session.execute(sql.as_bytes(), format::DEFAULT, &[]).map(drop).map_err(|error| error.to_string())
}

/// The connection holds this while the client waits for the answer. Dropping it before the statement has ended stops
/// the statement.
pub(super) struct Waiting {
    pub(super) cancel_handle: Arc<CancelHandle>,
    pub(super) engine: Engine,
    pub(super) tasks: TaskTracker,
    pub(super) runtime: Handle,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cancel_handle.abandoned.cancel();
        if self.cancel_handle.armed.is_cancelled() && !self.cancel_handle.finished.is_cancelled() {
            self.tasks.spawn_on(kill(Arc::clone(&self.cancel_handle), self.engine.clone()), &self.runtime);
        }
    }
}

/// Task "kill": ends when the statement does, killed or by itself.
async fn kill(cancel_handle: Arc<CancelHandle>, engine: Engine) {
    while !cancel_handle.finished.is_cancelled() {
        let (comment, engine) = (cancel_handle.comment.clone(), engine.clone());
        let attempt =
            tokio::task::spawn_blocking(move || kill_where(&engine, &format!("Settings['log_comment'] = '{comment}'")));
        if let Ok(Err(error)) = attempt.await {
            tracing::debug!(error, "could not stop a query whose client left; trying again");
        }
        let _ = tokio::time::timeout(KILL_EVERY, cancel_handle.finished.cancelled()).await;
    }
}
