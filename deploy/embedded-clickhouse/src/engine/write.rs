//! This process's own `write`. It ends the process when a write to a file fails.
//!
//! chDB ignores a write that the system refuses (`WriteBufferFromFileDescriptor::nextImpl`, where ClickHouse throws).
//! On a full disk, it writes nothing and yet acknowledges inserts and finishes merges. Then it deletes the parts that
//! it merged.
//!
//! The library calls `write` by name, and the dynamic linker looks in the executable first, so it finds this function.
//! While an engine is loaded, a refused write to a regular file ends the process before anything can build on that
//! write. This is a crash like any other: when the server starts again, everything acknowledged is there.

use std::ffi::{c_int, c_void};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use libloading::os::unix::Library;
use rustix::fs::FileType;

/// The status with which the process ends: `EX_IOERR` of `sysexits.h`.
const STATUS: c_int = 74;

static GUARDING: AtomicBool = AtomicBool::new(false);

type Write = unsafe extern "C" fn(c_int, *const c_void, usize) -> isize;

/// Begins to watch writes. Returns false if the libraries of this process would call another `write`.
pub(super) fn guard() -> bool {
    let ours: Write = write;
    // SAFETY: the symbol is only compared, never called through this.
    let found = unsafe { Library::this().get::<Write>(b"write") };
    let is_ours = found.is_ok_and(|found| std::ptr::fn_addr_eq(*found, ours));
    GUARDING.store(is_ours, Ordering::Relaxed);
    is_ours
}

/// `write(2)`.
///
/// # Safety
/// As for the C library's function: `bytes` must point to `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(file: c_int, bytes: *const c_void, count: usize) -> isize {
    // SAFETY: the system call of this name, with arguments that our caller vouches for. It sets `errno`.
    let written = unsafe { libc::syscall(libc::SYS_write, file, bytes, count) } as isize;
    if written < 0 && GUARDING.load(Ordering::Relaxed) {
        refused(file);
    }
    written
}

/// Ends the process if the write was to a regular file. Otherwise it keeps `errno`.
#[cold]
fn refused(file: c_int) {
    let error = std::io::Error::last_os_error();
    let passes = matches!(error.raw_os_error(), None | Some(libc::EINTR | libc::EAGAIN | libc::EBADF));
    // Standard output and error hold no data of the engine.
    if passes || file <= libc::STDERR_FILENO {
        return restore(&error);
    }
    // SAFETY: the system knew the descriptor a moment ago, and nothing uses it after this call.
    let status = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(file) });
    if !status.is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile) {
        return restore(&error);
    }
    let text = format!(
        "ClickHouse could not write a file: {error}. The server ends at once, so that nothing is taken for stored that is \
         not; it is whole when it starts again. Make room on its disk.\n"
    );
    // SAFETY: the text has that length, and `_exit` has no conditions. Destructors must not run, because they would
    // write.
    unsafe {
        libc::syscall(libc::SYS_write, libc::STDERR_FILENO, text.as_ptr(), text.len());
        libc::_exit(STATUS)
    }
}

fn restore(error: &std::io::Error) {
    // SAFETY: the address of this thread's `errno`, which lives as long as the thread.
    unsafe { *libc::__errno_location() = error.raw_os_error().unwrap_or(0) };
}
