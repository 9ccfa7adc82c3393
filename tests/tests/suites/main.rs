//! Tests of the suites and stand-ins themselves.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod aside;
mod bad_products;
mod calls;
mod feeder;
mod installation;
mod late;
mod log_storm;
mod lost_marks;
mod measure;
mod miscounted;
mod ownership;
mod refusals;
mod scripted;
mod shared_catchup;
mod stage_suite;
mod standin_github;
mod standins;
mod start;
mod stranded;
