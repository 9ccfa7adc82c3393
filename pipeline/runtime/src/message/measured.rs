//! Measures what messages and their values take in memory, against what is reckoned with for them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use async_nats::HeaderMap;
use headrace_schemas::codec;
use headrace_schemas::event::{Assessment, Change, Event, Reason, RuleMatch};
use headrace_schemas::header;
use serde_json::json;

use super::Delivered;
use crate::memory::MESSAGE_BYTES;
use crate::message::payload::Payload;

/// Bytes that the allocator needs besides each piece, and rounds up by.
const PIECE_BYTES: isize = 16;

#[global_allocator]
static COUNTED: Counted = Counted;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator. It also notes what each thread holds.
struct Counted;

fn count(bytes: isize) {
    // A thread that ends may allocate after its notes are gone.
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

// SAFETY: every call is passed on unchanged, and counting touches no memory that is allocated here.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize + PIECE_BYTES);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize + PIECE_BYTES));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What the value that `make` makes takes in memory.
fn measured<T>(make: impl FnOnce() -> T) -> usize {
    let before = HELD.get();
    let value = make();
    let held = HELD.get() - before;
    drop(value);
    usize::try_from(held).unwrap() + size_of::<T>()
}

/// An event of a webhook, as the gateway's tests send it, after all stages.
fn usual() -> Event {
    let event = json!({
        "id": "github:1b8a5f10-9d6d-11f0-8a3c-2c1f0a6b8e55", "tenant": "acme", "source": "github", "kind": "repository",
        "action": "publicized", "audit_action": "repo.access", "category": "repository", "outcome": "success",
        "ocsf_class": 6003, "occurred_at": "2025-01-31T08:15:30Z", "received_at": "2025-01-31T08:15:30Z",
        "event_time": "2025-01-31T08:15:30Z",
        "actor": { "id": 7, "login": "mona", "kind": "User" },
        "target": { "kind": "repository", "id": "9", "name": "acme/app", "url": "https://github.com/acme/app" },
        "organization": { "id": 5, "login": "acme" },
        "repository": { "id": 9, "full_name": "acme/app", "visibility": "public", "default_branch": "main" },
        "changes": [], "attributes": {}, "network": null,
        "raw": { "sequence": 1, "sha256": "ab".repeat(32), "bytes": 7_700 },
        "enrichment": null, "assessment": null
    });
    serde_json::from_value(event).unwrap()
}

/// As many texts of one letter as an event may bring, which take the most memory for their bytes.
fn of_small_pieces() -> Event {
    let letter = || "a".to_owned();
    let matched = |number: usize| RuleMatch {
        rule: format!("r{number}"),
        title: letter(),
        severity: headrace_schemas::event::Severity::Low,
        techniques: vec![letter(); 4],
        controls: vec![letter(); 4],
        evidence: vec![letter(); 8],
    };
    Event {
        changes: (0..20).map(|_| Change { field: letter(), before: Some(letter()), after: Some(letter()) }).collect(),
        attributes: (0..64).map(|number| (format!("{number}"), letter())).collect(),
        assessment: Some(Assessment {
            risk: 1,
            severity: headrace_schemas::event::Severity::Low,
            matches: (0..8).map(matched).collect(),
            reasons: (0..8).map(|_| Reason { code: letter(), points: 1, text: letter() }).collect(),
        }),
        ..usual()
    }
}

/// Long texts, as many as there are.
fn of_large_pieces() -> Event {
    let text = || "a".repeat(25_000);
    Event { attributes: (0..64).map(|number| (format!("{number}"), text())).collect(), ..usual() }
}

#[test]
fn a_value_takes_no_more_than_is_reckoned_with() {
    for (what, event) in [("usual", usual()), ("small", of_small_pieces()), ("large", of_large_pieces())] {
        let encoded = codec::encode(&event).unwrap();
        let took = measured(|| codec::decode::<Event>(&encoded).unwrap());
        let reckoned = Event::decoded_bytes(encoded.len());
        println!("{what}: {} encoded, {took} decoded, {reckoned} reckoned", encoded.len());
        assert!(took <= reckoned, "{what}: {took} bytes, reckoned with {reckoned}");
    }
}

#[test]
fn a_message_takes_no_more_than_is_reckoned_with() {
    let headers = || {
        let mut headers = HeaderMap::new();
        for name in [
            header::MESSAGE_ID,
            header::TRACEPARENT,
            header::ID,
            header::SOURCE,
            header::EVENT,
            header::RECEIVED_AT,
            header::EVENT_TIME,
            header::BODY_SHA256,
            "X-GitHub-Event",
            "X-GitHub-Hook-ID",
            "X-GitHub-Hook-Installation-Target-ID",
            "X-GitHub-Hook-Installation-Target-Type",
            "X-Hub-Signature-256",
            "Content-Type",
        ] {
            headers.insert(name, "0123456789".repeat(6));
        }
        headers
    };
    // A request counts the headers as they are sent.
    let sent: usize = headers().iter().map(|(name, _)| AsRef::<str>::as_ref(name).len() + 60).sum();
    let took = measured(headers) + size_of::<Delivered>() - sent;
    println!("headers and delivery, besides their bytes: {took}");
    assert!(took <= MESSAGE_BYTES, "{took} bytes, reckoned with {MESSAGE_BYTES}");
}
