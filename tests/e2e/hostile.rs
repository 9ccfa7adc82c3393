//! Bodies that GitHub never sends, but with good signatures. Each ends in a row or in DEAD with a reason, and harms no
//! other event.

use std::collections::BTreeSet;

use headrace_runtime::broker::Stream;
use headrace_schemas::header;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::Launch;
use headrace_tests::product::stored::{self, Stored};
use tempfile::TempDir;

use super::PROGRAM;

/// How much more memory the process may hold afterwards. The bodies take some 40 MB, and are sent three times.
const MEMORY_BYTES_MAX: u64 = 384 << 20;
/// With three rounds, a leak of one round's memory exceeds the limit.
const ROUNDS: usize = 3;

#[tokio::test]
async fn hostile_bodies_end_in_a_row_or_in_a_dead_letter() {
    let dir = TempDir::new().unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let before = resident_bytes(up.pid());
    let (mut sent, mut names) = (BTreeSet::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (name, body) in bodies() {
            let (kind, guid) = (if sent.len() % 2 == 0 { "repository" } else { "push" }, guid());
            hook.store(kind, &guid, body).await;
            names.push((format!("github:{guid}"), name));
            sent.insert(format!("github:{guid}"));
        }
    }
    stored.settled().await;

    let rows: Vec<(String,)> = stored.rows("SELECT id FROM events ORDER BY id").await;
    let dead_letters = stored.messages(Stream::Dead).await;
    let mut ended: Vec<String> = rows.into_iter().map(|(id,)| id).collect();
    ended.extend(dead_letters.iter().map(|dead_letter| stored::header(dead_letter, header::ID)));
    ended.sort();
    let lost: Vec<_> = names.iter().filter(|(id, _)| !ended.contains(id)).collect();
    assert!(ended.iter().eq(&sent), "each ends in one place; missing: {lost:?}");
    for dead_letter in &dead_letters {
        let (reason, detail) =
            (stored::header(dead_letter, header::DEAD_REASON), stored::header(dead_letter, header::DEAD_DETAIL));
        assert!(reason == "malformed" && !detail.is_empty(), "{reason}: {detail}");
    }
    // Every body is kept in `raw`, also when its event is dead-lettered.
    let kept: Vec<(String,)> = stored.rows("SELECT id FROM raw ORDER BY id").await;
    assert!(kept.iter().map(|(id,)| id).eq(&sent), "{} of {} in raw", kept.len(), sent.len());

    let grown = resident_bytes(up.pid()).saturating_sub(before);
    assert!(grown < MEMORY_BYTES_MAX, "it holds {grown} bytes more");
    assert!(!up.log().contains("panicked"), "{}", up.log());
    up.stop().await;
}

fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let nested = |open: &str, close: &str| format!("{{\"a\":{}0{}}}", open.repeat(100_000), close.repeat(100_000));
    let actor = |login: &str| format!(r#"{{"action":"created","sender":{{"id":7,"login":"{login}","type":"User"}}}}"#);
    let tenant = |login: &str| format!(r#"{{"action":"created","organization":{{"login":"{login}"}}}}"#);
    let keys: String = (0..100_000).map(|number| format!("\"{number}\":0,")).collect();
    let texts = [
        ("nested lists", nested("[", "]")),
        ("nested objects", nested("{\"a\":", "}")),
        ("nested without an end", "[".repeat(1 << 20)),
        ("equal keys", r#"{"action":"a","action":"b","sender":{"login":"a"},"sender":{"login":"b"}}"#.to_owned()),
        ("a hundred thousand equal keys", format!("{{{}\"a\":1}}", "\"sender\":{\"login\":\"a\"},".repeat(100_000))),
        ("a hundred thousand keys", format!("{{{keys}\"a\":1}}")),
        (
            "huge numbers",
            r#"{"sender":{"login":"a","id":1e999999},"repository":{"id":123456789012345678901234567890}}"#.to_owned(),
        ),
        ("a number of a million digits", format!(r#"{{"sender":{{"login":"a","id":{}}}}}"#, "9".repeat(1 << 20))),
        (
            "a long list",
            format!(
                r#"{{"commits":[{}0],"changes":{{"a":{{"from":[{}0]}}}}}}"#,
                "0,".repeat(100_000),
                "0,".repeat(100_000)
            ),
        ),
        (
            "a long list of objects",
            format!(r#"{{"commits":[{}{{}}]}}"#, r#"{"id":"a","author":{"name":"b"}},"#.repeat(100_000)),
        ),
        ("escaped zero", actor(r"a\u0000b\u0007")),
        ("half a pair", actor(r"\ud83d")),
        ("from right to left", actor("\u{202e}gnp.exe\u{2066}\u{200f}\u{feff}\u{85}")),
        ("a raw control character", actor("a\0b\nc")),
        ("a tenant of wildcards", tenant(".>*. \\u0000\\r\\nPUB x 1")),
        ("a tenant without an end", tenant(&"a".repeat(1 << 20))),
        ("a repository without an end", format!(r#"{{"repository":{{"full_name":"{}"}}}}"#, "é/".repeat(1 << 20))),
        (
            "other types",
            r#"{"action":{},"sender":[],"repository":"a","organization":7,"changes":[[]],"commits":{}}"#.to_owned(),
        ),
        ("nothing", String::new()),
        ("blanks", " \n".repeat(1 << 20)),
        ("no object", "null".to_owned()),
        ("a text", r#""text""#.to_owned()),
        ("a list", "[]".to_owned()),
        ("cut off", r#"{"action":"created","sender":{"login":"mo"#.to_owned()),
        ("more than one", r#"{"action":"created"}{"action":"created"}"#.to_owned()),
    ];
    let mut bodies: Vec<(&str, Vec<u8>)> = texts.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    bodies.push(("no UTF-8", b"{\"sender\":{\"login\":\"\xff\xfe\"}}".to_vec()));
    bodies.push(("a surrogate in UTF-8", b"{\"sender\":{\"login\":\"\xed\xa0\x80\"}}".to_vec()));
    bodies.push(("a byte order mark", b"\xef\xbb\xbf{}".to_vec()));
    bodies.push(("zeros", vec![0; 1 << 20]));
    // A gzip stream. Nobody may unpack it.
    bodies.push((
        "packed",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00".to_vec(),
    ));
    bodies
}

/// The memory that a process has resident (`VmRSS`).
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.unwrap().parse::<u64>().unwrap() << 10
}
