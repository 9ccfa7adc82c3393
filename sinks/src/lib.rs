//! Where events and alerts go: one folder per sink.
//!
//! A sink turns a batch into requests to its receiver, and the receiver's answers into
//! [`Fault`](headrace_runtime::fault::Fault)s. It never retries, sleeps, acknowledges or spawns: the loop in
//! [`headrace_runtime::consume::sink`] does. Each sink has a `Config`, which is validated without touching the network
//! and then built. Every sink runs the same conformance suite in `tests/`. [`kind`] is what a new folder implements,
//! [`instances`] what is configured.

pub mod clickhouse;
pub mod file;
pub mod instances;
pub mod jira;
pub mod kind;
mod shared;
pub mod splunk;

/// Every kind of sink, in the order of their names. This line is all that registers a folder.
pub const KINDS: &[kind::Entry] = &[
    kind::Entry::of::<clickhouse::Config>(),
    kind::Entry::of::<file::Config>(),
    kind::Entry::of::<jira::Config>(),
    kind::Entry::of::<splunk::Config>(),
];

/// The most bytes of messages in a batch, besides each sink's own limits: no less than the 8 MiB that NATS recommends
/// as the highest `max_payload`, so that no message is too large to take.
const MESSAGES_BYTES_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    #[test]
    fn every_folder_is_registered() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let entries = fs::read_dir(source).unwrap().map(|entry| entry.unwrap());
        let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        let mut names: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| !["instances", "kind", "shared"].contains(&name.as_str()));
        names.sort();
        let kinds: Vec<&str> = super::KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names, kinds, "add the folder to KINDS, in this order");
    }
}
