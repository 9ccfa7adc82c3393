//! A TCP proxy between a process and a server. On command it misbehaves as networks do.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How the network misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Impairment {
    /// Nothing arrives. Afterwards, the connections turn out to be dead.
    Drop,
    /// Everything takes this much longer.
    Delay(Duration),
    /// Connections are reset, even new ones.
    Reset,
    /// In each direction, the next data is cut in the middle, and its connection is closed.
    Truncate,
    /// Requests arrive, but answers take this much longer.
    Late(Duration),
    /// Requests arrive once more, on a connection of their own. Nobody reads the second answer.
    Repeat,
}

/// A proxy. Dropping this ends it, with its connections.
pub(super) struct Proxy {
    address: SocketAddr,
    impairment: watch::Sender<Option<Impairment>>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to `target`.
    pub(super) async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let impairment = watch::Sender::new(None);
        let mut tasks = JoinSet::new();
        let observer = impairment.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(connection(client, target, observer.subscribe()));
            }
        });
        Ok(Self { address, impairment, _tasks: tasks })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Misbehaves for `duration`.
    pub(super) async fn impair(&self, impairment: Impairment, duration: Duration) {
        self.impairment.send_replace(Some(impairment));
        sleep(duration).await;
        self.heal();
    }

    /// Behaves well again.
    pub(super) fn heal(&self) {
        self.impairment.send_replace(None);
    }
}

async fn connection(client: TcpStream, target: SocketAddr, impairment: watch::Receiver<Option<Impairment>>) {
    if matches!(*impairment.borrow(), Some(Impairment::Reset)) {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let asked = PendingRequest { target, bytes: Mutex::default() };
    let mut reset = impairment.clone();
    let is_reset = reset.wait_for(|impairment| matches!(impairment, Some(Impairment::Reset)));
    // When one direction ends, end both: nobody here needs half-closed connections.
    tokio::select! {
        () = pass(client_read, server_write, impairment.clone(), Direction::Request, &asked) => {}
        () = pass(server_read, client_write, impairment.clone(), Direction::Answer, &asked) => {}
        _ = is_reset => {}
    }
}

/// The request bytes on a connection since its last answer.
struct PendingRequest {
    target: SocketAddr,
    bytes: Mutex<Vec<u8>>,
}

impl PendingRequest {
    fn note(&self, bytes: &[u8]) {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }

    /// Sends them again.
    async fn repeat(&self) {
        let bytes = std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        if bytes.is_empty() {
            return;
        }
        let ask = async {
            let mut server = TcpStream::connect(self.target).await?;
            server.write_all(&bytes).await?;
            server.read(&mut [0; 1024]).await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), ask).await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut impairment: watch::Receiver<Option<Impairment>>,
    direction: Direction,
    asked: &PendingRequest,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let now = *impairment.borrow_and_update();
        match now {
            None | Some(Impairment::Reset) => {}
            Some(Impairment::Drop) => {
                // A connection that missed data cannot go on, so end it.
                let _ = impairment.wait_for(|impairment| *impairment != now).await;
                return;
            }
            Some(Impairment::Delay(by)) => sleep(by).await,
            Some(Impairment::Late(by)) if direction == Direction::Answer => sleep(by).await,
            Some(Impairment::Late(_)) => {}
            Some(Impairment::Repeat) if direction == Direction::Request => asked.note(&buffer[..count]),
            Some(Impairment::Repeat) => asked.repeat().await,
            Some(Impairment::Truncate) => {
                let _ = to.write_all(&buffer[..count / 2]).await;
                return;
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
