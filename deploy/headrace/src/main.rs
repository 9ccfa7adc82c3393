//! The binary `headrace`.

use std::process::ExitCode;

// Many threads allocate and free pieces as large as an event. With jemalloc, memory does not grow over days.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    headrace::run(std::env::args_os())
}
