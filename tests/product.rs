//! The product as its users have it: the binary, on real servers. The code that the tests share is in
//! `headrace_tests::product`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod access;
mod collect;
mod dead;
mod e2e;
mod recover;
