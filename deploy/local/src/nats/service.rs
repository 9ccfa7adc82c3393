//! Starts one nats-server process and waits until JetStream answers. Ports are chosen once and must survive a restart.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::statvfs;
use uuid::Uuid;

use super::{Config, Error, config};
use crate::child::{Child, Environment, Service, Spec};
use crate::net;
use crate::start::{self, StartError};

/// The least free space with which we start a server, in bytes. With less, JetStream does not start or soon fails.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// Answers 200 while JetStream is on.
const HEALTH: &str = "/healthz?js-enabled-only=true";

/// The server's health answer contains this when it could not write a stream's file.
const WRITE_ERROR: &str = "write error";

/// One server with its ports and its lock.
pub(super) struct Server {
    config: Config,
    listen: SocketAddr,
    monitor: SocketAddr,
    monitor_path: String,
    /// Held for as long as the server may run. When this process dies, the child dies and the system releases the lock.
    _lock: Arc<DirLock>,
}

/// Keeps other processes out of a directory.
#[derive(Debug)]
pub(super) struct DirLock(File);

impl Drop for DirLock {
    /// To close the file is not enough. A child that this process is just starting also has the file open, and holds
    /// the lock until it executes its own program.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "cannot unlock the data directory; other servers can use it when this process has ended");
        }
    }
}

/// Keeps a second server out of the directory. nats-server itself does not, and two servers would destroy the streams.
pub(super) fn lock(data_dir: &Path) -> Result<Arc<DirLock>, Error> {
    let path = data_dir.join("headrace.lock");
    let unusable = |source| Error::DataDir { path: data_dir.into(), source };
    // The directory holds messages and passwords, so nobody else may read it.
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(unusable)?;
    fs::set_permissions(data_dir, Permissions::from_mode(0o700)).map_err(unusable)?;
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(Arc::new(DirLock(file))),
        Err(TryLockError::WouldBlock) => Err(Error::DataDirInUse { path: data_dir.into() }),
        Err(TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// Writes a new file that only its owner may read. What lies at `path` may be a link, or a file of an earlier release
/// that others may read, so remove it first.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Fails unless the file system of `path` has `needed_bytes` left for this user.
fn require_room(path: &Path, needed_bytes: u64) -> Result<(), Error> {
    let room = statvfs(path).map_err(|error| Error::DataDir { path: path.into(), source: error.into() })?;
    let free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
    if free_bytes < needed_bytes {
        return Err(Error::DataDirFull { path: path.into(), free_bytes, needed_bytes });
    }
    Ok(())
}

impl Server {
    /// Chooses a free port wherever the configuration says 0, and writes the server's configuration file.
    pub(super) fn new(config: Config, lock: Arc<DirLock>) -> Result<Self, Error> {
        let listen = start::with_port(config.listen)?;
        let monitor = start::with_port(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))?;
        // Monitoring asks for no password. So if there are users, only those who know the path can see it.
        let monitor_path =
            if config.users.is_empty() { String::new() } else { format!("/{}", Uuid::new_v4().simple()) };
        let path = config.data_dir.join("nats-server.conf");
        let text = config::render(&config, listen, monitor, &monitor_path);
        write_private(&path, &text).map_err(|source| Error::DataDir { path, source })?;
        Ok(Self { config, listen, monitor, monitor_path, _lock: lock })
    }

    pub(super) fn address(&self) -> SocketAddr {
        net::reachable(self.listen)
    }

    pub(super) fn monitor(&self) -> SocketAddr {
        self.monitor
    }

    pub(super) fn monitor_path(&self) -> &str {
        &self.monitor_path
    }

    fn monitored(&self, path: &str) -> String {
        format!("{}{path}", self.monitor_path)
    }

    /// Whether the server greets clients and JetStream is on. In a cluster, JetStream may still be looking for its
    /// peers.
    async fn answers(&self) -> bool {
        let greeting = net::greeting(self.address()).await;
        greeting.is_some_and(|greeting| greeting.starts_with("INFO "))
            && net::http_status(self.monitor, &self.monitored(HEALTH)).await == Some(200)
    }
}

impl Service for Server {
    type Error = Error;

    fn name(&self) -> &'static str {
        "nats-server"
    }

    async fn spawn(&self) -> Result<Child, Error> {
        require_room(&self.config.data_dir, FREE_BYTES_MIN)?;
        let listeners = [Some(self.listen), Some(self.monitor), self.config.cluster.as_ref().map(|it| it.listen)];
        listeners.into_iter().flatten().try_for_each(start::require_free)?;
        let spec = Spec {
            program: self.config.program.clone(),
            arguments: vec![OsString::from("--config"), self.config.data_dir.join("nats-server.conf").into()],
            environment: Environment::Plain,
            log: self.config.log.clone(),
        };
        Ok(Child::spawn(spec).await.map_err(StartError::from)?)
    }

    async fn ready(&self, child: &Child) -> Result<(), Error> {
        let within = self.config.ready_within;
        Ok(start::answered(child, self.name(), self.address(), within, || self.answers()).await?)
    }

    /// After its disk was full, a server keeps JetStream off, or refuses to write to a stream, until it is started
    /// again. While the disk is still full, we leave it running, because it still serves what it has.
    async fn disabled(&self) -> Option<String> {
        require_room(&self.config.data_dir, FREE_BYTES_MIN).ok()?;
        let status = net::http_status(self.monitor, &self.monitored(HEALTH)).await?;
        if status != 200 {
            return Some(format!("JetStream is off: {HEALTH} answers {status}"));
        }
        let (status, body) = net::http_answer(self.monitor, &self.monitored("/healthz")).await?;
        // `Server.healthz` uses these words for a store that failed. Problems with other words end without a restart.
        (status != 200 && body.contains(WRITE_ERROR)).then(|| format!("a stream takes no more messages: {body}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::{Error, require_room, write_private};

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("nats-server.conf"), dir.path().join("victim"));
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, &path).unwrap();
        write_private(&path, "secret").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn too_little_room_is_told_with_the_path_and_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(require_room(dir.path(), 1).is_ok());
        let error = require_room(dir.path(), u64::MAX).unwrap_err();
        assert!(matches!(&error, Error::DataDirFull { path, .. } if path == dir.path()), "{error}");
        let text = error.to_string();
        let needed = format!("bytes are free and {} are the least to start with; make room or name another", u64::MAX);
        assert!(text.contains(&needed), "{text}");
    }
}
