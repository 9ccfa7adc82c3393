//! The HTTP server under every stand-in. It listens on a free port of this machine, and fails on command.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use crate::harness::servers;

/// How many ports to try.
const BINDS_MAX: usize = 16;

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Answers with this status and the stand-in's own error body.
    Status(u16),
    /// The same, with `Retry-After` in seconds.
    StatusAfter(u16, u64),
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    Reset,
    /// Answers with a page that does not follow the protocol, and with [`Protocol::garbage_status`].
    Garbage,
    /// Begins an answer with 200 and breaks off in its body.
    Torn,
    /// Answers correctly, but only after [`Server::release`].
    Hold,
}

/// When a request fails: before its effect or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The request has no effect.
    Before,
    /// The request has its effect, and only its answer is lost.
    After,
}

/// Which requests fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All requests.
    Any,
    /// Only requests that bring events or tickets.
    Deliveries,
}

/// A request that was received.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The request line: `POST /path?query`.
    pub line: String,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, unchanged.
    pub body: Vec<u8>,
}

impl Recorded {
    /// A header's first value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// What a protocol adds to the server.
pub trait Protocol: Send + Sync + 'static {
    /// Whether the request brings something that the receiver keeps.
    fn is_delivery(&self, method: &Method, uri: &Uri) -> bool;
    /// The body of an error answer.
    fn error_body(&self, status: u16) -> String;
    /// The status of an answer that does not follow the protocol.
    fn garbage_status(&self) -> StatusCode {
        StatusCode::OK
    }
}

struct Plan {
    failure: Failure,
    when: When,
    which: Which,
    left: usize,
}

struct Shared<P> {
    protocol: P,
    router: Router,
    plans: Mutex<VecDeque<Plan>>,
    recorded: Mutex<Vec<Recorded>>,
    held: watch::Sender<usize>,
    released: watch::Sender<usize>,
}

/// A running server. Dropping this stops it at once.
pub struct Server<P> {
    address: SocketAddr,
    shared: Arc<Shared<P>>,
    tasks: Mutex<Option<JoinSet<()>>>,
}

/// Listens on a port that nobody else is given while the server is down.
async fn listen() -> (SocketAddr, TcpListener) {
    // Another process may take the port between the two.
    for _ in 0..BINDS_MAX {
        let address = servers::free_address().expect("loopback has free ports");
        if let Ok(listener) = TcpListener::bind(address).await {
            return (address, listener);
        }
    }
    panic!("expected a port of loopback that stays free for a moment, found none in {BINDS_MAX}");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: Protocol> Server<P> {
    /// Serves `router` on a free port.
    pub async fn start(protocol: P, router: Router) -> Self {
        let shared = Shared {
            protocol,
            router,
            plans: Mutex::default(),
            recorded: Mutex::default(),
            held: watch::Sender::new(0),
            released: watch::Sender::new(0),
        };
        let (address, listener) = listen().await;
        let server = Self { address, shared: Arc::new(shared), tasks: Mutex::default() };
        server.serve(listener);
        server
    }

    fn serve(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // The connections are in a set of their own, so they end with the server.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                connections.spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new();
                    // For `Reset`, an error is what we want.
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        *lock(&self.tasks) = Some(tasks);
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes the next `times` requests fail in this way, after the failures that were planned before.
    pub fn fail_next(&self, times: usize, failure: Failure, when: When, which: Which) {
        lock(&self.shared.plans).push_back(Plan { failure, when, which, left: times });
    }

    /// Fails no more: drops what was planned.
    pub fn recover(&self) {
        lock(&self.shared.plans).clear();
    }

    /// How many planned failures are left.
    #[must_use]
    pub fn failures_left(&self) -> usize {
        lock(&self.shared.plans).iter().map(|plan| plan.left).sum()
    }

    /// Refuses connections until [`Server::up`], and cuts those that are open.
    pub fn down(&self) {
        drop(lock(&self.tasks).take());
    }

    /// Accepts connections again, on the same port.
    pub async fn up(&self) {
        let listener = headrace_local::poll::until("the port is free again", Duration::from_secs(60), async || {
            TcpListener::bind(self.address).await.ok()
        });
        self.serve(listener.await.expect("nobody else takes the port"));
    }

    /// How many requests the server has held so far.
    #[must_use]
    pub fn held(&self) -> usize {
        *self.shared.held.borrow()
    }

    /// Releases all held requests.
    pub fn release(&self) {
        let held = self.held();
        self.shared.released.send_replace(held);
    }

    /// Every request so far.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        lock(&self.shared.recorded).clone()
    }
}

async fn answer<P: Protocol>(shared: Arc<Shared<P>>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let broken_off = |_| io::Error::other("the client broke off");
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(broken_off)?.to_bytes();
    let header = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    lock(&shared.recorded).push(Recorded {
        line: format!("{} {}", parts.method, parts.uri),
        headers: parts.headers.iter().map(header).collect(),
        body: body.to_vec(),
    });
    let is_delivery = shared.protocol.is_delivery(&parts.method, &parts.uri);
    let plan = next_plan(&shared, is_delivery);
    let request = Request::from_parts(parts, Body::from(body));
    let effect = || async {
        let answered = shared.router.clone().oneshot(request).await;
        answered.unwrap_or_else(|never| match never {})
    };
    match plan {
        None => Ok(effect().await),
        Some((Failure::Hold, When::Before)) => {
            hold(&shared).await;
            Ok(effect().await)
        }
        Some((Failure::Hold, When::After)) => {
            let answer = effect().await;
            hold(&shared).await;
            Ok(answer)
        }
        Some((failure, when)) => {
            if when == When::After {
                effect().await;
            }
            fail(&shared.protocol, failure).await
        }
    }
}

fn next_plan<P>(shared: &Shared<P>, is_delivery: bool) -> Option<(Failure, When)> {
    let mut plans = lock(&shared.plans);
    let plan = plans.front_mut()?;
    if plan.which == Which::Deliveries && !is_delivery {
        return None;
    }
    plan.left -= 1;
    let next = (plan.failure, plan.when);
    if plan.left == 0 {
        plans.pop_front();
    }
    Some(next)
}

async fn hold<P>(shared: &Shared<P>) {
    let mut released = shared.released.subscribe();
    let mut own = 0;
    shared.held.send_modify(|held| {
        *held += 1;
        own = *held;
    });
    let _ = released.wait_for(|released| *released >= own).await;
}

async fn fail(protocol: &impl Protocol, failure: Failure) -> io::Result<Response<Body>> {
    let page = || Body::from("<!DOCTYPE html><title>Sign in</title>");
    let response = Response::builder();
    let built = match failure {
        Failure::Status(status) => response.status(status).body(Body::from(protocol.error_body(status))),
        Failure::StatusAfter(status, seconds) => {
            let response = response.status(status).header(header::RETRY_AFTER, seconds);
            response.body(Body::from(protocol.error_body(status)))
        }
        Failure::Hang | Failure::Hold => std::future::pending().await,
        Failure::Reset => return Err(io::Error::other("reset on command")),
        Failure::Garbage => {
            response.status(protocol.garbage_status()).header(header::CONTENT_TYPE, "text/html").body(page())
        }
        // The announced bytes never come, and hyper closes the connection.
        Failure::Torn => response.header(header::CONTENT_LENGTH, 4_096).body(page()),
    };
    built.map_err(io::Error::other)
}
