//! A request's body that tells its connection how much of it has come.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connections::Connection;

/// A body as it comes in.
pub(super) struct Watched {
    incoming: Incoming,
    connection: Connection,
}

impl Watched {
    pub(super) const fn new(incoming: Incoming, connection: Connection) -> Self {
        Self { incoming, connection }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.connection.came(frame.data_ref().map_or(0, Bytes::len));
        }
        if frame.is_none() || self.incoming.is_end_stream() {
            self.connection.request_is_in();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
