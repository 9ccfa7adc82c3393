//! The smallest HTTP/1.1 client that a load needs: it writes whole requests, and reads an answer's status and length.
//!
//! Use it for nothing else: it refuses answers that the gateway does not send, such as chunked ones or long heads.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest answer that it accepts, head and body, in bytes.
const ANSWER_MAX_BYTES: usize = 8 << 10;

/// A kept-alive connection with at most one request under way.
pub(crate) struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

/// What an answer's head says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Bytes of head and body together.
    length: usize,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: Vec::with_capacity(ANSWER_MAX_BYTES) })
    }

    /// Sends `request` and reads its whole answer. Returns the status.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match head(&self.answer)? {
                Some(head) if self.answer.len() == head.length => return Ok(head.status),
                Some(head) if self.answer.len() > head.length => return Err(invalid("more than one answer")),
                _ if self.answer.len() >= ANSWER_MAX_BYTES => return Err(invalid("an answer too long")),
                _ => {}
            }
        }
    }

    /// The last answer's body.
    pub(crate) fn body(&self) -> &[u8] {
        self.answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(&[], |end| &self.answer[end + 4..])
    }
}

/// Asks `address` for `path` over a connection of its own. Returns status and body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut connection = Connection::open(address).await?;
    let status = connection.exchange(format!("GET {path} HTTP/1.1\r\nHost: headrace.bench\r\n\r\n").as_bytes()).await?;
    Ok((status, connection.body().to_vec()))
}

fn invalid(found: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("expected one answer with its length, found {found}"))
}

/// Reads the head, if it is complete.
fn head(answer: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..end]).map_err(|_| invalid("no text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match (status, length) {
        (Some(status), Some(length)) => Ok(Some(Head { status, length: end + 4 + length })),
        _ => Err(invalid("another head")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_tells_its_status_and_length() {
        let told = |answer: &str| head(answer.as_bytes()).map_err(|error| error.kind());
        let answer = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(told(answer), Ok(Some(Head { status: 202, length: answer.len() })));
        assert_eq!(told("HTTP/1.1 202 Accepted\r\ncontent-le"), Ok(None));
        assert_eq!(told("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(io::ErrorKind::InvalidData));
        assert_eq!(told("SMTP\r\n\r\n"), Err(io::ErrorKind::InvalidData));
    }
}
