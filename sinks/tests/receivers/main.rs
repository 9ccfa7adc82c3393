//! Each sink against its receiver, or a strict stand-in for it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod example;
mod file;
mod jira;
mod splunk;
mod tls;
