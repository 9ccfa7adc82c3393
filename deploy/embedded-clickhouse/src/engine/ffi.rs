//! The C functions of `libchdb.so`. We find them by name with `dlopen`, so that nothing links 566 MB unless the
//! embedded server runs. The package ships no header; the signatures follow `chdb.h` in the library's own repository.
//!
//! This table must hold addresses only. The parent module decides what may be called when.

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;

use libloading::Library;

/// A connection, a result or an insert stream. To us, each is only an address.
pub(super) type Handle = *mut c_void;

/// `chdb_query_analysis_v1`: the engine's own parser says what a text holds, without running it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Analysis {
    pub(super) struct_size: u32,
    pub(super) statement_count: u32,
    pub(super) flags: u32,
    pub(super) query_class: u32,
}

/// The functions that start a statement take the same arguments: session, statement, format, parameters.
pub(super) type WithParams = unsafe extern "C" fn(
    Handle,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> Handle;

macro_rules! symbols {
    ($($name:ident as $symbol:literal: $signature:ty),* $(,)?) => {
        /// Addresses of the functions in use. They stay valid for ever, because the library is never unloaded.
        pub(super) struct Symbols { $(pub(super) $name: $signature),* }

        impl Symbols {
            /// Loads the library and looks up every function at once, so that the start fails if the library is a wrong
            /// one.
            pub(super) fn load(path: &Path) -> Result<Self, libloading::Error> {
                // SAFETY: loading runs the library's static initialisers. The file is the pinned, checksummed
                // artefact (or one the operator names), whose initialisers start no threads and touch no signals.
                let library = unsafe { Library::new(path)? };
                let symbols = Symbols {
                    $($name: {
                        // SAFETY: the type is the one the library's header declares for this name, and the
                        // address outlives this scope because the library is leaked below.
                        *unsafe { library.get::<$signature>($symbol)? }
                    }),*
                };
                // Never unloaded: the engine's threads and the symbols above live in it.
                Box::leak(Box::new(library));
                Ok(symbols)
            }
        }
    };
}

symbols! {
    set_signal_handlers_enabled as b"chdb_set_signal_handlers_enabled": unsafe extern "C" fn(c_int),
    connect as b"chdb_connect": unsafe extern "C" fn(c_int, *const *const c_char) -> *mut Handle,
    close_conn as b"chdb_close_conn": unsafe extern "C" fn(*mut Handle),
    shutdown as b"chdb_shutdown": unsafe extern "C" fn() -> c_int,
    classify as b"chdb_classify_query_n":
        unsafe extern "C" fn(Handle, *const c_char, usize, *const c_char, usize, *mut Analysis) -> c_int,
    query_with_params as b"chdb_query_with_params_n": WithParams,
    stream_query_with_params as b"chdb_stream_query_with_params_n": WithParams,
    stream_fetch as b"chdb_stream_fetch_result": unsafe extern "C" fn(Handle, Handle) -> Handle,
    stream_cancel as b"chdb_stream_cancel_query": unsafe extern "C" fn(Handle, Handle),
    stream_insert_with_params as b"chdb_stream_insert_with_params_n": WithParams,
    stream_append as b"chdb_stream_append": unsafe extern "C" fn(Handle, *const c_void, usize) -> c_int,
    stream_done as b"chdb_stream_done": unsafe extern "C" fn(Handle) -> Handle,
    stream_insert_error as b"chdb_stream_insert_error": unsafe extern "C" fn(Handle) -> *const c_char,
    destroy_insert_stream as b"chdb_destroy_insert_stream": unsafe extern "C" fn(Handle),
    result_buffer as b"chdb_result_buffer": unsafe extern "C" fn(Handle) -> *const u8,
    result_length as b"chdb_result_length": unsafe extern "C" fn(Handle) -> usize,
    result_error as b"chdb_result_error": unsafe extern "C" fn(Handle) -> *const c_char,
    result_elapsed as b"chdb_result_elapsed": unsafe extern "C" fn(Handle) -> f64,
    result_rows as b"chdb_result_rows_read": unsafe extern "C" fn(Handle) -> u64,
    result_storage_rows as b"chdb_result_storage_rows_read": unsafe extern "C" fn(Handle) -> u64,
    result_storage_bytes as b"chdb_result_storage_bytes_read": unsafe extern "C" fn(Handle) -> u64,
    result_rows_written as b"chdb_result_rows_written": unsafe extern "C" fn(Handle) -> u64,
    result_bytes_written as b"chdb_result_bytes_written": unsafe extern "C" fn(Handle) -> u64,
    destroy_result as b"chdb_destroy_query_result": unsafe extern "C" fn(Handle),
}
