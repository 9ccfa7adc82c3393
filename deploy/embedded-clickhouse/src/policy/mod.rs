//! Decides which statements a client may run: only those that read and write the tables of this server.
//!
//! The engine's own access control (see [`super::access`]) is not enough. It does not check the function `file`,
//! settings inside subqueries, or clauses that the client library behind the engine carries out itself. The policy must
//! read the engine's own spelling of a statement, never the client's. So no comment and no quoting gets around it. Each
//! list says what is allowed, so what nobody thought of is refused.

mod conditions;
mod data;
mod functions;
mod kinds;
mod nesting;
mod settings;
mod text;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use self::data::values_are_plain;
pub(super) use self::kinds::{ENGINES, IMPLIED_ENGINES};
pub(crate) use self::kinds::{database, format};
use self::settings::Bounds;
pub(super) use self::settings::{PARSER, TEMPORARY_BYTES_MAX};
use self::text::Tokens;
use super::engine::{Connection, Exception, Parameters};
use super::memory::Memory;

/// The most memory, in bytes, for a result that is made in one piece.
pub(crate) const WHOLE_RESULT_BYTES_MAX: u64 = 1 << 30;
/// The longest statement, in bytes. The data of an insert does not count.
pub(crate) const STATEMENT_BYTES_MAX: usize = 16 << 20;
/// The longest statement of the user `reader`, in bytes. To parse it, the engine takes some forty times as much memory.
const READ_STATEMENT_BYTES_MAX: usize = 1 << 20;
/// For the user `reader`, one piece of an answer may be as long as the statement's memory divided by this.
const PIECE_PART: u64 = 4;
/// How many approved statements the policy remembers. When there are more, it forgets all.
const REMEMBERED_MAX: usize = 1_024;
/// The longest remembered statement, in bytes.
const REMEMBERED_BYTES_MAX: usize = 8 << 10;

/// A statement that may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Approved {
    /// It changes nothing: `SELECT`, `SHOW`, `DESCRIBE`, `EXPLAIN`, `EXISTS`, `CHECK`.
    pub(crate) read_only: bool,
}

/// Checks statements and settings.
#[derive(Debug)]
pub(crate) struct Policy {
    bounds: Bounds,
    /// The check of a statement takes about a millisecond, and a sink always sends the same statements.
    remembered: Mutex<HashMap<Vec<u8>, Approved>>,
}

/// A policy for each role. They differ in their bounds.
#[derive(Debug)]
pub(crate) struct Policies {
    pub(crate) writer: Arc<Policy>,
    pub(crate) reader: Arc<Policy>,
}

impl Policies {
    /// Statements of the user `reader` may run for `read_max`.
    pub(crate) fn new(memory: &Memory, read_max: Duration) -> Self {
        let result_bytes = WHOLE_RESULT_BYTES_MAX;
        let writer = Bounds {
            statement_bytes: STATEMENT_BYTES_MAX,
            statement_memory_bytes: memory.statement_bytes,
            result_bytes,
            time_max: None,
            piece_bytes: None,
        };
        let reader = Bounds {
            statement_bytes: READ_STATEMENT_BYTES_MAX,
            statement_memory_bytes: memory.read_bytes,
            time_max: Some(read_max),
            piece_bytes: usize::try_from(memory.read_bytes / PIECE_PART).ok(),
            ..writer
        };
        Self { writer: Arc::new(Policy::new(writer)), reader: Arc::new(Policy::new(reader)) }
    }
}

impl Policy {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, remembered: Mutex::default() }
    }

    /// The settings of every statement, before those of its client.
    pub(crate) fn own_settings(&self) -> Vec<(&'static str, String)> {
        let memory = ("max_memory_usage", self.bounds.statement_memory_bytes.to_string());
        let time = self.bounds.time_max.map(|time| (settings::TIME, time.as_secs().to_string()));
        [memory].into_iter().chain(time).collect()
    }

    /// Checks a statement without running it. `session` must be fresh, without any of the client's settings.
    pub(crate) fn judge(
        &self,
        session: &mut Connection,
        sql: &[u8],
        parameters: &Parameters,
    ) -> Result<Approved, Exception> {
        let most = self.bounds.statement_bytes;
        if sql.len() > most {
            let message =
                format!("expected a statement of at most {most} bytes, found {}; bind long values", sql.len());
            return Err(Exception::new(62, "SYNTAX_ERROR", &message));
        }
        functions::parameters(sql, parameters)?;
        let known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(sql).copied();
        if let Some(approved) = known {
            return Ok(approved);
        }
        // The time of the engine's parser grows with the square of the depth, and nothing can interrupt it.
        nesting::check(sql)?;
        let analysis = session.analyse(sql);
        if analysis.statements > 1 {
            return Err(Exception::new(62, "SYNTAX_ERROR", "Multi-statements are not allowed"));
        }
        let canonical = canonical(session, sql)?;
        if analysis.statements == 0 {
            // The client library behind the engine would act on words such as `quit` itself.
            return Err(Exception::new(62, "SYNTAX_ERROR", "this is not a statement"));
        }
        let tokens = Tokens::read(&canonical)?;
        kinds::check(&tokens)?;
        functions::check(&tokens, functions::gives_names(sql))?;
        settings::check(&tokens, &self.bounds)?;
        let approved = Approved { read_only: analysis.read_only };
        if sql.len() <= REMEMBERED_BYTES_MAX {
            let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(sql.to_vec(), approved);
        }
        Ok(approved)
    }

    /// Checks the length of a piece of an answer, in bytes. The engine's own bounds count the values in the columns.
    /// The text can be many times longer, because it repeats the columns' names for each row, and it is copied.
    pub(crate) fn piece(&self, bytes: usize) -> Result<(), Exception> {
        match self.bounds.piece_bytes {
            Some(most) if bytes > most => Err(Exception::new(
                396,
                "TOO_MANY_ROWS_OR_BYTES",
                &format!(
                    "expected at most {most} bytes of an answer at once, found {bytes}; ask for less, or in a format that goes \
                     out as it is made, such as JSONEachRow"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The value that we use for a setting beside a statement. `None` when we leave the setting out.
    pub(crate) fn adapted<'v>(&self, name: &str, value: &'v str) -> Option<Cow<'v, str>> {
        settings::adapted(name, value, &self.bounds)
    }

    /// Checks a setting that stands beside a statement, not in it.
    pub(crate) fn setting(&self, session: &mut Connection, name: &str, value: &str) -> Result<(), Exception> {
        let Err(refused) = settings::judge(name, value, &self.bounds) else { return Ok(()) };
        // An unknown setting is a mistake and gets the engine's own error, because only the engine knows which settings
        // exist.
        let known = session.execute(format!("SELECT getSetting('{name}')").as_bytes(), "TabSeparated", &[]);
        Err(known.err().filter(|error| error.code() == 115).unwrap_or(refused))
    }
}

/// The error that says what is not allowed, and what to do.
fn denied(what: &str) -> Exception {
    Exception::new(497, "ACCESS_DENIED", what)
}

/// The engine's own spelling: keywords in upper case, one blank between words, no comments, one form of quotes.
fn canonical(session: &mut Connection, sql: &[u8]) -> Result<String, Exception> {
    let sql = std::str::from_utf8(sql).map_err(|_| {
        Exception::new(62, "SYNTAX_ERROR", "expected a statement in UTF-8; bind other bytes as parameters")
    })?;
    let parameter = [("statement".to_owned(), escaped(sql))];
    let answer = session.execute(b"SELECT formatQuerySingleLine({statement:String})", "RawBLOB", &parameter);
    match answer {
        Ok(chunk) => Ok(String::from_utf8_lossy(chunk.bytes()).into_owned()),
        Err(error) => Err(of_statement(&error)),
    }
}

/// Removes our own wrapping statement from the engine's message about the client's statement.
fn of_statement(error: &Exception) -> Exception {
    let text = error.text();
    let Some(end) = text.find(": In scope SELECT formatQuerySingleLine") else { return error.clone() };
    let name = text.rsplit_once(" (").map_or("", |(_, name)| name.trim_end_matches([')', '\n']));
    Exception::from_engine(&format!("{} ({name})", &text[..end]))
}

/// Escapes a value as ClickHouse reads the values of parameters: as in its TabSeparated.
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len() + value.len() / 16);
    for char in value.chars() {
        match char {
            '\\' => escaped.push_str("\\\\"),
            '\t' => escaped.push_str("\\t"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\0' => escaped.push_str("\\0"),
            char => escaped.push(char),
        }
    }
    escaped
}
