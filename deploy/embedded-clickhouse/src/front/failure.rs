//! An error as an answer: ClickHouse's text and code, with the HTTP status that ClickHouse's own interface gives to
//! that code. No other module may map codes to statuses.

use hyper::StatusCode;

use crate::engine::Exception;

/// A refused or failed request.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) exception: Exception,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: u32, name: &str, message: &str) -> Self {
        Self { status, exception: Exception::new(code, name, message) }
    }

    /// All places of a kind are taken, and either the queue is full or no place came free for too long.
    pub(super) fn saturated(what: &str, running: usize, waiting: usize) -> Self {
        let message = format!(
            "too many simultaneous {what}: {running} running and {waiting} waiting is the most this server takes"
        );
        Self::new(StatusCode::SERVICE_UNAVAILABLE, 202, "TOO_MANY_SIMULTANEOUS_QUERIES", &message)
    }

    /// The client sent nothing, or read nothing, for too long.
    pub(super) fn idle(seconds: u64) -> Self {
        let message = format!("nothing came from the client for {seconds} s");
        Self::new(StatusCode::REQUEST_TIMEOUT, 209, "SOCKET_TIMEOUT", &message)
    }

    /// A wrong name and a wrong password get the same answer, as in ClickHouse.
    pub(super) fn unauthenticated(user: &str) -> Self {
        let message =
            format!("{user}: Authentication failed: password is incorrect, or there is no user with such name.");
        Self::from(Exception::new(516, "AUTHENTICATION_FAILED", &message))
    }

    /// The system refused another thread.
    pub(super) fn no_thread() -> Self {
        let message = "the system gave no thread for this statement; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, 439, "CANNOT_SCHEDULE_TASK", message)
    }

    /// A defect of this server. Its log has the panic.
    pub(super) fn panicked() -> Self {
        Self::from(Exception::new(49, "LOGICAL_ERROR", "the statement's thread failed; the server's log says why"))
    }

    pub(super) fn body_too_large(limit: u64) -> Self {
        let message = format!("the request body is longer than {limit} bytes; send it in several requests");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, 131, "TOO_LARGE_STRING_SIZE", &message)
    }
}

impl From<Exception> for Failure {
    fn from(exception: Exception) -> Self {
        Self { status: status(exception.code()), exception }
    }
}

/// The mapping of ClickHouse's `exceptionCodeToHTTPStatus`.
fn status(code: u32) -> StatusCode {
    match code {
        194 => StatusCode::UNAUTHORIZED,
        192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
        // Text, quoting, dates, numbers and types that do not parse; wrong arguments; wrong syntax.
        6 | 7 | 25 | 26 | 27 | 33 | 36 | 38 | 41 | 43 | 44 | 53 | 62 | 69 | 70 | 72 | 117 | 167 | 168 | 376 | 427
        | 441 | 456 | 457 => StatusCode::BAD_REQUEST,
        // Unknown function, identifier, type, storage, table, aggregate, format, query type, database, setting.
        46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 => StatusCode::NOT_FOUND,
        131 => StatusCode::PAYLOAD_TOO_LARGE,
        159 | 209 => StatusCode::REQUEST_TIMEOUT,
        48 => StatusCode::NOT_IMPLEMENTED,
        202 | 76 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::Failure;
    use crate::engine::Exception;

    #[test]
    fn status_follows_the_code() {
        for (text, code, status) in [
            ("Code: 60. DB::Exception: no (UNKNOWN_TABLE)", 60, StatusCode::NOT_FOUND),
            ("Code: 62. DB::Exception: no (SYNTAX_ERROR)", 62, StatusCode::BAD_REQUEST),
            ("Code: 241. DB::Exception: no (MEMORY_LIMIT_EXCEEDED)", 241, StatusCode::INTERNAL_SERVER_ERROR),
            ("no code at all", 1001, StatusCode::INTERNAL_SERVER_ERROR),
        ] {
            let failure = Failure::from(Exception::from_engine(text));
            assert_eq!((failure.exception.code(), failure.status), (code, status));
        }
    }
}
