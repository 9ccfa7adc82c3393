//! The embedded ClickHouse as a server that speaks ClickHouse's own HTTP protocol, so official clients work unchanged.
//! One request is one session of the engine on one thread. `http` routes, `job` runs, `output` answers.
//!
//! It must never acknowledge an insert before the engine has committed it, and never share a session between requests.

mod admission;
mod body;
mod cancel;
mod codec;
mod connections;
mod failure;
mod format;
mod http;
mod job;
mod multipart;
mod origin;
mod output;
mod request;
mod stalled;
mod statement;
mod users;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::admission::Admission;
use self::connections::Connections;
use self::http::{Peer, Server};
use self::origin::AllowedHosts;
use self::stalled::Stalling;
use self::users::Users;
use super::access;
use super::engine::{Connection, Engine, EngineError};
use super::memory::Memory;
use super::policy::Policies;

/// The file in the data directory on which a server holds a lock for as long as its process lives. Its text is the process id.
pub const LOCK: &str = "headrace.lock";
/// The server's name in its answers.
const DISPLAY_NAME: &str = "headrace";

/// The longest head of a request, in bytes. One read of a body takes at most this much too. URLs may have up to 64 KB.
const HEAD_BYTES_MAX: usize = 512 << 10;
/// How long statements may take to stop after they were told to.
const KILL_GRACE: Duration = Duration::from_secs(2);

/// A password; its `Debug` shows nothing.
#[derive(Clone, Debug)]
pub struct Password(SecretString);

impl Password {
    /// Wraps a password.
    pub fn new(password: impl Into<SecretString>) -> Self {
        Self(password.into())
    }

    /// Compares in constant time, so that the time does not reveal how much of a guess is right.
    fn is(&self, given: &str) -> bool {
        self.0.expose_secret().as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// How much the server accepts at once. It refuses what exceeds a bound, with ClickHouse's error text.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Most queries running at once.
    pub queries_max: usize,
    /// Most inserts running at once. Slow queries never take their places.
    pub inserts_max: usize,
    /// Most statements of the user `reader` running at once. They take no other user's places.
    pub reads_max: usize,
    /// Most requests of each kind that wait for a place.
    pub waiting_max: usize,
    /// How long a request waits for a place.
    pub wait_max: Duration,
    /// Most bytes of a request's body, both as sent and as unpacked.
    pub body_bytes_max: u64,
    /// Most open connections. To accept one more, the server drops another: first one whose client has shown no
    /// password, then an idle one, then one that still sends its statement. While all are busy, the new one waits in
    /// the kernel's queue.
    pub connections_max: usize,
    /// How long a client may send nothing, or read nothing, in the middle of a request. While others wait for its
    /// place, it may send nothing for two seconds.
    pub idle_max: Duration,
    /// How long a client may take to send the head of a request.
    pub head_max: Duration,
    /// How long a statement of the user `reader` may run.
    pub read_max: Duration,
    /// How long running statements may take to finish when the server stops.
    pub grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            queries_max: 8,
            inserts_max: 8,
            reads_max: 8,
            waiting_max: 64,
            wait_max: Duration::from_secs(30),
            body_bytes_max: 1 << 30,
            connections_max: 1024,
            idle_max: Duration::from_secs(60),
            head_max: Duration::from_secs(60),
            read_max: Duration::from_secs(600),
            grace: Duration::from_secs(8),
        }
    }
}

/// What the server needs to run.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where the server listens. Port 0 takes a free one, and the log says which.
    pub listen: SocketAddr,
    /// Where the engine keeps its data; made if absent. Only one server at a time may use it.
    pub data_dir: PathBuf,
    /// `libchdb.so`, as `headrace_local::install::Installer::clickhouse_library` returns it.
    pub library: PathBuf,
    /// The name of the user who may do everything that is allowed. The user `reader` only reads.
    pub user: String,
    /// The password of that user. If there is no password at all, anybody may come in under any name: see
    /// [`ServeError::Open`].
    pub password: Option<Password>,
    /// The password of the user `reader`. If only `password` is set, the user `reader` does not exist.
    pub reader_password: Option<Password>,
    /// Host names that clients may use for the server, besides this machine's own, as `host` or `host:port`.
    pub hosts: Vec<String>,
    /// Memory for everything that the engine does, in bytes; half of the machine's if not set. One statement gets at
    /// most half of it, and at most 4 GiB. All running statements of the user `reader` together get half of it.
    pub memory_bytes_max: Option<u64>,
    /// Bounds.
    pub limits: ServerLimits,
}

impl ServerConfig {
    /// A server without a password, with the default bounds.
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>, library: impl Into<PathBuf>) -> Self {
        Self {
            listen,
            data_dir: data_dir.into(),
            library: library.into(),
            user: "default".into(),
            password: None,
            reader_password: None,
            hosts: Vec::new(),
            memory_bytes_max: None,
            limits: ServerLimits::default(),
        }
    }
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Other machines could reach the server, and it asks for no password.
    #[error(
        "expected a password for a server that other machines can reach, found none for {listen}; \
         give it --password-file, or let it listen on 127.0.0.1"
    )]
    Open {
        /// The configured address.
        listen: SocketAddr,
    },
    /// The address is taken, or this machine does not have it.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The configured address.
        listen: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}")]
    DataDir {
        /// The configured directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another server uses the data directory.
    #[error(
        "the data directory {path} is in use by another ClickHouse server (process {owner}); \
             stop that one or name another directory"
    )]
    InUse {
        /// The configured directory.
        path: PathBuf,
        /// The other server's process id, as that server wrote it into its lock.
        owner: String,
    },
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Serves until `shutdown` resolves. Then it accepts no more connections, gives running statements time to finish, and
/// closes the engine.
///
/// # Errors
/// Only at the start: the address, the directory or the engine. An error on a connection ends only that connection.
pub async fn serve(config: ServerConfig, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    let open_to_all = config.password.is_none() && config.reader_password.is_none();
    if config.password.is_none() && !config.listen.ip().is_loopback() {
        return Err(ServeError::Open { listen: config.listen });
    }
    let listen = |source| ServeError::Listen { listen: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    if open_to_all {
        tracing::warn!(%address, "ClickHouse asks for no password: whoever is on this machine may read and change everything in it");
    }
    let memory = Memory::new(config.memory_bytes_max, config.limits.reads_max);
    // An absolute path, because the engine changes the working directory.
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|source| ServeError::DataDir { path: path.into(), source });
    let (library, data_dir) = (absolute(&config.library)?, absolute(&config.data_dir)?);
    let opened = tokio::task::spawn_blocking(move || open(&library, &data_dir, &memory)).await;
    let opened = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    tracing::info!(%address, version = opened.version, data_dir = %config.data_dir.display(), "ClickHouse is up");

    let tasks = TaskTracker::new();
    let limits = config.limits;
    let server = Arc::new(Server {
        engine: opened.engine.clone(),
        admission: Arc::new(Admission::new(&limits)),
        policies: Policies::new(&memory, limits.read_max),
        body_limits: body::BodyLimits { bytes_max: limits.body_bytes_max, idle_max: limits.idle_max },
        users: Users { writer: config.user, writer_password: config.password, reader_password: config.reader_password },
        allowed_hosts: AllowedHosts { configured: config.hosts },
        timezone: opened.timezone.clone(),
        tasks: tasks.clone(),
    });
    let stopping = CancellationToken::new();
    tokio::select! {
        never = accept(listener, &server, &tasks, &stopping, &limits) => match never {},
        () = shutdown => {}
    }
    stopping.cancel();
    tasks.close();
    if tokio::time::timeout(limits.grace, tasks.wait()).await.is_err() {
        tracing::warn!(grace = ?limits.grace, "statements still run after the grace time; stopping them");
        let engine = opened.engine.clone();
        let killed = tokio::task::spawn_blocking(move || cancel::kill_all(&engine)).await;
        if let Ok(Err(error)) = killed {
            tracing::warn!(error, "could not stop the running statements");
        }
        // This wait has a bound too. What still runs afterwards ends with the process, unacknowledged.
        let _ = tokio::time::timeout(KILL_GRACE, tasks.wait()).await;
    }
    drop(server);
    close(opened).await;
    Ok(())
}

/// The engine, the session that keeps it running, and the lock that keeps other servers out.
struct Opened {
    engine: Engine,
    anchor: Connection,
    version: String,
    timezone: String,
    _lock: File,
}

fn open(library: &Path, data_dir: &Path, memory: &Memory) -> Result<Opened, ServeError> {
    let lock = lock(data_dir)?;
    let config =
        access::write(data_dir, memory).map_err(|source| ServeError::DataDir { path: data_dir.into(), source })?;
    // The engine takes some names for paths in the working directory, so make that directory an empty one.
    std::env::set_current_dir(access::empty(data_dir))
        .map_err(|source| ServeError::DataDir { path: data_dir.into(), source })?;
    let engine = Engine::load(library, data_dir, &config)?;
    let mut anchor = engine.connect()?;
    let facts = anchor
        .execute(b"SELECT version(), timezone()", format::DEFAULT, &[])
        .map_err(|error| EngineError::Silent(error.to_string()))?;
    let facts = String::from_utf8_lossy(facts.bytes()).trim().to_owned();
    let (version, timezone) = facts.split_once('\t').unwrap_or((&facts, "UTC"));
    let (version, timezone) = (version.to_owned(), timezone.to_owned());
    Ok(Opened { engine, anchor, version, timezone, _lock: lock })
}

/// The engine locks its directory too, but reports it only in its own log. The system releases our lock when the
/// process ends, in whatever way.
fn lock(data_dir: &Path) -> Result<File, ServeError> {
    let unusable = |source| ServeError::DataDir { path: data_dir.into(), source };
    fs::create_dir_all(data_dir).map_err(unusable)?;
    let path = data_dir.join(LOCK);
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(ServeError::InUse { path: data_dir.into(), owner });
        }
        Err(TryLockError::Error(source)) => return Err(unusable(source)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(unusable)?;
    Ok(file)
}

/// Closes the engine, unless a statement still runs. In that case the end of the process closes it, and nothing
/// acknowledged is lost.
async fn close(opened: Opened) {
    let closing = tokio::task::spawn_blocking(move || {
        drop(opened.anchor);
        opened.engine.shutdown()
    });
    match closing.await {
        Ok(true) => tracing::info!("ClickHouse has stopped"),
        Ok(false) => tracing::warn!("ClickHouse did not stop cleanly: a session is still open"),
        Err(error) => tracing::error!(%error, "stopping ClickHouse failed"),
    }
}

/// Accepts connections until dropped.
async fn accept(
    listener: TcpListener,
    server: &Arc<Server>,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
    limits: &ServerLimits,
) -> std::convert::Infallible {
    let connections = Connections::new(limits.connections_max);
    let head_max = limits.head_max;
    loop {
        let accepted = listener.accept().await;
        match accepted.and_then(|(stream, _)| Ok((stream.local_addr()?, stream))) {
            // Task "connection": ends when the client leaves or is cut off. While the server stops, it ends with its
            // current request.
            Ok((local, stream)) => {
                let peer = Peer { guard: Arc::new(connections.enter().await), local };
                tasks.spawn(connection(stream, Arc::clone(server), peer, stopping.clone(), head_max));
            }
            Err(error) => {
                // Most likely the process is out of descriptors. Wait until some are free, and do not spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    server: Arc<Server>,
    peer: Peer,
    stopping: CancellationToken,
    head_max: Duration,
) {
    // Clients wait for small answers. With Nagle's algorithm, each would wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let guard = Arc::clone(&peer.guard);
    let idle_max = server.body_limits.idle_max;
    let service = service_fn(move |request| http::answer(Arc::clone(&server), peer.clone(), request));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_max).max_buf_size(HEAD_BYTES_MAX);
    let stream = Stalling::new(stream, idle_max);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        // Check `cut` first: a connection that is cut off must not start another statement.
        biased;
        () = guard.cut() => return,
        ended = serving.as_mut() => ended,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
