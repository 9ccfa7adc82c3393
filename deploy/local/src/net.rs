//! Ports and readiness: finds a free port, tells who holds a taken one, and sends the smallest possible HTTP request to
//! a server on this machine. It is for loopback probes only and must not become an HTTP client.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long one probe may take.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// The first port that [`free_port`] returns. Most well-known servers listen on lower ports.
const FIRST_PORT: u16 = 10_000;
/// How many ports [`free_port`] tries.
const PORTS_TRIED: u64 = 64;

/// Finds a port on which nobody listens. The port is outside the range from which the kernel assigns ports to outgoing
/// connections, or to programs that ask for any port. So a server that is restarted finds its port still free. Another
/// program may still take the port before you use it. Then try again with another one.
///
/// # Errors
/// When nothing can listen on `host`.
pub fn free_port(host: IpAddr) -> std::io::Result<u16> {
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(0)));
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ours = u64::from(given_from(&range).saturating_sub(FIRST_PORT));
    for _ in 0..PORTS_TRIED {
        let Some(offset) = NEXT.fetch_add(1, Ordering::Relaxed).checked_rem(ours) else { break };
        let port = FIRST_PORT + u16::try_from(offset).unwrap_or_default();
        if TcpListener::bind((host, port)).is_ok() {
            return Ok(port);
        }
    }
    // No port was free outside the range that the kernel assigns, so take one from it.
    Ok(TcpListener::bind((host, 0))?.local_addr()?.port())
}

/// The first port that the kernel assigns, read from the text of its setting. 0 if the text has no number.
fn given_from(range: &str) -> u16 {
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Whether a program listens at `address`.
pub(crate) fn is_taken(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// The program that listens on a port, if this user may see it: `nats-server (process 4711)`.
#[must_use]
pub fn listener_on(port: u16) -> String {
    owner(port).unwrap_or_else(|| "owner unknown, perhaps another user's".to_owned())
}

fn owner(port: u16) -> Option<String> {
    let sockets: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening(&table, port))
        .collect();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // Skip `/proc/self`: the process behind it is also listed by its number.
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        // Follow the link: the table shows the inode number of the socket itself.
        let holds = files
            .flatten()
            .any(|file| fs::metadata(file.path()).is_ok_and(|metadata| sockets.contains(&metadata.ino())));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

/// The inodes of the listening sockets in a table of `/proc/net`.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // State 0A is LISTEN.
        let matches = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
        matches.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().filter_map(socket).collect()
}

/// The status of `GET path`. `None` if there is no HTTP answer.
pub(crate) async fn http_status(address: SocketAddr, path: &str) -> Option<u16> {
    http_answer(address, path).await.map(|(status, _)| status)
}

/// The status of an HTTP answer, and the beginning of its body, at most some kilobytes. `None` if there is no answer.
pub(crate) async fn http_answer(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(8 << 10).read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((status, body.to_owned()))
    };
    tokio::time::timeout(PROBE_MAX, asking).await.ok()?
}

/// The first text that a server sends to a new client, at most some hundred bytes.
pub(crate) async fn greeting(address: SocketAddr) -> Option<String> {
    let probing = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let mut answer = [0; 512];
        let length = stream.read(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer[..length]).into_owned())
    };
    tokio::time::timeout(PROBE_MAX, probing).await.ok()?
}

/// The address at which to probe a server that listens on `listen`, which may mean all interfaces.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(match listen.ip() {
            IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::{FIRST_PORT, free_port, given_from, is_taken, listener_on, listening};

    #[test]
    fn the_owner_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(is_taken(address));
        assert!(listener_on(address.port()).contains(&format!("process {}", std::process::id())));
        drop(listener);
        assert!(!is_taken(address));
    }

    #[test]
    fn a_free_port_is_none_that_the_kernel_gives() {
        let host = std::net::Ipv4Addr::LOCALHOST.into();
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let first = free_port(host).unwrap();
        let given_from = given_from(&range);
        assert!(given_from <= FIRST_PORT || (FIRST_PORT..given_from).contains(&first), "{first} of {range}");
        assert_ne!(free_port(host).unwrap(), first);
    }

    #[test]
    fn a_setting_that_cannot_be_read_leaves_the_choice_to_the_kernel() {
        assert_eq!(given_from("32768\t60999\n"), 32_768);
        assert_eq!((given_from(""), given_from("-1 5")), (0, 0));
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:107E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 77 1\n\
             1: 0100007F:107E 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0  0 78 1\n";
        assert_eq!(listening(table, 4222), [77]);
        assert!(listening(table, 80).is_empty());
    }
}
