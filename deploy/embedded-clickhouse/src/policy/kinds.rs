//! The kinds of statements, table engines and clauses that are allowed. Whatever is on no list is refused.

use super::denied;
use super::text::{Token, Tokens};
use crate::engine::Exception;

/// How an allowed statement begins, in the engine's own spelling. The engine's grants say which objects it may act on.
const BEGINNINGS: [&[&str]; 50] = [
    &["SELECT"],
    &["WITH"],
    &["INSERT", "INTO"],
    &["DELETE", "FROM"],
    &["UPDATE"],
    &["CREATE", "DATABASE"],
    &["CREATE", "TABLE"],
    &["CREATE", "OR", "REPLACE", "TABLE"],
    &["CREATE", "TEMPORARY", "TABLE"],
    &["CREATE", "VIEW"],
    &["CREATE", "OR", "REPLACE", "VIEW"],
    &["CREATE", "MATERIALIZED", "VIEW"],
    &["CREATE", "OR", "REPLACE", "MATERIALIZED", "VIEW"],
    &["CREATE", "INDEX"],
    &["REPLACE", "TABLE"],
    &["ALTER", "TABLE"],
    &["ALTER", "TEMPORARY", "TABLE"],
    &["DROP", "DATABASE"],
    &["DROP", "TABLE"],
    &["DROP", "TEMPORARY", "TABLE"],
    &["DROP", "VIEW"],
    &["DROP", "INDEX"],
    &["UNDROP", "TABLE"],
    &["TRUNCATE", "TABLE"],
    &["TRUNCATE", "DATABASE"],
    &["TRUNCATE", "ALL"],
    &["TRUNCATE"],
    &["RENAME", "TABLE"],
    &["RENAME", "DATABASE"],
    &["EXCHANGE", "TABLES"],
    &["DETACH", "TABLE"],
    &["ATTACH", "TABLE"],
    &["OPTIMIZE", "TABLE"],
    &["CHECK", "TABLE"],
    &["CHECK", "ALL"],
    &["DESCRIBE"],
    &["EXISTS"],
    &["EXPLAIN"],
    &["SHOW"],
    &["KILL", "QUERY"],
    &["KILL", "MUTATION"],
    &["SET"],
    &["USE"],
    &["SYSTEM", "STOP", "MERGES"],
    &["SYSTEM", "START", "MERGES"],
    &["SYSTEM", "STOP", "TTL", "MERGES"],
    &["SYSTEM", "START", "TTL", "MERGES"],
    &["SYSTEM", "SYNC", "MERGES"],
    &["SYSTEM", "WAIT", "VIEW"],
    &["SYSTEM", "REFRESH", "VIEW"],
];

/// Engines of tables and databases that keep their data in this server's directory or in memory.
pub(crate) const ENGINES: [&str; 19] = [
    "AggregatingMergeTree",
    "Atomic",
    "Buffer",
    "CoalescingMergeTree",
    "CollapsingMergeTree",
    "GenerateRandom",
    "Join",
    "Log",
    "MaterializedView",
    "Memory",
    "Merge",
    "MergeTree",
    "Null",
    "ReplacingMergeTree",
    "Set",
    "StripeLog",
    "SummingMergeTree",
    "TinyLog",
    "VersionedCollapsingMergeTree",
];

/// Table engines that no statement names, but for which the engine wants a grant.
pub(crate) const IMPLIED_ENGINES: [&str; 1] = ["View"];

pub(super) fn check(tokens: &Tokens) -> Result<(), Exception> {
    let start = (0..tokens.len()).find(|&at| !tokens.is_sign(at, '(')).unwrap_or_default();
    let begins = |words: &[&str]| words.iter().enumerate().all(|(at, word)| tokens.is_word(start + at, word));
    if !BEGINNINGS.iter().any(|words| begins(words)) {
        let found: Vec<&str> = (start..start + 2).filter_map(|at| tokens.name(at)).collect();
        return Err(denied(&format!(
            "expected a statement about the tables of this server, found {}, which is not allowed here",
            found.join(" ")
        )));
    }
    // The database `default` reveals the file system: its answers depend on whether a file exists.
    if (0..tokens.len()).any(|at| tokens.name(at).is_some_and(is_path)) {
        return Err(denied(
            "expected names of tables and columns, found a path; names may not begin with `/`, `./` or `../`",
        ));
    }
    for at in 0..tokens.len() {
        clause(tokens, at)?;
    }
    Ok(())
}

/// Refuses formats for which the engine writes a schema into the machine's temporary directory. Other accounts could
/// put links there, and the engine would follow them.
pub(crate) fn format(name: &str) -> Result<(), Exception> {
    let name = name.to_ascii_lowercase();
    if name.starts_with("protobuf") || name.starts_with("capnproto") {
        return Err(denied(
            "expected a format without a schema of its own, found Protobuf or CapnProto; use another, such as RowBinary",
        ));
    }
    Ok(())
}

/// Whether this is a table of `system` that no client may read. Reading `models` starts another program, and the engine
/// checks no right before it. `stack_trace` shows where this process's code is in memory.
pub(super) fn is_perilous(name: &str) -> bool {
    ["models", "stack_trace"].iter().any(|table| name.eq_ignore_ascii_case(table))
}

/// Whether the name at `at` may be a table of the database `system`. A name without a database cannot be one, because
/// [`database`] refuses `system` as a request's database.
fn may_be_of_system(tokens: &Tokens, at: usize) -> bool {
    let Some(before) = at.checked_sub(1).filter(|&before| tokens.is_sign(before, '.')) else { return false };
    let database = before.checked_sub(1).and_then(|at| tokens.name(at));
    database.is_none_or(|name| name.eq_ignore_ascii_case("system"))
}

/// Checks the database of a request. The engine looks up names without a database there.
pub(crate) fn database(name: &str) -> Result<(), Exception> {
    if name.eq_ignore_ascii_case("system") {
        return Err(denied(
            "expected a database other than system for the request; write system.<table> in the statement instead",
        ));
    }
    Ok(())
}

/// Whether a name leads out of the engine's own folder.
pub(super) fn is_path(name: &str) -> bool {
    name.starts_with(['/', '~']) || name.starts_with("./") || name.contains("../")
}

fn clause(tokens: &Tokens, at: usize) -> Result<(), Exception> {
    let pair = |first: &str, second: &str| tokens.is_word(at, first) && tokens.is_word(at + 1, second);
    if pair("INTO", "OUTFILE") || pair("FROM", "INFILE") {
        let message = "INTO OUTFILE and FROM INFILE name files of the server and are not allowed over HTTP";
        return Err(Exception::new(344, "SUPPORT_IS_DISABLED", message));
    }
    if tokens.is_word(at, "FROM") && matches!(tokens.get(at + 1), Some(Token::Text(_))) {
        return Err(denied("FROM with a path names a directory of the server and is not allowed; name a table"));
    }
    if tokens.name(at).is_some_and(is_perilous) && may_be_of_system(tokens, at) {
        return Err(denied(
            "expected a statement without system.models, which starts another program, and without system.stack_trace; found one of them, or a parameter in front of such a name",
        ));
    }
    if tokens.is_word(at, "FORMAT")
        && let Some(name) = tokens.name(at + 1)
    {
        format(name)?;
    }
    if tokens.call(at).is_some_and(|name| name.to_ascii_lowercase().starts_with("formatrow")) {
        let Some(Token::Text(name)) = tokens.get(at + 2) else {
            return Err(denied(
                "expected the name of a format in quotes as the first argument of formatRow, found something else",
            ));
        };
        format(name)?;
    }
    if pair("PARALLEL", "WITH") {
        return Err(denied("PARALLEL WITH is not allowed; send the statements one by one"));
    }
    if tokens.is_word(at, "ENGINE") && tokens.is_sign(at + 1, '=') {
        let engine = tokens.name(at + 2).unwrap_or_default();
        if !ENGINES.contains(&engine) {
            return Err(denied(&format!(
                "expected an engine that keeps its data in this server ({}), found {engine}",
                ENGINES.join(", ")
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::text::Tokens;
    use super::check;

    #[test]
    fn only_known_kinds_pass() {
        for (text, passes) in [
            ("SELECT 1", true),
            ("(SELECT 1) UNION ALL (SELECT 2)", true),
            ("INSERT INTO t FORMAT CSV", true),
            ("CREATE TABLE t (`a` Int8) ENGINE = MergeTree ORDER BY a", true),
            ("SYSTEM STOP MERGES t", true),
            ("SELECT ENGINE = 'File' FROM t", false),
            ("SYSTEM SHUTDOWN", false),
            ("BACKUP DATABASE d TO Disk('default', 'x')", false),
            ("CREATE FUNCTION f AS x -> x", false),
            ("CREATE DICTIONARY d (`a` Int8)", false),
            ("CREATE DATABASE d ENGINE = Filesystem('/etc')", false),
            ("CREATE TABLE t (`a` Int8) ENGINE = `File`(CSV)", false),
            ("ATTACH TABLE t FROM '/etc' (`a` Int8)", false),
            ("SELECT 1 INTO OUTFILE 'x'", false),
            ("SELECT 1 PARALLEL WITH SELECT 2", false),
            ("SELECT * FROM system.models", false),
            ("SELECT * FROM system.stack_trace", false),
            ("SELECT * FROM `system`.`models`", false),
            ("SELECT * FROM {d:Identifier}.models", false),
            ("SELECT 1 FORMAT Protobuf", false),
            ("SELECT 1 FORMAT CapnProto", false),
            ("SELECT formatRow('ProtobufList', 1)", false),
            ("SELECT formatRow(concat('Proto', 'buf'), 1)", false),
            ("SELECT formatRowNoNewline(f, 1), 'CSV' AS f", false),
            ("SELECT formatRow('CSV', language) FROM t WHERE language = 'Protobuf'", true),
            ("SELECT t.models, models.a, models FROM own.models AS models", true),
            ("EXISTS `default`.`/root/.bashrc`", false),
            ("EXISTS `default`.`t`", true),
            ("SELECT * FROM `default`.`/root/.bashrc`", false),
            ("DESCRIBE TABLE `x/../../root/.bashrc`", false),
            ("SELECT a AS `requests/s`, a / 2 FROM t", true),
            ("quit", false),
            ("", false),
        ] {
            assert_eq!(check(&Tokens::read(text).unwrap()).is_ok(), passes, "{text}");
        }
    }
}
