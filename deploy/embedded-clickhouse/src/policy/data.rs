//! Decides whether the engine may evaluate expressions in the data of an `INSERT … VALUES`. They are in no statement
//! that the policy sees. So we check short data like a statement, and otherwise the engine does not evaluate it.

use super::text::Tokens;
use super::{canonical, functions, nesting};
use crate::engine::Connection;

/// Whether the rows hold only values and functions of values. The engine evaluates no data that was not checked here,
/// such as a long batch.
pub(crate) fn values_are_plain(session: &mut Connection, data: &[u8]) -> bool {
    let sql = [b"SELECT ", data].concat();
    if nesting::check(&sql).is_err() || session.analyse(&sql).statements != 1 {
        return false;
    }
    let Ok(tokens) = canonical(session, &sql).and_then(|canonical| Tokens::read(&canonical)) else { return false };
    // After the first token, these words begin a subquery or settings.
    let words = ["SELECT", "FROM", "WITH", "SETTINGS", "FORMAT", "INTO"];
    let plain = (1..tokens.len()).all(|at| !words.iter().any(|word| tokens.is_word(at, word)));
    plain && functions::check(&tokens, functions::gives_names(data)).is_ok()
}
