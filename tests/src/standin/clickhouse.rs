//! Stands between a sink and a real ClickHouse: passes everything on, and fails on command.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use reqwest::Client;

use super::server::{Protocol, Server};

/// What a proxy in front of ClickHouse would answer.
pub struct Passage;

impl Protocol for Passage {
    fn is_delivery(&self, method: &Method, uri: &Uri) -> bool {
        let query = uri.query().unwrap_or_default();
        method == Method::POST && query.contains("query=INSERT") && query.contains("insert_deduplication_token")
    }

    fn error_body(&self, status: u16) -> String {
        format!("the proxy answers {status}")
    }
}

/// A proxy to the server at `url`.
pub async fn start(url: &str) -> Server<Passage> {
    let state = (Client::new(), url.to_owned());
    Server::start(Passage, Router::new().fallback(pass).with_state(state)).await
}

async fn pass(
    State((client, server)): State<(Client, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
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
    match answer.await {
        Ok((status, mut headers, body)) => {
            headers.remove("transfer-encoding");
            (status, headers, body).into_response()
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}
