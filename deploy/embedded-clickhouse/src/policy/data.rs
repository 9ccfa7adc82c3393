//! Whether the data of an `INSERT … VALUES` may hold expressions. The engine evaluates them as it reads, when a setting
//! says so, and no statement shows them; so they are judged as a statement of their own, or not evaluated.

use super::text::Tokens;
use super::{canonical, functions, nesting};
use crate::engine::Connection;

/// Whether the rows hold only values and functions of values. What is not asked, such as a long batch, is not evaluated.
pub(crate) fn values_are_plain(session: &mut Connection, data: &[u8]) -> bool {
    let sql = [b"SELECT ", data].concat();
    if nesting::check(&sql).is_err() || session.analyse(&sql).statements != 1 {
        return false;
    }
    let Ok(tokens) = canonical(session, &sql).and_then(|canonical| Tokens::read(&canonical)) else { return false };
    // Beyond the first, these begin a subquery, or settings.
    let words = ["SELECT", "FROM", "WITH", "SETTINGS", "FORMAT", "INTO"];
    let plain = (1..tokens.len()).all(|at| !words.iter().any(|word| tokens.is_word(at, word)));
    plain && functions::check(&tokens, functions::gives_names(data)).is_ok()
}
