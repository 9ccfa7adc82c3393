//! What a running statement gives or takes: a [`Chunk`] of output, [`Rows`] that are fetched chunk by chunk, an
//! [`Insert`] that takes data.
//!
//! Each owns its handle and frees it. Dropping a `Rows` or an `Insert` cancels it first. So an abandoned request never
//! leaves a statement running or rows half committed.

use std::ops::AddAssign;
use std::sync::Arc;

use super::ffi::Handle;
use super::{Connection, Exception, Shared, text_of};

/// What a statement has done so far, for `X-ClickHouse-Summary`.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct Stats {
    /// Rows read from tables.
    pub(crate) read_rows: u64,
    /// Bytes read from tables.
    pub(crate) read_bytes: u64,
    /// Rows written, including those of materialized views.
    pub(crate) written_rows: u64,
    /// Bytes written, including those of materialized views.
    pub(crate) written_bytes: u64,
    /// Rows in the output.
    pub(crate) result_rows: u64,
    /// Bytes in the output.
    pub(crate) result_bytes: u64,
    /// Seconds.
    pub(crate) elapsed: f64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.read_rows += other.read_rows;
        self.read_bytes += other.read_bytes;
        self.written_rows += other.written_rows;
        self.written_bytes += other.written_bytes;
        self.result_rows += other.result_rows;
        self.result_bytes += other.result_bytes;
        self.elapsed += other.elapsed;
    }
}

/// A piece of output. The engine's allocator owns its memory.
pub(crate) struct Chunk {
    shared: Arc<Shared>,
    handle: Handle,
}

impl Chunk {
    /// Takes ownership of a result, or returns its error.
    ///
    /// # Safety
    /// `handle` is a result of this engine, and nobody else frees it.
    pub(super) unsafe fn from_handle(shared: &Arc<Shared>, handle: Handle) -> Result<Self, Exception> {
        let chunk = Self { shared: Arc::clone(shared), handle };
        if handle.is_null() {
            return Err(Exception::from_engine("the engine returned no result"));
        }
        // SAFETY: `handle` is a live result, and the text lives as long as it does.
        match unsafe { text_of((shared.symbols.result_error)(handle)) } {
            Some(text) => Err(Exception::from_engine(&text)),
            None => Ok(chunk),
        }
    }

    /// The output bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let symbols = &self.shared.symbols;
        // SAFETY: `handle` is a live result. It owns the memory that buffer and length describe, and never changes it.
        unsafe {
            let (buffer, length) = ((symbols.result_buffer)(self.handle), (symbols.result_length)(self.handle));
            if buffer.is_null() || length == 0 { &[] } else { std::slice::from_raw_parts(buffer, length) }
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let symbols = &self.shared.symbols;
        // SAFETY: `handle` is a live result. These calls only read its counters.
        unsafe {
            Stats {
                read_rows: (symbols.result_storage_rows)(self.handle),
                read_bytes: (symbols.result_storage_bytes)(self.handle),
                written_rows: (symbols.result_rows_written)(self.handle),
                written_bytes: (symbols.result_bytes_written)(self.handle),
                result_rows: (symbols.result_rows)(self.handle),
                result_bytes: (symbols.result_length)(self.handle) as u64,
                elapsed: (symbols.result_elapsed)(self.handle),
            }
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: freed exactly once, here. `bytes` borrows `self`, so nothing points into the memory any more.
            unsafe { (self.shared.symbols.destroy_result)(self.handle) };
        }
    }
}

/// The output of a running `SELECT`.
pub(crate) struct Rows<'connection> {
    connection: &'connection mut Connection,
    handle: Handle,
    open: bool,
}

impl<'connection> Rows<'connection> {
    /// Takes ownership of a started stream, or returns its error.
    ///
    /// # Safety
    /// `handle` is a stream started on `connection`, and nobody else frees it.
    pub(super) unsafe fn from_handle(
        connection: &'connection mut Connection,
        handle: Handle,
    ) -> Result<Self, Exception> {
        let mut rows = Self { connection, handle, open: false };
        if handle.is_null() {
            return Err(Exception::from_engine("the engine returned no stream"));
        }
        // SAFETY: `handle` is a live result, and the text lives as long as it does.
        match unsafe { text_of((rows.connection.shared.symbols.result_error)(handle)) } {
            Some(text) => Err(Exception::from_engine(&text)),
            None => {
                rows.open = true;
                Ok(rows)
            }
        }
    }

    /// The next block of output, or `None` at the end. Blocks until the engine has one.
    pub(crate) fn next(&mut self) -> Result<Option<Chunk>, Exception> {
        if !self.open {
            return Ok(None);
        }
        let shared = &self.connection.shared;
        // SAFETY: the stream is open on this session, which `self` borrows, so nothing else runs on it.
        let handle = unsafe { (shared.symbols.stream_fetch)(self.connection.session(), self.handle) };
        // SAFETY: a fetched result is a new handle, and the chunk frees it.
        let chunk = unsafe { Chunk::from_handle(shared, handle) };
        // The engine closes the stream itself at an error and at the end. An empty block means the end.
        self.open = chunk.as_ref().is_ok_and(|chunk| !chunk.bytes().is_empty());
        chunk.map(|chunk| self.open.then_some(chunk))
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        if self.handle.is_null() {
            return;
        }
        let symbols = &self.connection.shared.symbols;
        // SAFETY: cancelled at most once and only while open, then freed exactly once, on the session it runs on.
        unsafe {
            if self.open {
                (symbols.stream_cancel)(self.connection.session(), self.handle);
            }
            (symbols.destroy_result)(self.handle);
        }
    }
}

/// A running `INSERT`. Dropping it before [`Insert::finish`] cancels it. As in every ClickHouse, blocks that are
/// already in the table stay, and the rest is not written.
pub(crate) struct Insert<'connection> {
    connection: &'connection mut Connection,
    handle: Handle,
}

impl<'connection> Insert<'connection> {
    /// Takes ownership of a started insert, or returns its error.
    ///
    /// # Safety
    /// `handle` is an insert started on `connection`, and nobody else frees it.
    pub(super) unsafe fn from_handle(
        connection: &'connection mut Connection,
        handle: Handle,
    ) -> Result<Self, Exception> {
        let insert = Self { connection, handle };
        if handle.is_null() {
            return Err(Exception::from_engine("the engine returned no insert"));
        }
        insert.error().map_or(Ok(insert), Err)
    }

    /// Hands bytes over; the engine copies them. Blocks while the engine's queue (16 pieces) is full. Returns whether
    /// the insert takes more; if not, [`Insert::finish`] says why.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        // SAFETY: the stream is live, and `bytes` is a valid range that is copied before the call returns.
        unsafe { (self.connection.shared.symbols.stream_append)(self.handle, bytes.as_ptr().cast(), bytes.len()) == 0 }
    }

    /// Ends the data and commits. When it returns `Ok`, the rows are in the table.
    pub(crate) fn finish(self) -> Result<Stats, Exception> {
        let shared = &self.connection.shared;
        // SAFETY: the stream is live. The result is a new handle, and the chunk frees it. `drop` frees the stream
        // itself, which the header demands even after this call.
        let chunk = unsafe { Chunk::from_handle(shared, (shared.symbols.stream_done)(self.handle)) };
        chunk.map(|chunk| chunk.stats())
    }

    fn error(&self) -> Option<Exception> {
        // SAFETY: the stream is live, and the text lives as long as it does.
        unsafe { text_of((self.connection.shared.symbols.stream_insert_error)(self.handle)) }
            .map(|text| Exception::from_engine(&text))
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: freed exactly once. The engine cancels the insert first if it was not finished.
            unsafe { (self.connection.shared.symbols.destroy_insert_stream)(self.handle) };
        }
    }
}
