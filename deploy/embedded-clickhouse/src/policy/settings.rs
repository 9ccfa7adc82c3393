//! Decides which settings a client may change: in the URL, in a `SETTINGS` clause anywhere in a statement, and by
//! `SET`. The engine checks its own constraints only at the top of a statement. In a subquery, it accepts any clause.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use super::text::{Token, Tokens};
use crate::engine::Exception;

static SETTINGS: LazyLock<HashSet<&str>> = LazyLock::new(|| listed(include_str!("settings.txt")));

/// The bound of settings that have none in [`Bounds`].
const THREADS_MAX: u64 = 64;

/// The most that one statement may keep on disk while it sorts and groups, in bytes. All statements together may keep
/// twice as much. The broker is on the same disk.
pub(crate) const TEMPORARY_BYTES_MAX: u64 = 4 << 30;

/// How far a client may raise settings. Nothing may be unlimited, and to the engine 0 means unlimited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of memory for one statement.
    pub(crate) statement_memory_bytes: u64,
    /// Bytes of a statement. The engine reads the statement before any other of these bounds is in force.
    pub(crate) statement_bytes: usize,
    /// Bytes of a result that is made in one piece.
    pub(crate) result_bytes: u64,
    /// How long one statement may run, if there is a bound.
    pub(crate) time_max: Option<Duration>,
    /// Bytes of the text of an answer, or of a piece of one, if there is a bound.
    pub(crate) piece_bytes: Option<usize>,
}

/// The setting that says how long a statement may run, in seconds with a fraction.
pub(super) const TIME: &str = "max_execution_time";
/// To the engine, a value below a microsecond means no limit.
const TIME_MIN_S: f64 = 0.001;

/// Limits of the parser. They are the engine's own defaults, except for the length, which fits the longest statement.
pub(crate) const PARSER: [(&str, u64); 6] = [
    ("max_query_size", super::STATEMENT_BYTES_MAX as u64),
    ("max_parser_depth", super::nesting::DEPTH_MAX as u64),
    ("max_parser_backtracks", 1_000_000),
    ("max_ast_depth", 1_000),
    ("max_ast_elements", 50_000),
    ("max_expanded_ast_elements", 500_000),
];

/// The names in a list: words between blanks. Lines that begin with `#` do not count.
pub(super) fn listed(text: &str) -> HashSet<&str> {
    text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace).collect()
}

impl Bounds {
    fn of(&self, name: &str) -> Option<u64> {
        if let Some((_, most)) = PARSER.iter().find(|(limit, _)| *limit == name) {
            return Some(*most);
        }
        match name {
            "max_memory_usage" => Some(self.statement_memory_bytes),
            "max_result_bytes" => Some(self.result_bytes),
            "max_temporary_data_on_disk_size_for_query" => Some(TEMPORARY_BYTES_MAX),
            _ if name.ends_with("_threads") => Some(THREADS_MAX),
            _ => None,
        }
    }
}

/// Checks one setting.
pub(super) fn judge(name: &str, value: &str, bounds: &Bounds) -> Result<(), Exception> {
    if !SETTINGS.contains(name) {
        return Err(refused(&format!(
            "expected settings of queries and tables, found {name}, which is not allowed here"
        )));
    }
    if let Some(time_max) = bounds.time_max.filter(|_| name == TIME) {
        let most = time_max.as_secs_f64();
        return match value.trim().parse::<f64>() {
            Ok(seconds) if (TIME_MIN_S..=most).contains(&seconds) => Ok(()),
            _ => Err(refused(&format!("expected {name} between {TIME_MIN_S} and {most}, found {value}; ask for less"))),
        };
    }
    let Some(most) = bounds.of(name) else { return Ok(()) };
    // The engine itself checks a word such as `auto`. We refuse words that the engine reads as a number, such as
    // `default`.
    let within = match value.trim().parse::<u64>() {
        Ok(number) => number <= most && (number > 0 || name.ends_with("_threads")),
        Err(_) => {
            let number = ["true", "false", "null", "inf", "nan", "default"]
                .iter()
                .any(|word| value.trim().eq_ignore_ascii_case(word));
            !number && !value.contains(|char: char| char.is_ascii_digit())
        }
    };
    if within {
        return Ok(());
    }
    Err(refused(&format!("expected {name} between 1 and {most}, found {value}; ask for less")))
}

/// The value that we use for a setting beside a statement. `None` when we leave the setting out.
///
/// Clients send some settings of their own accord. One says how long they wait, and 0 means no limit. Another is
/// `log_comment`, where we keep the statement's mark.
pub(super) fn adapted<'v>(name: &str, value: &'v str, bounds: &Bounds) -> Option<Cow<'v, str>> {
    match (name, bounds.time_max, value.trim().parse::<f64>()) {
        ("log_comment", ..) => None,
        (TIME, Some(most), Ok(seconds)) if seconds <= 0.0 || seconds > most.as_secs_f64() => {
            Some(Cow::Owned(most.as_secs().to_string()))
        }
        _ => Some(Cow::Borrowed(value)),
    }
}

fn refused(message: &str) -> Exception {
    Exception::new(452, "SETTING_CONSTRAINT_VIOLATION", message)
}

pub(super) fn check(tokens: &Tokens, bounds: &Bounds) -> Result<(), Exception> {
    for at in 0..tokens.len() {
        let begins = tokens.is_word(at, "SETTINGS")
            || (at == 0 && tokens.is_word(at, "SET"))
            || (tokens.is_word(at, "SETTING") && at > 0 && tokens.is_word(at - 1, "MODIFY"));
        if begins {
            list(tokens, at + 1, bounds)?;
        }
    }
    Ok(())
}

/// Checks `name = value, …`. It ignores anything else, such as a column with the name `SETTINGS`. It refuses a list
/// that begins like settings and goes on differently.
fn list(tokens: &Tokens, start: usize, bounds: &Bounds) -> Result<(), Exception> {
    let mut at = if tokens.is_sign(start, '(') { start + 1 } else { start };
    loop {
        let Some(name) = tokens.name(at) else { return Ok(()) };
        if tokens.is_sign(at + 1, '.') {
            return Err(refused(&format!("expected a setting, found {name} with a dot")));
        }
        if !tokens.is_sign(at + 1, '=') {
            return Ok(());
        }
        let (value, end) = value(tokens, at + 2);
        judge(name, &value.ok_or_else(|| refused(&format!("expected a written-out value of {name}")))?, bounds)?;
        match tokens.get(end) {
            Some(Token::Sign(',')) => at = end + 1,
            None | Some(Token::Sign(')') | Token::Word(_)) => return Ok(()),
            Some(_) => return Err(refused(&format!("expected a single value of {name}, found an expression"))),
        }
    }
}

/// Reads one value, and returns it with the place behind it. The value is `None` for a parameter or a call, because
/// nobody knows it yet.
fn value(tokens: &Tokens, start: usize) -> (Option<String>, usize) {
    let negative = tokens.is_sign(start, '-');
    let at = start + usize::from(negative);
    if tokens.call(at).is_some() {
        return (None, tokens.behind(at + 1));
    }
    match tokens.get(at) {
        Some(Token::Word(word)) if negative => (Some(format!("-{word}")), at + 1),
        Some(Token::Word(text) | Token::Text(text)) => (Some(text.clone()), at + 1),
        Some(Token::Sign('[' | '(')) => (Some(String::new()), tokens.behind(at)),
        _ => (None, at + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::Tokens;
    use std::time::Duration;

    use super::{Bounds, check};

    #[test]
    fn settings_are_found_wherever_they_stand() {
        let bounds = Bounds {
            statement_bytes: 1_000,
            statement_memory_bytes: 1_000,
            result_bytes: 1_000,
            time_max: Some(Duration::from_secs(9)),
            piece_bytes: None,
        };
        for (text, passes) in [
            (
                "SELECT 1 SETTINGS max_threads = 2, max_execution_time = 1.5, insert_deduplication_token = 'a, b = 1' FORMAT CSV",
                true,
            ),
            ("SELECT 1 SETTINGS log_comment = 'a'", false),
            ("SELECT 1 AS SETTINGS, dialect = 1 FROM t WHERE SETTINGS = 1", true),
            ("INSERT INTO t SETTINGS async_insert = 0 SELECT a FROM t WHERE dialect = 1", true),
            ("CREATE TABLE t (`a` String SETTINGS (max_compress_block_size = 3)) SETTINGS index_granularity = 1", true),
            ("SET max_parser_depth = 1000", true),
            ("SELECT 1 SETTINGS dialect = 'kusto'", false),
            ("SELECT 1 SETTINGS max_threads = 2, `dialect` = 'kusto'", false),
            ("SELECT * FROM (SELECT 1 SETTINGS format_template_row = '/etc/passwd')", false),
            ("SELECT 1 SETTINGS additional_table_filters = {'t':'file(1)'}", false),
            ("SELECT 1 SETTINGS max_execution_time = 10", false),
            ("SELECT 1 SETTINGS max_execution_time = 0", false),
            ("SELECT 1 SETTINGS max_execution_time = 0.0000001", false),
            ("SELECT 1 SETTINGS max_execution_time = '-1'", false),
            ("SELECT 1 SETTINGS max_execution_time = nan", false),
            ("SELECT 1 SETTINGS max_memory_usage = 0", false),
            ("SELECT 1 SETTINGS max_memory_usage = 1001", false),
            ("SELECT 1 SETTINGS max_memory_usage = -1", false),
            ("SELECT 1 SETTINGS max_memory_usage = '1e3'", false),
            ("SELECT 1 SETTINGS max_memory_usage = false", false),
            ("SELECT 1 SETTINGS max_threads = {x:UInt8}", false),
            ("SET max_threads = 1, max_parser_depth = 0", false),
            ("ALTER TABLE t (MODIFY SETTING disk = 'x')", false),
            ("CREATE TABLE t (`a` Int8) SETTINGS disk = disk(type = 'local')", false),
        ] {
            assert_eq!(check(&Tokens::read(text).unwrap(), &bounds).is_ok(), passes, "{text}");
        }
    }
}
