//! The embedded ClickHouse engine behind a safe interface. A process has one [`Engine`] and any number of
//! [`Connection`]s. One thread at a time uses a connection, for one statement at a time. An open result or insert
//! occupies its connection; the borrow checker enforces this.
//!
//! This module must never know HTTP, and no pointer may leave it.

mod ffi;
mod result;
mod write;

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::ffi::{Handle, Symbols};
pub(crate) use self::result::{Chunk, Insert, Rows, Stats};

/// An error of the engine, in ClickHouse's own text: `Code: N. DB::Exception: …`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Exception {
    text: String,
}

impl Exception {
    pub(crate) fn new(code: u32, name: &str, message: &str) -> Self {
        Self { text: format!("Code: {code}. DB::Exception: {message} ({name})") }
    }

    /// Reads the engine's text. A text without a code gets code 1001 (`STD_EXCEPTION`), as in the server.
    pub(crate) fn from_engine(text: &str) -> Self {
        if parse_code(text).is_some() {
            return Self { text: text.to_owned() };
        }
        Self::new(1001, "STD_EXCEPTION", text)
    }

    /// ClickHouse's error number.
    pub(crate) fn code(&self) -> u32 {
        parse_code(&self.text).expect("both constructors put a code in front")
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

fn parse_code(text: &str) -> Option<u32> {
    text.strip_prefix("Code: ")?.split('.').next()?.parse().ok()
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The library is absent, damaged or not the expected one.
    #[error("cannot load the ClickHouse library {path}")]
    Load {
        /// The file that was tried.
        path: PathBuf,
        /// What the loader said.
        source: libloading::Error,
    },
    /// The engine refused the directory; its own words are in the log.
    #[error("the ClickHouse engine refused the data directory {path}: see the log for its reason")]
    Refused {
        /// The data directory.
        path: PathBuf,
    },
    /// The executable was linked in a way that hides its `write` from libraries.
    #[error(
        "expected the ClickHouse library to call this program's `write`, found another: a full disk would go unnoticed; \
         link the program so that this symbol is not hidden"
    )]
    Unguarded,
    /// The engine started but did not answer the first statement.
    #[error("the ClickHouse engine does not answer: {0}")]
    Silent(String),
}

/// The engine with its data directory open. Cheap to clone. It lives while at least one connection does.
#[derive(Clone)]
pub(crate) struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    symbols: Symbols,
    library: PathBuf,
    data_dir: PathBuf,
    config: PathBuf,
}

impl Engine {
    /// Loads the library, with `config`, the engine's own configuration file. It opens no directory; the first
    /// [`Engine::connect`] does.
    pub(crate) fn load(library: &Path, data_dir: &Path, config: &Path) -> Result<Self, EngineError> {
        if !write::guard() {
            return Err(EngineError::Unguarded);
        }
        let symbols = Symbols::load(library).map_err(|source| EngineError::Load { path: library.into(), source })?;
        // SAFETY: called before any connection exists, as the header demands. Without this call, the engine would take
        // over this process's handling of SIGTERM and SIGSEGV.
        unsafe { (symbols.set_signal_handlers_enabled)(0) };
        let shared = Shared { symbols, library: library.into(), data_dir: data_dir.into(), config: config.into() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Opens a fresh session. It inherits no settings, parameters, temporary tables or database from another one. This
    /// costs about 0.2 ms once the engine is up, so every request can have a session of its own.
    pub(crate) fn connect(&self) -> Result<Connection, EngineError> {
        let refused = || EngineError::Refused { path: self.shared.data_dir.clone() };
        let option = |name: &str, path: &Path| {
            let value = [name.as_bytes(), path.as_os_str().as_bytes()].concat();
            CString::new(value).map_err(|_| refused())
        };
        let (path, config) =
            (option("--path=", &self.shared.data_dir)?, option("--config-file=", &self.shared.config)?);
        let arguments: [*const c_char; 3] = [c"clickhouse".as_ptr(), path.as_ptr(), config.as_ptr()];
        // SAFETY: `arguments` holds that many NUL-terminated strings, and they live until the call returns. The engine
        // copies what it keeps.
        let outer = unsafe { (self.shared.symbols.connect)(arguments.len() as c_int, arguments.as_ptr()) };
        if outer.is_null() {
            return Err(refused());
        }
        Ok(Connection { shared: Arc::clone(&self.shared), outer })
    }

    /// Stops the engine and joins its threads. Returns false if it refused, which it does while a connection is open.
    pub(crate) fn shutdown(self) -> bool {
        // SAFETY: no precondition. The engine counts its connections itself and refuses while one is left.
        unsafe { (self.shared.symbols.shutdown)() == 0 }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Engine").field("library", &self.shared.library).finish_non_exhaustive()
    }
}

/// What the engine's own parser finds in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Analysis {
    /// How many statements the text has; zero when it does not parse.
    pub(crate) statements: u32,
    /// Whether every statement changes nothing: `SELECT`, `SHOW`, `DESCRIBE`, `EXPLAIN`, `EXISTS`, `CHECK`.
    pub(crate) read_only: bool,
}

/// Bound parameters, `{name:Type}` in the statement, as name and value in ClickHouse's escaped text form.
pub(crate) type Parameters = [(String, String)];

/// One session of the engine. Closed on drop.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// Never null; `*outer` is the session that the other functions take.
    outer: *mut Handle,
}

// SAFETY: the engine guards a session with a mutex and attaches the calling thread for each call, so a session may move
// between threads. It is not `Sync`: every method takes `&mut self`, so two threads cannot use one at once.
unsafe impl Send for Connection {}

impl Connection {
    /// Says what `sql` would do, without running it.
    pub(crate) fn analyse(&mut self, sql: &[u8]) -> Analysis {
        let mut analysis = ffi::Analysis {
            struct_size: size_of::<ffi::Analysis>() as u32,
            statement_count: 0,
            flags: 0,
            query_class: u32::MAX,
        };
        // SAFETY: the session is open, `sql` is a valid range, no target database is named (null, 0), and `struct_size`
        // says how much of `analysis` may be written.
        unsafe {
            (self.shared.symbols.classify)(
                self.session(),
                sql.as_ptr().cast(),
                sql.len(),
                std::ptr::null(),
                0,
                &raw mut analysis,
            );
        }
        let read_only = analysis.query_class == 0 && analysis.statement_count > 0;
        Analysis { statements: analysis.statement_count, read_only }
    }

    /// Runs a statement to its end and returns all its output at once. Use it for statements without rows, for small
    /// results, and for formats that are one document.
    pub(crate) fn execute(&mut self, sql: &[u8], format: &str, parameters: &Parameters) -> Result<Chunk, Exception> {
        let handle = self.start(self.shared.symbols.query_with_params, sql, format, parameters);
        // SAFETY: `handle` is the fresh result of a query call, and nobody else has it.
        unsafe { Chunk::from_handle(&self.shared, handle) }
    }

    /// Starts a `SELECT` whose output is fetched block by block. The engine formats each block separately. So every
    /// block has what the format writes before and after the rows.
    pub(crate) fn stream(&mut self, sql: &[u8], format: &str, parameters: &Parameters) -> Result<Rows<'_>, Exception> {
        let handle = self.start(self.shared.symbols.stream_query_with_params, sql, format, parameters);
        // SAFETY: `handle` is the fresh result of a streaming query call on this session, and nobody else has it.
        unsafe { Rows::from_handle(self, handle) }
    }

    /// Starts an `INSERT` whose data follows in `format`. `sql` ends before its `FORMAT` clause.
    pub(crate) fn insert(
        &mut self,
        sql: &[u8],
        format: &str,
        parameters: &Parameters,
    ) -> Result<Insert<'_>, Exception> {
        let handle = self.start(self.shared.symbols.stream_insert_with_params, sql, format, parameters);
        // SAFETY: `handle` is the fresh result of an insert call on this session, and nobody else has it.
        unsafe { Insert::from_handle(self, handle) }
    }

    fn start(&self, function: ffi::WithParams, sql: &[u8], format: &str, parameters: &Parameters) -> Handle {
        let names: Vec<*const c_char> = parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect();
        let name_lengths: Vec<usize> = parameters.iter().map(|(name, _)| name.len()).collect();
        let values: Vec<*const c_char> = parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let value_lengths: Vec<usize> = parameters.iter().map(|(_, value)| value.len()).collect();
        // SAFETY: the session is open and free (no `Rows` or `Insert` borrows it, since they hold `&mut self`). Every
        // pointer comes with its length, the four arrays have `parameters.len()` items, and all of it lives until the
        // call returns. The engine copies what it keeps.
        unsafe {
            function(
                self.session(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lengths.as_ptr(),
                values.as_ptr(),
                value_lengths.as_ptr(),
                parameters.len(),
            )
        }
    }

    fn session(&self) -> Handle {
        // SAFETY: `outer` came non-null from `connect` and is freed only by `drop`.
        unsafe { *self.outer }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: closed exactly once. No result or insert of the session is left, since those borrow it.
        unsafe { (self.shared.symbols.close_conn)(self.outer) };
    }
}

/// Reads a NUL-terminated text of the engine; `None` for null and for the empty text, which both mean "no error".
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives as long as the call.
unsafe fn text_of(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and NUL-terminated by the caller's promise.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}
