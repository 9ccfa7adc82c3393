//! The servers of an `up` that was killed. The kernel kills them with it, and they take a while to end: until then they hold
//! their ports and the engine's lock, and no others can be started in their place.
//!
//! This `up` has the data directory for itself. So whoever still holds the engine's lock is such a server, or a
//! `headrace clickhouse` of somebody's. NATS has no lock of its own, and ends long before the engine.

use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use headrace_embedded_clickhouse::front::LOCK;
use headrace_local::poll;
use rustix::fs::{Mode, OFlags};

/// How long they may take. The engine gives back gigabytes of memory.
const END_MAX: Duration = Duration::from_secs(15);
/// More bytes than a process id has.
const PROCESS_ID_BYTES_MAX: u64 = 32;

/// Waits until they have ended, if there are any. `engine` is the engine's directory. On `ports` the servers of this `up`
/// will listen.
///
/// # Errors
/// When somebody uses the engine's directory for longer than they may take. A port that stays taken is not told here: the
/// server that needs it says whose it is.
pub(crate) async fn have_ended(engine: &Path, ports: &[SocketAddr]) -> anyhow::Result<()> {
    have_ended_within(END_MAX, engine, ports).await
}

async fn have_ended_within(max: Duration, engine: &Path, ports: &[SocketAddr]) -> anyhow::Result<()> {
    let Some(process) = holder(engine) else { return Ok(()) };
    let max_s = max.as_secs();
    tracing::info!(process, max_s, "the ClickHouse of an earlier `up` is still ending; waiting for it");
    let ended = async || (holder(engine).is_none() && ports.iter().all(is_free)).then_some(());
    if poll::until("the servers of an earlier `up` have ended", max, ended).await.is_err()
        && let Some(process) = holder(engine)
    {
        anyhow::bail!(
            "expected the ClickHouse of an earlier `up` to end within {max_s} s, found that process {process} still uses {}; \
             end that process, or choose another directory with --data-dir",
            engine.display()
        );
    }
    Ok(())
}

/// The process that holds the engine's lock, as it wrote itself there. A file that cannot be opened or locked has none: the
/// server tells what is wrong with it.
fn holder(engine: &Path) -> Option<String> {
    // While the directory was open to others, they could have put a link or a pipe there.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(engine.join(LOCK), flags, Mode::empty()).ok()?);
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(_)) => return None,
        Ok(()) => {
            // To close the file is not enough: a child that was just forked has it open too.
            let _ = file.unlock();
            return None;
        }
    }
    let mut process = String::new();
    let _ = file.take(PROCESS_ID_BYTES_MAX).read_to_string(&mut process);
    Some(process.trim().to_owned())
}

fn is_free(port: &SocketAddr) -> bool {
    TcpListener::bind(port).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CEILING: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn whoever_still_uses_the_engine_is_waited_for_and_then_named() {
        let dir = tempfile::tempdir().unwrap();
        have_ended_within(CEILING, dir.path(), &[]).await.unwrap();
        let path = dir.path().join(LOCK);
        std::fs::write(&path, "4711\n").unwrap();
        have_ended_within(CEILING, dir.path(), &[]).await.unwrap();

        let lock = File::open(&path).unwrap();
        lock.try_lock().unwrap();
        let told = have_ended_within(Duration::ZERO, dir.path(), &[]).await.unwrap_err().to_string();
        let parts = ["process 4711 still uses", &dir.path().display().to_string(), "--data-dir"];
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");

        // The port may be free later than the lock.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap();
        let ends = async {
            lock.unlock().unwrap();
            tokio::task::yield_now().await;
            drop(listener);
        };
        let ports = [port];
        let (waited, ()) = tokio::join!(have_ended_within(CEILING, dir.path(), &ports), ends);
        waited.unwrap();
        assert!(is_free(&port));
    }
}
