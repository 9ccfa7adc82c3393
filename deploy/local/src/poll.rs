//! Polls a condition, where others would sleep for a fixed time. Both starting and testing servers need this.
//!
//! Choose a ceiling far beyond what is ever needed: only a wait that fails takes that long.

use std::time::Duration;

use tokio::time::Instant;

/// The condition did not become true in time.
#[derive(Debug, thiserror::Error)]
#[error("{what}: not within {ceiling:?}")]
pub struct TimedOut {
    what: String,
    ceiling: Duration,
}

/// Polls `condition` until it returns a value, every 5 ms at first and every 100 ms later.
///
/// # Errors
/// [`TimedOut`], naming `what`, when `ceiling` has passed. It also cuts off a condition that hangs.
pub async fn until<T, F, Fut>(what: &str, ceiling: Duration, mut condition: F) -> Result<T, TimedOut>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + ceiling;
    let asking = async {
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    };
    tokio::time::timeout_at(deadline, asking).await.map_err(|_| TimedOut { what: what.to_owned(), ceiling })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::until;

    #[tokio::test]
    async fn a_value_ends_the_wait() {
        let mut asked = 0;
        let condition = || {
            asked += 1;
            std::future::ready((asked == 3).then_some("there"))
        };
        assert_eq!(until("third time", Duration::from_secs(60), condition).await.unwrap(), "there");
    }

    #[tokio::test]
    async fn a_hanging_condition_is_cut_off() {
        let error = until::<(), _, _>("never", Duration::from_millis(20), std::future::pending).await.unwrap_err();
        assert_eq!(error.to_string(), "never: not within 20ms");
    }
}
