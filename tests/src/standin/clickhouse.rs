//! A proxy between a sink and a real ClickHouse. It forwards everything, and fails on command.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use reqwest::Client;

use super::server::{Protocol, Server, When};

/// Answers as a proxy in front of ClickHouse would.
pub struct Proxy;

impl Protocol for Proxy {
    fn is_delivery(&self, method: &Method, uri: &Uri) -> bool {
        let query = uri.query().unwrap_or_default();
        method == Method::POST && query.contains("query=INSERT") && query.contains("insert_deduplication_token")
    }

    fn error_body(&self, status: u16) -> String {
        format!("the proxy answers {status}")
    }

    fn garbage_status(&self) -> StatusCode {
        // The client looks at the status alone: it would take a strange page with a 2xx for success.
        StatusCode::BAD_GATEWAY
    }
}

/// A proxy to the server at `url`.
pub async fn start(url: &str) -> Server<Proxy> {
    start_with(url, None, None).await
}

/// A proxy to the server at `url`, which then seems to be of before `word`: what is asked with it is asked with a word that
/// no server knows.
pub async fn start_before(url: &str, word: &'static str) -> Server<Proxy> {
    start_with(url, None, Some(word)).await
}

/// A proxy to the server at `url`. It answers an insert of more than `bytes_max` bytes like a server that lacks memory.
/// With [`When::After`], the rows are stored all the same.
pub async fn start_small(url: &str, bytes_max: usize, when: When) -> Server<Proxy> {
    start_with(url, Some((bytes_max, when)), None).await
}

async fn start_with(url: &str, small: Option<(usize, When)>, unknown: Option<&'static str>) -> Server<Proxy> {
    let state = Upstream { client: Client::new(), server: url.to_owned(), small, unknown };
    Server::start(Proxy, Router::new().fallback(pass).with_state(state)).await
}

/// The server behind the proxy.
#[derive(Clone)]
struct Upstream {
    client: Client,
    server: String,
    /// The largest insert, and when a larger one fails.
    small: Option<(usize, When)>,
    /// The word that it seems not to know.
    unknown: Option<&'static str>,
}

async fn pass(
    State(Upstream { client, server, small, unknown }): State<Upstream>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let body = match (unknown, std::str::from_utf8(&body)) {
        (Some(word), Ok(text)) => Bytes::from(text.replace(word, "unknown_to_this_server")),
        _ => body,
    };
    let too_much = small.filter(|(bytes_max, _)| Proxy.is_delivery(&method, &uri) && body.len() > *bytes_max);
    let refusal = "Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)";
    if let Some((_, When::Before)) = too_much {
        return (StatusCode::INTERNAL_SERVER_ERROR, refusal).into_response();
    }
    let target = format!("{server}{}", uri.path_and_query().map_or("/", |path| path.as_str()));
    let mut request = client.request(method, target).body(body);
    for (name, value) in
        headers.iter().filter(|(name, _)| !["host", "content-length", "transfer-encoding"].contains(&name.as_str()))
    {
        request = request.header(name, value);
    }
    let answer = async {
        let answer = request.send().await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok::<(StatusCode, HeaderMap, Bytes), reqwest::Error>((status, headers, answer.bytes().await?))
    };
    let answered = answer.await;
    if too_much.is_some() {
        return (StatusCode::INTERNAL_SERVER_ERROR, refusal).into_response();
    }
    match answered {
        Ok((status, mut headers, body)) => {
            headers.remove("transfer-encoding");
            (status, headers, body).into_response()
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
