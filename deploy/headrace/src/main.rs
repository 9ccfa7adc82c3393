//! The binary `headrace`.

use std::process::ExitCode;

// Many threads allocate and free pieces as large as an event. With jemalloc, memory does not grow over days.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Has glibc return what is larger than a MiB as soon as it is freed. Otherwise it keeps such pieces for later ones, and a
/// process that has carried a few large bodies keeps their memory for good.
#[cfg(all(target_env = "gnu", not(feature = "jemalloc")))]
fn return_large_pieces() {
    use std::ffi::c_int;

    /// `M_MMAP_THRESHOLD` in glibc's `malloc.h`.
    const MMAP_THRESHOLD: c_int = -3;
    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
    // SAFETY: it takes two numbers and changes a setting of the allocator, and no other thread runs yet. A refusal only
    // leaves the setting as it is.
    let _ = unsafe { mallopt(MMAP_THRESHOLD, 1 << 20) };
}

fn main() -> ExitCode {
    #[cfg(all(target_env = "gnu", not(feature = "jemalloc")))]
    return_large_pieces();
    headrace::run(std::env::args_os())
}
