//! Measures how deeply brackets are nested in a statement's text, before the engine reads it.

use crate::engine::Exception;

/// The engine's own bound (`max_parser_depth`). Each bracket takes at least one level of it.
pub(super) const DEPTH_MAX: usize = 1_000;

/// Refuses what is nested too deeply. The engine would refuse it too, but only after a time that grows with the square
/// of the depth.
///
/// We do not parse comments, here-documents and curly quotes. A text that has any of these outside quotes may have at
/// most [`DEPTH_MAX`] opening brackets in all.
pub(super) fn check(sql: &[u8]) -> Result<(), Exception> {
    if sql.iter().filter(|byte| OPENING.contains(byte)).count() <= DEPTH_MAX {
        return Ok(());
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = sql.get(at) {
        match byte {
            byte if OPENING.contains(&byte) => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'\'' | b'"' | b'`' => match quoted_end(sql, at) {
                Some(end) => at = end,
                // The engine stops reading here too.
                None => return Ok(()),
            },
            _ if UNREAD.iter().any(|begin| sql[at..].starts_with(begin)) => {
                return Err(too_deep(&format!(
                    "expected no comments, here-documents or curly quotes in a statement with more than {DEPTH_MAX} \
                     opening brackets, found one; leave it out"
                )));
            }
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(too_deep(&format!(
                "expected brackets nested at most {DEPTH_MAX} deep, found more; nest them less"
            )));
        }
        at += 1;
    }
    Ok(())
}

const OPENING: [u8; 3] = [b'(', b'[', b'{'];

/// What begins a comment, a here-document or a curly quote, each of which has rules of its own.
const UNREAD: [&[u8]; 9] = [
    b"--",
    b"//",
    b"/*",
    b"#",
    b"$",
    "\u{2018}".as_bytes(),
    "\u{2019}".as_bytes(),
    "\u{201c}".as_bytes(),
    "\u{201d}".as_bytes(),
];

fn too_deep(message: &str) -> Exception {
    Exception::new(306, "TOO_DEEP_RECURSION", message)
}

/// The place of the closing quote. `None` if nothing closes it.
fn quoted_end(sql: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    while let Some(&byte) = sql.get(at) {
        match byte {
            b'\\' => at += 1,
            byte if byte == sql[start] => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{DEPTH_MAX, check};

    #[test]
    fn only_brackets_outside_of_quotes_are_deep() {
        let nested = |depth: usize| format!("SELECT {}1{}", "(".repeat(depth), ")".repeat(depth));
        assert!(check(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(check(nested(DEPTH_MAX + 1).as_bytes()).unwrap_err().code(), 306);
        assert!(check(format!("SELECT '{}'", "[".repeat(100_000)).as_bytes()).is_ok());
        let inside = nested(DEPTH_MAX + 1);
        for (before, behind) in [
            ("/* ' */", "/* ' */"),
            ("-- '\n", "-- '\n"),
            ("# '\n", "# '\n"),
            ("// '\n", "// '\n"),
            ("$$'$$", "$$'$$"),
            ("‘'’", "‘'’"),
            ("''", "''"),
            ("'\\''", "''"),
        ] {
            assert_eq!(check(format!("{before}{inside}{behind}").as_bytes()).unwrap_err().code(), 306, "{before}");
        }
        assert!(check("SELECT [1], [1] ".repeat(DEPTH_MAX).as_bytes()).is_ok());
        assert!(check(format!("SELECT 1 -- it's {}", "[".repeat(DEPTH_MAX)).as_bytes()).is_ok());
        // This test is fast enough only if `check` reads the text once.
        let many = [b"[]".repeat(DEPTH_MAX + 1), b"'\\".repeat(4 << 20)].concat();
        assert!(check(&many).is_ok());
    }
}
