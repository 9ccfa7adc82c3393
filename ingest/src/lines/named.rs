//! Which files and objects are read: by the ends of their names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

/// What is packed has this suffix beside its own.
const PACKED: &[u8] = b".gz";

/// Whether a file of this name is read: `Some(true)` if it is packed.
pub(crate) fn named(name: &OsStr, suffixes: &[String]) -> Option<bool> {
    let name = name.as_bytes();
    let (own, packed) = name.strip_suffix(PACKED).map_or((name, false), |own| (own, true));
    let ends = |name: &[u8]| suffixes.iter().any(|suffix| name.ends_with(suffix.as_bytes()));
    // A suffix of its own may be `.log.gz`: whatever ends so is packed.
    (ends(own) || ends(before_rotation(own)) || ends(name)).then_some(packed)
}

/// A name without the number or date that setting a file aside has added: `.1`, `-20260131`, `.2026-01-31`. A file may be
/// set aside before anybody has looked, so it must be read under such a name too.
fn before_rotation(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| !byte.is_ascii_digit() && *byte != b'-').map_or(0, |last| last + 1);
    let (own, added) = name.split_at(end);
    match own.strip_suffix(b".") {
        Some(own) if !added.is_empty() => own,
        _ if added.starts_with(b"-") => own,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_for_the_end_of_its_name() {
        let suffixes = [".log".to_owned(), ".ndjson".to_owned()];
        for (name, expected) in [
            ("a.log", Some(false)),
            ("a.log.gz", Some(true)),
            ("a.gz", None),
            (".log", Some(false)),
            ("a.log.1", Some(false)),
            ("a.log.12.gz", Some(true)),
            ("a.log-20260131", Some(false)),
            ("a.log-20260131.gz", Some(true)),
            ("a.log.2026-01-31", Some(false)),
            ("a.log1", None),
            ("a.log.", None),
            ("a.1", None),
            ("1", None),
            ("a.log.old", None),
            ("a.ndjson.gz.part", None),
        ] {
            assert_eq!(named(OsStr::new(name), &suffixes), expected, "{name}");
        }
        assert_eq!(named(OsStr::from_bytes(b"\xff.log"), &suffixes), Some(false));
    }
}
