//! A client that speaks NATS' protocol itself. The server answers a `PING` after everything that was sent before it. So
//! the client sees every refusal, and need not wait for one.

use headrace::nats::users::User;
use headrace_local::nats;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::password;

/// A connection.
pub(crate) struct Wire(BufReader<TcpStream>);

impl Wire {
    /// Connects as `user`.
    pub(crate) async fn of(server: &nats::Running, user: User) -> Self {
        Self::connect(server, Some((user.name(), &password(user)))).await.unwrap()
    }

    /// Connects with a user's name and password. The error is the server's refusal.
    pub(crate) async fn connect(server: &nats::Running, login: Option<(&str, &str)>) -> Result<Self, String> {
        let mut wire = Self(BufReader::new(TcpStream::connect(server.address()).await.unwrap()));
        assert!(wire.line().await.starts_with("INFO "));
        let login = login.map(|(user, pass)| format!(r#","user":"{user}","pass":"{pass}""#)).unwrap_or_default();
        let connect = format!(r#"CONNECT {{"verbose":false,"pedantic":false,"headers":true{login}}}"#);
        wire.ask(&connect).await.map(|()| wire)
    }

    /// Whether it may publish to `subject`. If it may, it has published an empty message.
    pub(crate) async fn may_publish(&mut self, subject: &str) -> bool {
        self.is_allowed(&format!("PUB {subject} 0\r\n"), subject).await
    }

    /// Whether it may subscribe to `subject`.
    pub(crate) async fn may_subscribe(&mut self, subject: &str) -> bool {
        self.is_allowed(&format!("SUB {subject} 1"), subject).await
    }

    async fn is_allowed(&mut self, command: &str, subject: &str) -> bool {
        match self.ask(command).await {
            Ok(()) => true,
            Err(refusal) => {
                assert!(refusal.contains("Permissions Violation"), "{subject}: {refusal}");
                false
            }
        }
    }

    /// Sends `command`. The error is the server's refusal.
    async fn ask(&mut self, command: &str) -> Result<(), String> {
        self.0.write_all(format!("{command}\r\nPING\r\n").as_bytes()).await.unwrap();
        let mut refusal = None;
        loop {
            match self.line().await.as_str() {
                "PONG" => return refusal.map_or(Ok(()), Err),
                "" => return Err(refusal.unwrap_or_else(|| "the connection is closed".to_owned())),
                line if line.starts_with("-ERR") => refusal = refusal.or(Some(line.to_owned())),
                _ => {}
            }
        }
    }

    /// The next line. Empty at the end of the connection.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        // A server that refuses somebody may also reset the connection.
        let _ = self.0.read_line(&mut line).await;
        line.trim_end().to_owned()
    }
}
