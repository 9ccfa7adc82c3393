//! Configuration of the broker and of the streams in it.

mod address;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::certificate::read_ca_file;
use crate::config::address::{Address, Login};
use crate::retry::RetryPolicy;
use crate::secret::{Secret, redact_url};

/// The most hours that a stream may keep a message: ten years. The broker counts in nanoseconds, and has no room for
/// three hundred.
const AGE_MAX_HOURS: u64 = 87_600;
/// The most bytes that a stream may be allowed: a pebibyte.
const STREAM_BYTES_MAX: u64 = 1 << 50;
/// The longest pause between attempts that may be set, in milliseconds: an hour. What is mended is noticed after the
/// pause, so a longer one would look like a fault.
pub const BACKOFF_MAX_MS: u64 = 3_600_000;
/// The longest wait for one answer that may be set, in milliseconds: ten minutes. Load balancers and receivers close a
/// connection sooner. Until this has passed, nobody else takes over the work of a process that died.
pub const TIMEOUT_MAX_MS: u64 = 600_000;

/// A value that parses but cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where it is: `sinks.splunk.url`, `ingest.secrets[0]`.
    pub path: String,
    /// What was expected, what was found, what to do.
    pub message: String,
}

impl Invalid {
    /// The value at `path` cannot be used.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// How to reach NATS.
#[derive(Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nats {
    /// Servers, separated by commas; `tls://` insists on TLS, with `nats://` the server decides. `up` starts a server of
    /// its own when this is empty. Example: `nats://nats-0:4222,nats://nats-1:4222`.
    pub url: String,
    /// A credentials file (JWT and seed) as `nsc` writes it.
    pub credentials_path: Option<PathBuf>,
    /// User name, with `password`.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Secret,
    /// Token, instead of user and password.
    pub token: Secret,
    /// A directory of passwords, one file for each user that a process here connects as: `ingest`, `pipeline`,
    /// `retention`, `sinks`, `recover`, and `admin` for `dead`, `replay`, `gaps` and whoever makes the streams. Each
    /// role then has a connection and rights of its own. Instead of `user`, `token` and `credentials_path`.
    pub users_dir: Option<PathBuf>,
    /// The prefix of the subjects on which we get answers. A user with narrow rights may subscribe only to its own.
    /// With `users_dir` it is `_INBOX_` and the user's name.
    pub inbox_prefix: String,
    /// A file of CA certificates (PEM) to trust instead of the system's. Example: `/etc/headrace/nats-ca.pem`.
    pub ca_path: Option<PathBuf>,
    /// How long to wait for a connection and for each confirmation, in milliseconds.
    #[schemars(range(min = 1, max = TIMEOUT_MAX_MS))]
    pub timeout_ms: u64,
    /// How long `run` waits at its start until NATS answers and has its streams, in seconds. Then it ends with an
    /// error. Once started, it waits for ever.
    #[schemars(range(max = 86_400))]
    pub start_wait_s: u64,
    /// How much the clocks of the broker's servers and ours may differ, in milliseconds. After a restart of the broker
    /// a sink waits this much longer before it believes a look-up. Example: 5000.
    #[schemars(range(min = 10, max = 60_000))]
    pub clock_skew_ms: u64,
}

/// Prints every field, but no password in `url`.
impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            credentials_path,
            user,
            password,
            token,
            users_dir,
            inbox_prefix,
            ca_path,
            timeout_ms,
            start_wait_s,
            clock_skew_ms,
        } = self;
        f.debug_struct("Nats")
            .field("url", &redact_url(url))
            .field("credentials_path", credentials_path)
            .field("user", user)
            .field("password", password)
            .field("token", token)
            .field("users_dir", users_dir)
            .field("inbox_prefix", inbox_prefix)
            .field("ca_path", ca_path)
            .field("timeout_ms", timeout_ms)
            .field("start_wait_s", start_wait_s)
            .field("clock_skew_ms", clock_skew_ms)
            .finish()
    }
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            url: String::new(),
            credentials_path: None,
            user: None,
            password: Secret::default(),
            token: Secret::default(),
            users_dir: None,
            inbox_prefix: "_INBOX".to_owned(),
            ca_path: None,
            timeout_ms: 5_000,
            start_wait_s: 60,
            clock_skew_ms: 2_000,
        }
    }
}

impl Nats {
    /// What is wrong with these values, below `path`.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: String| problems.push(Invalid::new(format!("{path}.{field}"), message));
        if self.url.is_empty() {
            let message = "expected the address of a NATS server such as `nats://127.0.0.1:4222`, found none; \
                           `headrace up` starts one by itself";
            refuse("url", message.to_owned());
        }
        if self.users_dir.is_some()
            && (self.user.is_some() || !self.token.is_empty() || self.credentials_path.is_some())
        {
            let message = "expected it instead of `nats.user`, `nats.token` and `nats.credentials_path`, found one of them \
                           too; the files in the directory say who connects";
            refuse("users_dir", message.to_owned());
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !self.inbox_prefix.split('.').all(|token| !token.is_empty() && token.bytes().all(plain)) {
            let message = format!("expected a subject such as `_INBOX_ingest`, found `{}`", self.inbox_prefix);
            refuse("inbox_prefix", message);
        }
        if let Some(Err(error)) = self.credentials_path.as_deref().map(find_credentials) {
            let message = format!(
                "expected a credentials file (JWT and seed) as `nsc` writes it: {error:#}; name another, or leave \
                 `{path}.credentials_path` out"
            );
            refuse("credentials_path", message);
        }
        // With `nats://` too: there the server decides whether the file is needed.
        if let Some(Err(error)) = self.ca_path.as_deref().map(read_ca_file) {
            let message = format!(
                "expected a file of CA certificates (PEM): {error:#}; name another, or leave `{path}.ca_path` out to \
                 trust the system's CAs"
            );
            refuse("ca_path", message);
        }
        problems
    }

    /// Connects to the servers at `url` instead. A user, password or token in it replaces those set here.
    pub fn reach(&mut self, url: &str) {
        let Address { servers, login } = Address::of(url);
        self.url = servers.join(",");
        if login.is_some() {
            (self.users_dir, self.credentials_path) = (None, None);
        }
        match login {
            Some(Login::Password { user, password }) => {
                (self.user, self.password, self.token) = (Some(user), password, Secret::default());
            }
            Some(Login::Token(token)) => (self.user, self.password, self.token) = (None, Secret::default(), token),
            None => {}
        }
    }

    /// `start_wait_s` as a duration.
    #[must_use]
    pub const fn start_wait(&self) -> Duration {
        Duration::from_secs(self.start_wait_s)
    }

    /// `clock_skew_ms` as a duration.
    #[must_use]
    pub const fn clock_skew(&self) -> Duration {
        Duration::from_millis(self.clock_skew_ms)
    }

    /// `timeout_ms` as a duration.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Checks that there is a file of credentials that we may read. Whether they are good, the server says.
fn find_credentials(path: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    // Look first: reading a pipe would wait for its writer.
    let found = std::fs::metadata(path).with_context(cannot)?;
    anyhow::ensure!(found.is_file(), "{} is no regular file", path.display());
    std::fs::File::open(path).with_context(cannot)?;
    Ok(())
}

/// The streams and buckets in NATS.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Streams {
    /// Copies of each stream: 1, or 3 on a cluster of three or more servers.
    #[schemars(extend("enum" = [1, 3, 5]))]
    pub replicas: usize,
    /// How long the broker recognizes a repeated message, in seconds. A longer window costs broker
    /// memory, about 100 bytes per message; repeats beyond it are recognized in ClickHouse.
    #[schemars(range(min = 2, max = 3_600))]
    pub duplicate_window_s: u64,
    /// Bodies as they came: the replay window.
    #[serde(deserialize_with = "partial::raw")]
    pub raw: Limits,
    /// Events between stages and to the sinks.
    #[serde(deserialize_with = "partial::events")]
    pub events: Limits,
    /// Alerts.
    #[serde(deserialize_with = "partial::alerts")]
    pub alerts: Limits,
    /// Dead letters.
    #[serde(deserialize_with = "partial::dead")]
    pub dead: Limits,
}

impl Default for Streams {
    fn default() -> Self {
        let limits = |days: u64, gibibytes: u64| Limits { max_age_hours: days * 24, max_bytes: gibibytes << 30 };
        Self {
            replicas: 1,
            duplicate_window_s: 120,
            raw: limits(7, 10),
            events: limits(3, 4),
            alerts: limits(30, 1),
            dead: limits(90, 1),
        }
    }
}

impl Streams {
    /// `duplicate_window_s` as a duration.
    #[must_use]
    pub const fn duplicate_window(&self) -> Duration {
        Duration::from_secs(self.duplicate_window_s)
    }
}

/// A table of limits may give only one of the two. The other is then that stream's default.
mod partial {
    use serde::{Deserialize, Deserializer};

    use super::{Limits, Streams};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Partial {
        max_age_hours: Option<u64>,
        max_bytes: Option<u64>,
    }

    fn fill<'de, D: Deserializer<'de>>(deserializer: D, default: Limits) -> Result<Limits, D::Error> {
        let given = Partial::deserialize(deserializer)?;
        Ok(Limits {
            max_age_hours: given.max_age_hours.unwrap_or(default.max_age_hours),
            max_bytes: given.max_bytes.unwrap_or(default.max_bytes),
        })
    }

    pub(super) fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
        fill(deserializer, Streams::default().raw)
    }

    pub(super) fn events<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
        fill(deserializer, Streams::default().events)
    }

    pub(super) fn alerts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
        fill(deserializer, Streams::default().alerts)
    }

    pub(super) fn dead<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
        fill(deserializer, Streams::default().dead)
    }
}

/// Limits of one stream. A stream at `max_bytes` refuses new messages rather than drop unread ones;
/// what every consumer has settled is removed beforehand.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Messages older than this many hours are removed.
    #[schemars(range(min = 1, max = AGE_MAX_HOURS))]
    pub max_age_hours: u64,
    /// The stream holds at most this many bytes.
    #[schemars(range(min = 1_048_576, max = STREAM_BYTES_MAX))]
    pub max_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Streams::default().raw
    }
}

/// How failed attempts are repeated.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts that an event's own temporary failures may cost before it is dead-lettered. A receiver
    /// that is down altogether costs none.
    #[schemars(range(min = 1, max = u32::MAX))]
    pub attempts_max: u32,
    /// Pause after the first failure, in milliseconds; it doubles with each further one.
    #[schemars(range(min = 1, max = BACKOFF_MAX_MS))]
    pub backoff_min_ms: u64,
    /// The longest pause, in milliseconds; no less than `backoff_min_ms`. What is mended is noticed after it.
    #[schemars(range(max = BACKOFF_MAX_MS))]
    pub backoff_max_ms: u64,
    /// The longest pause that a receiver may wish for (`Retry-After`), in seconds. Example: 60.
    #[schemars(range(max = 86_400))]
    pub retry_after_max_s: u64,
}

impl Default for Retry {
    fn default() -> Self {
        let policy = RetryPolicy::default();
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            attempts_max: policy.attempts_max,
            backoff_min_ms: millis(policy.backoff_min),
            backoff_max_ms: millis(policy.backoff_max),
            retry_after_max_s: policy.retry_after_max.as_secs(),
        }
    }
}

impl Retry {
    /// What is wrong with these values, below `path`.
    #[must_use]
    pub fn validate(&self, path: &str) -> Vec<Invalid> {
        let (min, max) = (self.backoff_min_ms, self.backoff_max_ms);
        let message = || format!("expected no less than `{path}.backoff_min_ms` ({min}), found {max}");
        (max < min).then(|| Invalid::new(format!("{path}.backoff_max_ms"), message())).into_iter().collect()
    }

    /// The policy these values describe.
    #[must_use]
    pub const fn policy(&self) -> RetryPolicy {
        RetryPolicy {
            attempts_max: self.attempts_max,
            backoff_min: Duration::from_millis(self.backoff_min_ms),
            backoff_max: Duration::from_millis(self.backoff_max_ms),
            retry_after_max: Duration::from_secs(self.retry_after_max_s),
        }
    }
}
