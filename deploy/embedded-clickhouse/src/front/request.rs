//! Parses a request's head once, at the edge: statement text, settings, bound parameters, encodings, credentials. After
//! it, names are identifiers and encodings are known. It must never read the body.

use base64::Engine as _;
use hyper::HeaderMap;
use hyper::Method;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use hyper::http::request::Parts;

use super::codec::Encoding;
use super::failure::Failure;
use super::multipart;
use crate::engine::Exception;

/// URL parameters for the HTTP interface itself. Every other one is a setting. Parameters for sessions, roles and
/// quotas are accepted and ignored: here a session lasts for one request, and the embedded engine has one user.
const RESERVED: [&str; 20] = [
    "query",
    "database",
    "default_format",
    "compress",
    "decompress",
    "user",
    "password",
    "quota_key",
    "query_id",
    "stacktrace",
    "role",
    "buffer_size",
    "wait_end_of_query",
    "session_id",
    "session_timeout",
    "session_check",
    "close_session",
    "client_protocol_version",
    "profile",
    "framing",
];

/// A request with a parsed head.
#[derive(Debug)]
pub(super) struct Request {
    /// Statement text from the URL; the body continues it.
    pub(super) query: String,
    pub(super) database: Option<String>,
    /// Names are identifiers; values are as the client wrote them.
    pub(super) settings: Vec<(String, String)>,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) default_format: Option<String>,
    /// `GET` and `HEAD` change nothing.
    pub(super) read_only: bool,
    pub(super) query_id: String,
    /// The body comes in ClickHouse's blocks, inside `content_encoding`.
    pub(super) decompress: bool,
    pub(super) content_encoding: Encoding,
    /// The answer goes out in ClickHouse's blocks.
    pub(super) compress: bool,
    pub(super) accept_encoding: Encoding,
    /// The body is a form with this boundary. Its fields are further URL parameters.
    pub(super) form: Option<String>,
    /// Nothing goes out before the statement has ended.
    pub(super) wait_end_of_query: bool,
}

impl Request {
    pub(super) fn parse(head: &Parts) -> Result<Self, Failure> {
        let mut request = Self {
            query: String::new(),
            database: header(&head.headers, "x-clickhouse-database"),
            settings: Vec::new(),
            parameters: Vec::new(),
            default_format: header(&head.headers, "x-clickhouse-format"),
            read_only: head.method == Method::GET || head.method == Method::HEAD,
            query_id: String::new(),
            decompress: false,
            content_encoding: content_encoding(&head.headers)?,
            compress: false,
            accept_encoding: Encoding::Identity,
            form: header(&head.headers, CONTENT_TYPE.as_str()).as_deref().and_then(multipart::boundary),
            wait_end_of_query: false,
        };
        let url = head.uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(url.as_bytes()) {
            request.set(&name, value.into_owned())?;
        }
        if request.query_id.is_empty() {
            request.query_id = uuid::Uuid::new_v4().to_string();
        }
        // On by default, as in ClickHouse.
        let refuses = |(name, value): &(String, String)| name == "enable_http_compression" && !is_on(value);
        if !request.settings.iter().any(refuses) {
            let accepted = header(&head.headers, ACCEPT_ENCODING.as_str()).unwrap_or_default();
            request.accept_encoding = Encoding::negotiate(&accepted);
        }
        Ok(request)
    }

    /// Takes one parameter from the URL or from a form.
    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), Failure> {
        match name {
            "query" => self.query.push_str(&value),
            "database" if !value.is_empty() => self.database = Some(value),
            "default_format" if !value.is_empty() => self.default_format = Some(value),
            "query_id" => self.query_id = value,
            "compress" => self.compress = is_on(&value),
            "decompress" => self.decompress = is_on(&value),
            "wait_end_of_query" => self.wait_end_of_query = is_on(&value),
            _ if RESERVED.contains(&name) => {}
            _ => match name.strip_prefix("param_") {
                Some(parameter) => self.parameters.push((parameter.to_owned(), value)),
                None if is_identifier(name) => self.settings.push((name.to_owned(), value)),
                None => {
                    let message = format!("Unknown setting '{name}'.");
                    return Err(Exception::new(115, "UNKNOWN_SETTING", &message).into());
                }
            },
        }
        Ok(())
    }

    /// Whether the client set this setting itself.
    pub(super) fn sets(&self, name: &str) -> bool {
        self.settings.iter().any(|(found, _)| found == name)
    }
}

/// Who the client claims to be: from the headers, else from basic authentication, else from the URL, as in ClickHouse.
#[derive(Default)]
pub(super) struct Credentials {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

impl Credentials {
    pub(super) fn parse(head: &Parts) -> Self {
        let user = header(&head.headers, "x-clickhouse-user");
        let password = header(&head.headers, "x-clickhouse-key");
        if user.is_some() || password.is_some() {
            return Self { user, password };
        }
        if let Some(basic) = header(&head.headers, AUTHORIZATION.as_str()).as_deref().and_then(basic) {
            return basic;
        }
        let url = head.uri.query().unwrap_or_default();
        let value = |wanted: &str| {
            let mut pairs = form_urlencoded::parse(url.as_bytes());
            pairs.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
        };
        Self { user: value("user"), password: value("password") }
    }
}

fn basic(value: &str) -> Option<Credentials> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Credentials { user: Some(user.to_owned()), password: Some(password.to_owned()) })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

fn content_encoding(headers: &HeaderMap) -> Result<Encoding, Failure> {
    let name = header(headers, CONTENT_ENCODING.as_str()).unwrap_or_default();
    Encoding::parse(&name).ok_or_else(|| {
        let message = format!("Content-Encoding {name}; this server takes gzip, deflate and lz4");
        Failure::new(hyper::StatusCode::BAD_REQUEST, 89, "UNKNOWN_COMPRESSION_METHOD", &message)
    })
}

fn is_on(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::{Credentials, Encoding, Request};

    fn parts(uri: &str, headers: &[(&str, &str)]) -> hyper::http::request::Parts {
        let mut builder = hyper::Request::post(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn settings_parameters_and_reserved_names_are_told_apart() {
        let uri = "/?query=SELECT+1&database=d&max_threads=2&param_x=a%27b&session_id=s&role=r&decompress=1&query_id=q";
        let request = Request::parse(&parts(uri, &[("Content-Encoding", "gzip")])).unwrap();
        assert_eq!(request.query, "SELECT 1");
        assert_eq!(request.database.as_deref(), Some("d"));
        assert_eq!(request.settings, [("max_threads".to_owned(), "2".to_owned())]);
        assert_eq!(request.parameters, [("x".to_owned(), "a'b".to_owned())]);
        assert_eq!((request.query_id.as_str(), request.decompress, request.read_only), ("q", true, false));
        assert_eq!(request.content_encoding, Encoding::Gzip);
    }

    #[test]
    fn a_setting_that_is_no_identifier_is_unknown() {
        let failure = Request::parse(&parts("/?a%3D1,b=2", &[])).unwrap_err();
        assert_eq!(failure.exception.code(), 115);
    }

    #[test]
    fn answers_are_encoded_as_the_client_asks() {
        let encoding = |uri, headers: &[_]| Request::parse(&parts(uri, headers)).unwrap().accept_encoding;
        assert_eq!(encoding("/?a=1", &[]), Encoding::Identity);
        assert_eq!(encoding("/?a=1", &[("Accept-Encoding", "gzip")]), Encoding::Gzip);
        assert_eq!(encoding("/?enable_http_compression=0", &[("Accept-Encoding", "gzip")]), Encoding::Identity);
    }

    #[test]
    fn credentials_come_from_headers_basic_or_url() {
        let of = |uri: &str, headers: &[(&str, &str)]| Credentials::parse(&parts(uri, headers)).password;
        assert_eq!(of("/?password=a", &[("X-ClickHouse-Key", "b")]).as_deref(), Some("b"));
        assert_eq!(of("/?password=a", &[("Authorization", "Basic dTpi")]).as_deref(), Some("b"));
        assert_eq!(of("/?password=a", &[]).as_deref(), Some("a"));
        assert_eq!(of("/", &[]), None);
    }
}
