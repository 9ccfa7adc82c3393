//! Turns one HTTP request into one answer: routes, credentials, and the head of the answer with ClickHouse's own
//! headers. Nothing here may block or compute. `job` runs the statement on a thread of its own.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::body::{self, BodyLimits};
use super::cancel::{CancelHandle, Waiting};
use super::codec::Encoding;
use super::connections::{ConnectionGuard, State};
use super::failure::Failure;
use super::format;
use super::job::{self, Job};
use super::origin::AllowedHosts;
use super::output::{Answer, Output, OutputOptions, Payload};
use super::request::{Credentials, Request};
use super::users::{Role, Users};
use crate::engine::{Engine, Stats};
use crate::policy::Policies;

/// What every request needs from the server.
pub(super) struct Server {
    pub(super) engine: Engine,
    pub(super) admission: Arc<Admission>,
    pub(super) policies: Policies,
    pub(super) body_limits: BodyLimits,
    pub(super) users: Users,
    pub(super) allowed_hosts: AllowedHosts,
    pub(super) timezone: String,
    pub(super) tasks: TaskTracker,
}

/// The other side of the connection that brought a request.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) guard: Arc<ConnectionGuard>,
    /// The address that the client connected to.
    pub(super) local: SocketAddr,
}

/// Answers one request. Errors are answers too.
pub(super) async fn answer(
    server: Arc<Server>,
    peer: Peer,
    request: hyper::Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let asks = request.uri().query().is_some_and(|query| !query.is_empty());
    let reading = request.method() == Method::GET || request.method() == Method::HEAD;
    Ok(match request.uri().path() {
        "/ping" | "/replicas_status" if reading => text("Ok.\n"),
        "/" if reading && !asks => text("Ok.\n"),
        "/" if reading || request.method() == Method::POST => statement(&server, &peer, request).await,
        "/" => refused(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD and POST are understood\n"),
        _ => refused(StatusCode::NOT_FOUND, "There is no such handle; statements go to /\n"),
    })
}

async fn statement(server: &Arc<Server>, peer: &Peer, request: hyper::Request<Incoming>) -> Response<AnswerBody> {
    let (head, incoming) = request.into_parts();
    // Check this before anything else, so that a stranger gets no place, no thread and no memory.
    let known = server.allowed_hosts.check(&head, peer.local);
    let role = match known.and_then(|()| server.users.authenticate(&Credentials::parse(&head))) {
        Ok(role) => role,
        Err(failure) => return failed(&failure, None),
    };
    peer.guard.set(State::Sending);
    let answer = match Request::parse(&head) {
        Ok(request) => run(server, peer, request, role, incoming).await,
        Err(failure) => failed(&failure, None),
    };
    if answer.body().in_use.is_none() {
        peer.guard.set(State::Idle);
    }
    answer
}

/// Starts the statement on its thread, feeds the body to it, and waits for the head of its answer.
async fn run(
    server: &Arc<Server>,
    peer: &Peer,
    request: Request,
    role: Role,
    mut incoming: Incoming,
) -> Response<AnswerBody> {
    let kind = job::likely(&request);
    let beginning = body::begin(&mut incoming, &server.body_limits).await;
    let admitted = beginning.and_then(|beginning| Ok((beginning, server.admission.admit(role, kind)?)));
    let (beginning, admission) = match admitted {
        Ok(admitted) => admitted,
        Err(failure) => return failed(&failure, Some(&request.query_id)),
    };
    peer.guard.set(State::Busy);
    let cancel_handle = CancelHandle::new();
    let runtime = Handle::current();
    let info = ResponseInfo {
        query_id: request.query_id.clone(),
        tag: cancel_handle.tag(),
        // As in ClickHouse, its own blocks take precedence over content encodings.
        encoding: if request.compress { Encoding::Blocks } else { request.accept_encoding },
    };
    let options = OutputOptions {
        encoding: info.encoding,
        hold: request.wait_end_of_query,
        tag: info.tag.clone(),
        idle_max: server.body_limits.idle_max,
    };
    let (answer_sender, answer) = oneshot::channel();
    let (pump, reader) = body::channel(server.body_limits, beginning);
    let waiting = Waiting {
        cancel_handle: Arc::clone(&cancel_handle),
        engine: server.engine.clone(),
        tasks: server.tasks.clone(),
        runtime: runtime.clone(),
    };
    let job = Job {
        engine: server.engine.clone(),
        admission: Arc::clone(&server.admission),
        policy: Arc::clone(match role {
            Role::Reader => &server.policies.reader,
            Role::Writer => &server.policies.writer,
        }),
        role,
        request,
        body: reader,
        output: Output::new(answer_sender, options, runtime.clone()),
        cancel_handle,
        runtime,
    };
    if let Err(error) = start_thread(job, (admission, server.tasks.token())) {
        tracing::warn!(%error, "cannot start a thread for a statement");
        return failed(&Failure::no_thread(), Some(&info.query_id));
    }
    let is_short = || server.admission.is_short(role, kind);
    let ((), answer) = tokio::join!(pump.run(incoming, is_short), answer);
    match answer {
        Ok(Answer::Failed(failure)) => failed(&failure, Some(&info.query_id)),
        Ok(Answer::Started { format, stats, payload }) => {
            let in_use = Some(InUse { _waiting: waiting, guard: Arc::clone(&peer.guard) });
            let body = AnswerBody { payload, broken: None, in_use };
            started(server, &info, &format, &stats, body)
        }
        // The thread panicked; the panic is in the log.
        Err(_) => failed(&Failure::panicked(), Some(&info.query_id)),
    }
}

/// Starts the statement on a thread of its own. The thread keeps `held` until the statement has ended.
fn start_thread(job: Job, held: impl Send + 'static) -> io::Result<()> {
    // Task "statement": ends by itself, or earlier if its client leaves.
    let thread = std::thread::Builder::new().name("statement".into()).stack_size(job::STACK_BYTES);
    let started = thread.spawn(move || {
        let _held = held;
        job.run();
    });
    started.map(drop)
}

/// What the head of an answer says about its request.
struct ResponseInfo {
    query_id: String,
    tag: String,
    encoding: Encoding,
}

fn started(
    server: &Server,
    info: &ResponseInfo,
    format: &str,
    stats: &Stats,
    body: AnswerBody,
) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format::content_type(format)));
    if let Some(encoding) = info.encoding.name() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    let mut set = |name: &'static str, value: &str| {
        // The client chooses the query id. If it is not a valid header value, leave it out.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("x-clickhouse-query-id", &info.query_id);
    set("x-clickhouse-format", format);
    set("x-clickhouse-timezone", &server.timezone);
    set("x-clickhouse-server-display-name", super::DISPLAY_NAME);
    set("x-clickhouse-summary", &summary(stats));
    set("x-clickhouse-exception-tag", &info.tag);
    response
}

/// ClickHouse writes the numbers as strings.
fn summary(stats: &Stats) -> String {
    serde_json::json!({
        "read_rows": stats.read_rows.to_string(),
        "read_bytes": stats.read_bytes.to_string(),
        "written_rows": stats.written_rows.to_string(),
        "written_bytes": stats.written_bytes.to_string(),
        "total_rows_to_read": "0",
        "result_rows": stats.result_rows.to_string(),
        "result_bytes": stats.result_bytes.to_string(),
        "elapsed_ns": ((stats.elapsed * 1e9) as u64).to_string(),
    })
    .to_string()
}

fn failed(failure: &Failure, query_id: Option<&str>) -> Response<AnswerBody> {
    let mut response = refused(failure.status, &format!("{}\n", failure.exception.text()));
    let headers = response.headers_mut();
    headers.insert("x-clickhouse-exception-code", HeaderValue::from(failure.exception.code()));
    headers.insert("x-clickhouse-server-display-name", HeaderValue::from_static(super::DISPLAY_NAME));
    if let Some(query_id) = query_id.and_then(|id| HeaderValue::from_str(id).ok()) {
        headers.insert("x-clickhouse-query-id", query_id);
    }
    response
}

fn text(body: &'static str) -> Response<AnswerBody> {
    refused(StatusCode::OK, body)
}

fn refused(status: StatusCode, body: &str) -> Response<AnswerBody> {
    let payload = Payload::Whole(Bytes::copy_from_slice(body.as_bytes()));
    let mut response = Response::new(AnswerBody { payload, broken: None, in_use: None });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    response
}

/// The body of an answer. Dropping it tells the statement that its client has left.
pub(super) struct AnswerBody {
    payload: Payload,
    /// The error to return at the next poll.
    broken: Option<io::Error>,
    in_use: Option<InUse>,
}

/// What an answer holds until all of it has gone out.
struct InUse {
    _waiting: Waiting,
    guard: Arc<ConnectionGuard>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.guard.set(State::Idle);
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Self { payload, broken, .. } = &mut *self;
        match payload {
            Payload::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Payload::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Payload::Pieces(pieces) => poll_piece(pieces, broken, context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.payload, Payload::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Pieces(_) => SizeHint::default(),
        }
    }
}

fn poll_piece(
    pieces: &mut mpsc::Receiver<io::Result<Bytes>>,
    broken: &mut Option<io::Error>,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
    if let Some(error) = broken.take() {
        return Poll::Ready(Some(Err(error)));
    }
    match pieces.poll_recv(context) {
        // When a poll returns an error, hyper drops what it has not written yet, even the in-band error text. When a
        // poll finds nothing, hyper writes that text. So return the error only at the next poll.
        Poll::Ready(Some(Err(error))) => {
            *broken = Some(error);
            context.waker().wake_by_ref();
            Poll::Pending
        }
        piece => piece.map(|piece| piece.map(|piece| piece.map(Frame::data))),
    }
}
