//! Measures Headrace: end to end on real servers, and its hot functions alone.
//!
//! This binary is also the product: with `headrace` as its first argument, it runs the library of that name. So
//! gateway, stages, sinks and ClickHouse are processes of their own, with the release's code and allocator. The figures
//! go to stdout as one JSON object, and nothing else may go there. Start reading with `cases`. README.md explains the
//! figures.

mod backlog;
mod bodies;
mod brokers;
mod cases;
mod ceiling;
mod cli;
mod client;
mod compare;
mod figures;
mod guid;
mod load;
mod machine;
mod moments;
mod prefill;
mod publish;
mod raw;
mod report;
mod resident;
mod servers;
mod tables;
mod ticks;
mod usage;
mod vary;

use std::process::ExitCode;

use crate::cli::Cli;

// The same allocator as the binary `headrace`.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == servers::PRODUCT) {
        return headrace::run(std::env::args_os().skip(1));
    }
    match cases::run(Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
