//! How deeply brackets are nested in a statement's text, before the engine reads it.

use crate::clickhouse::engine::Exception;

/// The engine's own bound (`max_parser_depth`): each bracket takes at least one level of it.
pub(super) const DEPTH_MAX: usize = 1_000;

/// Refuses what the engine would refuse too, after a time that grows with the square of the depth.
/// Brackets in comments and here-documents count too: that errs on the safe side.
pub(super) fn check(sql: &[u8]) -> Result<(), Exception> {
    let (mut depth, mut at) = (0_usize, 0);
    // What one quote does not close, no later one of its kind does: looking again would take the square of the length.
    let mut unclosed: Vec<u8> = Vec::new();
    while let Some(&byte) = sql.get(at) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            quote @ (b'\'' | b'"' | b'`') if !unclosed.contains(&quote) => match quoted_end(sql, at) {
                Some(end) => at = end,
                None => unclosed.push(quote),
            },
            _ => {}
        }
        if depth > DEPTH_MAX {
            let message = format!("expected brackets nested at most {DEPTH_MAX} deep, found more; nest them less");
            return Err(Exception::new(306, "TOO_DEEP_RECURSION", &message));
        }
        at += 1;
    }
    Ok(())
}

/// The place of the closing quote; `None` if nothing closes it, as in a comment's apostrophe.
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
        assert!(check(format!("SELECT 1 -- it's {}", "[".repeat(DEPTH_MAX + 1)).as_bytes()).is_err());
        assert!(check("SELECT [1], [1]".repeat(DEPTH_MAX).as_bytes()).is_ok());
        // Within the time of a test only when it is read once.
        assert!(check(&b"'\\".repeat(4 << 20)).is_ok());
    }
}
