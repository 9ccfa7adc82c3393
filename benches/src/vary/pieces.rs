//! What varies within a text: names, ids, hashes, and the words of what people write.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::form::{Form, Words};
use super::scan::Scalar;
use super::template::{DELIVERY, FIXED, Piece, TENANT};

/// Keys of what people and programs write.
const TEXTS: [&str; 22] = [
    "body",
    "body_html",
    "bullets",
    "description",
    "diff_hunk",
    "dismiss_reason",
    "dismissed_comment",
    "display_title",
    "full_description",
    "help",
    "manifest",
    "message",
    "note",
    "page_name",
    "payload",
    "reason_text",
    "short_description",
    "signature",
    "summary",
    "text",
    "title",
    "zen",
];
/// Keys of names that an organization gives: of teams, checks, workflows, labels.
const NAMES: [&str; 6] = ["name", "display_name", "slug", "workflow_name", "runner_name", "environment"];
/// Keys of branches and tags.
const BRANCHES: [&str; 6] = ["ref", "head_ref", "head_branch", "tag_name", "branch", "original_branch"];
/// Keys of values that mean something to a program.
const MEANINGFUL: [&str; 14] = [
    "action",
    "conclusion",
    "event",
    "events",
    "from",
    "permission",
    "ref_type",
    "repository_selection",
    "role",
    "severity",
    "state",
    "status",
    "type",
    "visibility",
];
/// Names that everybody uses, and parts of addresses.
const COMMON: [&str; 16] = [
    "actions",
    "api",
    "com",
    "default",
    "develop",
    "github",
    "git",
    "heads",
    "http",
    "https",
    "main",
    "master",
    "production",
    "refs",
    "tags",
    "www",
];
/// Lengths of hashes in hexadecimal digits.
const HASHES: [usize; 3] = [32, 40, 64];
/// A shorter beginning of a hash may be something else.
const HASH_LENGTH_MIN: usize = 7;
const WORD_LENGTHS: Range<usize> = 2..17;
const NAME_LENGTH_MIN: usize = 4;

/// What is looked for within the texts of a body.
pub(super) struct Named<'a> {
    names: &'a HashMap<String, usize>,
    ids: &'a HashMap<String, usize>,
    hashes: HashSet<&'a str>,
    branches: HashSet<&'a str>,
}

impl<'a> Named<'a> {
    pub(super) fn of(
        scalars: &[Scalar<'a>],
        names: &'a HashMap<String, usize>,
        ids: &'a HashMap<String, usize>,
    ) -> Self {
        let texts = || scalars.iter().filter(|scalar| !scalar.is_number);
        let hashes =
            texts().flat_map(|it| runs(it.text, is_alphanumeric)).map(|(_, run)| run).filter(|run| is_hash(run));
        let branches = texts().filter(|it| BRANCHES.contains(&it.key)).filter_map(|it| it.text.rsplit('/').next());
        let branches = branches.filter(|it| it.len() > NAME_LENGTH_MIN && !is_hash(it) && !COMMON.contains(it));
        Self { names, ids, hashes: hashes.collect(), branches: branches.collect() }
    }
}

/// What varies in `scalar`, a text of `party`.
pub(super) fn pieces(scalar: &Scalar<'_>, party: usize, names: &Named<'_>) -> Vec<Piece> {
    if scalar.key.ends_with("node_id") {
        return node(scalar, names).into_iter().collect();
    }
    if MEANINGFUL.contains(&scalar.key) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (at, run) in runs(scalar.text, is_of_name) {
        let start = scalar.at + at;
        let place = start..start + run.len();
        if is_guid(run) {
            found.push(Piece::new(DELIVERY, Form::Hex, place));
        } else if let Some(party) = names.names.get(&run.to_ascii_lowercase()) {
            found.push(Piece::new(*party, Form::Name, place));
        } else if names.branches.contains(run) {
            found.push(Piece::new(DELIVERY, Form::Name, place));
        } else {
            let parts = runs(run, is_alphanumeric);
            found.extend(parts.filter_map(|(at, part)| piece(scalar.key, party, start + at, part, names)));
        }
    }
    found
}

/// What varies in `part`, a run of letters and digits.
fn piece(key: &str, party: usize, start: usize, part: &str, names: &Named<'_>) -> Option<Piece> {
    let at = start..start + part.len();
    if is_hash(part) {
        return Some(Piece::new(DELIVERY, Form::Hex, at));
    }
    if part.len() >= HASH_LENGTH_MIN
        && let Some(whole) = names.hashes.iter().find(|hash| hash.starts_with(part))
    {
        return Some(Piece { tag: Some((*whole).to_owned()), ..Piece::new(DELIVERY, Form::Hex, at) });
    }
    if let Some(party) = names.ids.get(part) {
        return Some(Piece::new(*party, Form::Id, at));
    }
    if let Some(party) = names.names.get(&part.to_ascii_lowercase()) {
        return Some(Piece::new(*party, Form::Name, at));
    }
    if TEXTS.contains(&key) {
        let form = if is_word(part) { Form::Word } else { Form::Opaque };
        let varies = is_word(part) || part.len() >= WORD_LENGTHS.end;
        // A person or a repository describes itself always in the same way.
        return varies.then(|| Piece::new(if party == FIXED { DELIVERY } else { party }, form, at));
    }
    let is_name = NAMES.contains(&key) && is_word(part) && part.len() >= NAME_LENGTH_MIN;
    is_name.then(|| Piece { tag: Some(part.to_ascii_lowercase()), ..Piece::new(TENANT, Form::Word, at) })
}

/// A node id: `MDQ6VXNlcjIxMDMxMDY3`, or `R_kgDOJivrqQ` since 2021.
fn node(scalar: &Scalar<'_>, names: &Named<'_>) -> Option<Piece> {
    let (at, text) = (scalar.at, scalar.text);
    let party = names.ids.get(text).copied().unwrap_or(DELIVERY);
    if let Some(decoded) = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
        let id_at = decoded.trim_end_matches(|it: char| it.is_ascii_digit()).len();
        if id_at == decoded.len() {
            return None;
        }
        // The same id as the number has.
        let id = decoded[id_at..].to_owned();
        let party = names.ids.get(&id).copied().unwrap_or(party);
        let form = Form::Node { decoded: decoded.into_bytes(), id_at };
        return Some(Piece { tag: Some(id), ..Piece::new(party, form, at..at + text.len()) });
    }
    // After the kind come four characters that say how the rest is packed.
    let head = text.find('_')? + 5;
    (head < text.len()).then(|| Piece::new(party, Form::Opaque, at + head..at + text.len()))
}

/// Adds the words of `scalar` to `words`, if people write such texts.
pub(super) fn gather(scalar: &Scalar<'_>, words: &mut Words) {
    if TEXTS.contains(&scalar.key) {
        runs(scalar.text, is_alphanumeric).filter(|(_, run)| is_word(run)).for_each(|(_, run)| words.add(run));
    }
}

/// The runs of characters that are `wanted`, and where they begin. Escaped characters are in no run.
fn runs(text: &str, wanted: fn(u8) -> bool) -> impl Iterator<Item = (usize, &str)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() && !wanted(bytes[at]) {
            at += match (bytes[at], bytes.get(at + 1)) {
                (b'\\', Some(b'u')) => 6,
                (b'\\', _) => 2,
                _ => 1,
            };
        }
        let start = at.min(bytes.len());
        let length = bytes[start..].iter().take_while(|byte| wanted(**byte)).count();
        at = start + length;
        (length > 0).then(|| (start, &text[start..at]))
    })
}

const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

const fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_word(run: &str) -> bool {
    WORD_LENGTHS.contains(&run.len()) && run.bytes().all(|byte| byte.is_ascii_alphabetic()) && !COMMON.contains(&run)
}

/// A hash of a commit, a tree, a file or an image. Zeros alone mean that there is none.
fn is_hash(run: &str) -> bool {
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    HASHES.contains(&run.len()) && run.bytes().all(hexadecimal) && run.bytes().any(|byte| byte != b'0')
}

fn is_guid(run: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    run.len() == 36 && run.bytes().enumerate().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stop_at_escaped_characters() {
        let found: Vec<_> = runs(r#"one\ntwo-3 \"four\u0041five"#, is_of_name).collect();
        assert_eq!(found, [(0, "one"), (5, "two-3"), (13, "four"), (23, "five")]);
    }

    #[test]
    fn hashes_and_guids_are_told_from_words() {
        let sha = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";
        assert!(is_hash(sha) && !is_hash(&sha[1..]) && !is_hash(&"0".repeat(40)) && !is_hash(&sha.to_uppercase()));
        assert!(is_guid("e07742bd-189a-5079-918b-43f8b2f94b89") && !is_guid(&sha[..36]));
    }
}
