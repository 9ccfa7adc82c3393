//! Runs one request's statement in a session of its own, on a thread that may block. The session is fresh, and is
//! closed afterwards. So no settings, database, parameters or temporary tables can reach another request.
//!
//! It must never commit an insert whose body did not arrive completely.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;

use hyper::StatusCode;
use tokio::runtime::Handle;

use super::admission::{Admission, Kind};
use super::body::{BodyReader, Unpacked, failure_of};
use super::cancel::CancelHandle;
use super::codec::Encoding;
use super::failure::Failure;
use super::format::{self, Blocks};
use super::multipart;
use super::output::Output;
use super::request::Request;
use super::statement::{self, Extent, Head, Outline};
use super::users::Role;
use crate::engine::{Connection, Engine, Exception, Stats};
use crate::policy::{self, Approved, Policy, STATEMENT_BYTES_MAX, WHOLE_RESULT_BYTES_MAX, values_are_plain};

/// How far into a request's text we look for the beginning of an insert's data, in bytes.
const HEAD_BYTES_MAX: usize = 1 << 20;
/// How much of an insert's data goes to the engine at once, in bytes. Its queue holds 16 such pieces.
const APPEND_BYTES: usize = 256 << 10;
/// The longest `VALUES` data in which the engine may evaluate expressions, in bytes. The policy checks them first, like
/// a statement.
const EXPRESSIONS_BYTES_MAX: usize = 64 << 10;
/// The stack of a statement's thread, in bytes. The engine parses and plans by recursion. Its settings bound the depth,
/// and no client may raise them. The stack takes memory only as far as it is used.
pub(super) const STACK_BYTES: usize = 64 << 20;

/// Everything a statement needs.
pub(super) struct Job {
    pub(super) engine: Engine,
    pub(super) admission: Arc<Admission>,
    pub(super) policy: Arc<Policy>,
    pub(super) role: Role,
    pub(super) request: Request,
    pub(super) body: BodyReader,
    pub(super) output: Output,
    pub(super) cancel_handle: Arc<CancelHandle>,
    pub(super) runtime: Handle,
}

/// What the request's text turned out to be.
enum Statement {
    Plain(Vec<u8>),
    /// `begun` is the part of the data that came with the statement.
    Insert {
        sql: Vec<u8>,
        format: String,
        begun: Vec<u8>,
    },
}

/// What this request may do.
struct RequestPolicy<'policy> {
    policy: &'policy Policy,
    /// Only statements that change nothing: for a `GET`, and for the user who only reads.
    read_only: bool,
}

impl RequestPolicy<'_> {
    /// Checks the statement and the settings beside it, on a session that has none of them yet.
    fn judge(&self, session: &mut Connection, request: &Request, sql: &[u8]) -> Result<Approved, Failure> {
        request.database.as_deref().map_or(Ok(()), policy::database)?;
        let approved = match self.policy.judge(session, sql, &request.parameters) {
            Ok(approved) => approved,
            // If the client may change nothing at all, say that and not the detail.
            Err(error) if self.read_only && matches!(error.code(), 452 | 497) && !session.analyse(sql).read_only => {
                return Err(read_only());
            }
            Err(error) => return Err(error.into()),
        };
        if self.read_only && !approved.read_only {
            return Err(read_only());
        }
        for (name, value) in request.settings.iter().filter(|(name, _)| name != READONLY) {
            if let Some(value) = self.policy.adapted(name, value) {
                self.policy.setting(session, name, &value)?;
            }
        }
        Ok(approved)
    }
}

/// The one setting that the front handles itself.
const READONLY: &str = "readonly";

/// Guesses the kind of a request before its body is read. Official clients put the statement of an insert into the URL.
/// The guess only decides where the request waits until its statement is read.
pub(super) fn likely(request: &Request) -> Kind {
    match statement::head(request.query.as_bytes(), Extent::Whole) {
        Head::Insert { .. } => Kind::Insert,
        Head::Plain | Head::Undecided => Kind::Query,
    }
}

impl Job {
    /// Runs the statement to its end and answers. Blocks.
    pub(super) fn run(self) {
        let Self { engine, admission, policy, role, mut request, body, mut output, cancel_handle, runtime } = self;
        // The guard is dropped even if the thread panics. Otherwise the task "kill" would go on for ever when the
        // client leaves.
        let ended = cancel_handle.ends_with_this();
        let mut body = decoded(&request, body);
        let result = read_form(&mut request, &mut body).and_then(|()| {
            let statement = read_statement(&request, &mut body)?;
            let kind = match statement {
                Statement::Plain(_) => Kind::Query,
                Statement::Insert { .. } => Kind::Insert,
            };
            output.hold(admission.enter(role, kind, &runtime)?);
            let mut session = open(&engine)?;
            let request_policy =
                RequestPolicy { policy: &policy, read_only: request.read_only || role == Role::Reader };
            match statement {
                Statement::Plain(sql) => {
                    query(&mut session, &request, &request_policy, &sql, &mut output, &cancel_handle)
                }
                Statement::Insert { sql, format, begun } => {
                    output.set_format(format::DEFAULT);
                    insert(&mut session, &request, &request_policy, Data { sql, format, begun }, &mut body)
                }
            }
        });
        drop(body);
        drop(ended);
        match result {
            Ok(stats) => output.finish(&stats),
            Err(failure) => output.fail(failure),
        }
    }
}

fn decoded(request: &Request, body: BodyReader) -> Box<dyn Read> {
    let bytes_max = body.bytes_max();
    let body = request.content_encoding.decode(body);
    let body = if request.decompress { Encoding::Blocks.decode(body) } else { body };
    Box::new(Unpacked::new(body, bytes_max))
}

/// Reads the fields of a form. They count as URL parameters that did not fit into the URL.
fn read_form(request: &mut Request, body: &mut dyn Read) -> Result<(), Failure> {
    let Some(boundary) = request.form.take() else { return Ok(()) };
    let mut form = Vec::new();
    body.take(STATEMENT_BYTES_MAX as u64 + 1).read_to_end(&mut form).map_err(|error| failure_of(&error))?;
    if form.len() > STATEMENT_BYTES_MAX {
        return Err(Failure::body_too_large(STATEMENT_BYTES_MAX as u64));
    }
    for (name, value) in multipart::fields(&form, &boundary)? {
        request.set(&name, value)?;
    }
    Ok(())
}

/// Reads the URL, and as much of the body as belongs to the statement. The body continues the URL's text after a line
/// break.
fn read_statement(request: &Request, body: &mut dyn Read) -> Result<Statement, Failure> {
    let mut text = request.query.clone().into_bytes();
    if !text.is_empty() {
        text.push(b'\n');
    }
    let mut extent = Extent::Beginning;
    loop {
        match statement::head(&text, extent) {
            Head::Insert { end, format, data } => {
                let begun = text.split_off(data);
                text.truncate(end);
                return Ok(Statement::Insert { sql: text, format, begun });
            }
            Head::Undecided if text.len() < HEAD_BYTES_MAX => extent = read_more(body, &mut text)?,
            Head::Plain | Head::Undecided => break,
        }
    }
    while extent == Extent::Beginning {
        if text.len() > STATEMENT_BYTES_MAX {
            return Err(Failure::body_too_large(STATEMENT_BYTES_MAX as u64));
        }
        extent = read_more(body, &mut text)?;
    }
    Ok(Statement::Plain(text))
}

/// Appends the next bytes of the body.
fn read_more(body: &mut dyn Read, text: &mut Vec<u8>) -> Result<Extent, Failure> {
    let before = text.len();
    body.take(64 << 10).read_to_end(text).map_err(|error| failure_of(&error))?;
    Ok(if text.len() > before { Extent::Beginning } else { Extent::Whole })
}

fn open(engine: &Engine) -> Result<Connection, Failure> {
    engine.connect().map_err(|error| Exception::new(1001, "STD_EXCEPTION", &error.to_string()).into())
}

/// Runs a statement without data.
fn query(
    session: &mut Connection,
    request: &Request,
    request_policy: &RequestPolicy<'_>,
    sql: &[u8],
    output: &mut Output,
    cancel_handle: &CancelHandle,
) -> Result<Stats, Failure> {
    let outline = statement::outline(sql);
    if outline.first.is_empty() {
        return Err(Exception::new(62, "SYNTAX_ERROR", "Empty query").into());
    }
    let approved = request_policy.judge(session, request, sql)?;
    let blocks = blocks_of(request, &outline, approved.read_only);
    let mut own = Vec::new();
    if blocks == Blocks::Whole && !request.sets("max_result_bytes") {
        own.push(("max_result_bytes", WHOLE_RESULT_BYTES_MAX.to_string()));
        own.push(("result_overflow_mode", "throw".to_owned()));
    }
    if approved.read_only {
        own.push(("log_comment", cancel_handle.comment().to_owned()));
    }
    prepare(session, request, request_policy, &own)?;
    if approved.read_only && !cancel_handle.arm() {
        return Err(client_gone());
    }
    let format = request.output_format(&outline);
    policy::format(format)?;
    output.set_format(format);
    if blocks != Blocks::Whole {
        return stream(session, request, request_policy, sql, format, blocks, output);
    }
    let chunk = session.execute(sql, format, &request.parameters)?;
    let stats = chunk.stats();
    request_policy.policy.piece(chunk.bytes().len())?;
    output.write(chunk.bytes(), &stats).map_err(|_| client_gone())?;
    Ok(stats)
}

/// Only a `SELECT` can be streamed, and only if the blocks of its format can be joined.
fn blocks_of(request: &Request, outline: &Outline, read_only: bool) -> Blocks {
    let select = read_only && matches!(outline.first.as_str(), "SELECT" | "WITH" | "FROM" | "(");
    if !select || outline.framed || request.sets("output_format_json_array_of_rows") || request.sets("extremes") {
        return Blocks::Whole;
    }
    format::blocks(request.output_format(outline))
}

fn stream(
    session: &mut Connection,
    request: &Request,
    request_policy: &RequestPolicy<'_>,
    sql: &[u8],
    format: &str,
    blocks: Blocks,
    output: &mut Output,
) -> Result<Stats, Failure> {
    let mut stats = Stats::default();
    let mut header: Option<Vec<u8>> = None;
    let mut rows = session.stream(sql, format, &request.parameters)?;
    while let Some(chunk) = rows.next()? {
        stats += chunk.stats();
        let bytes = chunk.bytes();
        request_policy.policy.piece(bytes.len())?;
        let fresh = match (blocks, &header) {
            (Blocks::Headed(_), Some(header)) => bytes.strip_prefix(header.as_slice()).unwrap_or(bytes),
            (Blocks::Headed(shape), None) => {
                header = Some(bytes[..shape.length(bytes)].to_vec());
                bytes
            }
            (Blocks::Append | Blocks::Whole, _) => bytes,
        };
        output.write(fresh, &stats).map_err(|_| client_gone())?;
    }
    Ok(stats)
}

/// An insert's statement, and the data that came with it.
struct Data {
    sql: Vec<u8>,
    format: String,
    begun: Vec<u8>,
}

fn insert(
    session: &mut Connection,
    request: &Request,
    request_policy: &RequestPolicy<'_>,
    mut data: Data,
    body: &mut dyn Read,
) -> Result<Stats, Failure> {
    let judged = [&data.sql, b" FORMAT ".as_slice(), data.format.as_bytes()].concat();
    request_policy.judge(session, request, &judged)?;
    let mut own = Vec::new();
    if data.format.eq_ignore_ascii_case("Values") {
        body.take(EXPRESSIONS_BYTES_MAX as u64).read_to_end(&mut data.begun).map_err(|error| failure_of(&error))?;
        if data.begun.len() < EXPRESSIONS_BYTES_MAX && values_are_plain(session, &data.begun) {
            own.push(("input_format_values_interpret_expressions", "1".to_owned()));
        }
    }
    prepare(session, request, request_policy, &own)?;
    let mut insert = session.insert(&data.sql, &data.format, &request.parameters)?;
    let mut taking = data.begun.is_empty() || insert.append(&data.begun);
    let mut piece = Vec::with_capacity(APPEND_BYTES);
    while taking {
        piece.clear();
        // An error drops the insert, and that cancels it.
        body.take(APPEND_BYTES as u64).read_to_end(&mut piece).map_err(|error| failure_of(&error))?;
        if piece.is_empty() {
            break;
        }
        taking = insert.append(&piece);
    }
    Ok(insert.finish()?)
}

/// Sets up the session: the request's database, our settings, then the client's. If the request may change nothing, it
/// makes the session read-only as the last step.
fn prepare(
    session: &mut Connection,
    request: &Request,
    request_policy: &RequestPolicy<'_>,
    own: &[(&str, String)],
) -> Result<(), Failure> {
    if let Some(database) = &request.database {
        let name = database.replace('\\', "\\\\").replace('`', "\\`");
        session.execute(format!("USE `{name}`").as_bytes(), format::DEFAULT, &[])?;
    }
    let bounds = request_policy.policy.own_settings();
    let own = bounds.iter().chain(own).map(|(name, value)| (*name, value.as_str()));
    let theirs = request.settings.iter().filter(|(name, _)| name != READONLY);
    let theirs = theirs.filter_map(|(name, value)| Some((name.as_str(), request_policy.policy.adapted(name, value)?)));
    let all = own.map(|(name, value)| (name, Cow::Borrowed(value))).chain(theirs);
    let changes: Vec<String> = all.map(|(name, value)| format!("{name} = {}", quoted(&value))).collect();
    if !changes.is_empty() {
        session.execute(format!("SET {}", changes.join(", ")).as_bytes(), format::DEFAULT, &[])?;
    }
    match request.settings.iter().find(|(name, _)| name == READONLY).map(|(_, value)| value.as_str()) {
        Some(level @ ("1" | "2")) => set_read_only(session, level),
        Some(_) if request_policy.read_only => Err(read_only()),
        // Level 2 allows settings in the statement. Level 1 would not.
        None if request_policy.read_only => set_read_only(session, "2"),
        None | Some(_) => Ok(()),
    }
}

fn set_read_only(session: &mut Connection, level: &str) -> Result<(), Failure> {
    let statement = format!("SET readonly = {level}");
    session.execute(statement.as_bytes(), format::DEFAULT, &[]).map(drop).map_err(Failure::from)
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn read_only() -> Failure {
    let message = "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly, and \
                   the user reader only reads. You should use method POST and the user default for modifying queries.";
    Exception::new(164, "READONLY", message).into()
}

/// Ends the statement. Nobody reads this failure.
fn client_gone() -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, 394, "QUERY_WAS_CANCELLED", "the client is gone")
}

impl Request {
    /// The output's format: the statement's own, else the client's default, else ClickHouse's.
    fn output_format<'a>(&'a self, outline: &'a Outline) -> &'a str {
        outline.format.as_deref().or(self.default_format.as_deref()).unwrap_or(format::DEFAULT)
    }
}
