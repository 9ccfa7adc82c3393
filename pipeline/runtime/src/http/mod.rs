//! The HTTP server under the gateway and under the port for operators: bounded connections, bounded time for
//! heads, a graceful end.
//!
//! It accepts for as long as a place is free or can be made free; [`connections`] decides whose. What a request means
//! is up to the routes. `axum::serve` is not used, because it bounds neither connections nor heads.

pub mod admin;
pub mod connections;
mod open_files;
mod watched;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::connections::{Connections, Waiting};
use self::watched::Watched;

/// GitHub's headers are about 1 KiB. The buffer also carries the body, so it is not tiny.
const BUFFER_MAX_BYTES: usize = 64 << 10;
/// How often to look through the connections while no place is free.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Serves `routes` on `listener` until `stop`; then accepts nothing more and lets requests under way finish. A
/// connection that brings no complete head within `head_max` is closed. Each request has its
/// [`connections::Connection`] among its extensions.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    connections: &Connections,
    head_max: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(connections.max()));
    let graceful = GracefulShutdown::new();
    // Connections are short-lived children of this task, which the supervisor names and stops.
    let mut tasks = JoinSet::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(head_max)
        .max_buf_size(BUFFER_MAX_BYTES)
        // A client that has sent everything may close its side and still gets the answer. A client that is gone for
        // good is noticed when the answer is written; a request's time limit bounds how long that takes.
        .half_close(true);
    loop {
        while tasks.try_join_next().is_some() {}
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // The peer is gone already, or there are no more descriptors. Other connections may still succeed.
                Err(error) => {
                    recover(&error, connections).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let place = tokio::select! {
            place = find_place(&places, connections) => place?,
            () = stop.cancelled() => break,
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let opened = connections.open(peer.ip());
        let routes = TowerToHyperService::new(routes.clone());
        let own = opened.connection().clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (routes, own) = (routes.clone(), own.clone());
            own.request_began(request.body().is_end_stream());
            request.extensions_mut().insert(own.clone());
            async move {
                let body = own.clone();
                let response = routes.call(request.map(|incoming| Watched::new(incoming, body))).await;
                own.answered();
                response
            }
        });
        let served = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tasks.spawn(async move {
            tokio::select! {
                ended = served => if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended early");
                },
                () = opened.connection().dropped() => {}
            }
            drop((opened, place));
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

/// A place for one more connection. When there is none, connections that only wait make room.
async fn find_place(places: &Arc<Semaphore>, connections: &Connections) -> anyhow::Result<OwnedSemaphorePermit> {
    loop {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Ok(place);
        }
        connections.shed(Waiting::ForAnything);
        tokio::select! {
            place = Arc::clone(places).acquire_owned() => return Ok(place?),
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

async fn recover(error: &io::Error, connections: &Connections) {
    connections.shed(Waiting::ForAnything);
    connections.cannot_accept(error);
    sleep(LOOK_EVERY).await;
}
