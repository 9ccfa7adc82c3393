//! The stand-in for GitHub refuses what GitHub refuses, and sends nothing twice by itself.

use std::time::Duration;

use headrace_schemas::time::Timestamp;
use headrace_tests::harness::until;
use headrace_tests::standin::github::{APP_HOOK, GitHub, TOKEN};
use reqwest::{Client, Response};
use serde_json::Value;

const HOOK: &str = "/orgs/acme/hooks/7";

/// A client with a User-Agent, which GitHub demands.
fn client() -> Client {
    Client::builder().user_agent("test").build().unwrap()
}

async fn get(github: &GitHub, token: &str, path: &str) -> Response {
    client().get(format!("{}{path}", github.url())).bearer_auth(token).send().await.unwrap()
}

async fn post(github: &GitHub, path: &str) -> u16 {
    client().post(format!("{}{path}", github.url())).bearer_auth(TOKEN).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn github_lists_and_repeats_as_published() {
    let github = GitHub::start(&[APP_HOOK, HOOK]).await;
    github.deliver_to("http://127.0.0.1:1", "secret");
    for _ in 0..5 {
        assert_eq!(github.emit(HOOK, "push", "{}").await.1, 0);
    }
    let path = format!("{HOOK}/deliveries");
    for (token, path, status) in [
        ("another", path.clone(), 401),
        (TOKEN, "/app/hook/deliveries".to_owned(), 401),
        (TOKEN, "/orgs/acme/hooks/8/deliveries".to_owned(), 404),
        (TOKEN, format!("{path}?per_page=101"), 422),
        (TOKEN, format!("{path}?cursor=2"), 400),
    ] {
        assert_eq!(get(&github, token, &path).await.status().as_u16(), status, "{path}");
    }
    let page = get(&github, TOKEN, &format!("{path}?per_page=3")).await;
    let next = page.headers()["link"].to_str().unwrap().to_owned();
    assert!(next.contains("per_page=3&cursor=v1_2") && next.ends_with("rel=\"next\""), "{next}");
    let ids = |page: &Value| page.as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect::<Vec<_>>();
    let rows: Value = page.json().await.unwrap();
    assert_eq!(ids(&rows), [5, 4, 3]);
    assert_eq!((&rows[0]["status_code"], &rows[0]["redelivery"]), (&Value::from(0), &Value::from(false)));
    let last = get(&github, TOKEN, &format!("{path}?per_page=3&cursor=v1_2")).await;
    assert!(!last.headers().contains_key("link"));
    assert_eq!(ids(&last.json().await.unwrap()), [2, 1]);

    assert_eq!(post(&github, &format!("{path}/4/attempts")).await, 202);
    until("it was sent again", || github.redeliveries(HOOK).len() == 1).await;
    assert_eq!(github.data().hooks[HOOK].attempts.len(), 6, "once, though it failed again");
    assert_eq!(post(&github, &format!("{path}/77/attempts")).await, 404);
    github.data().hooks.get_mut(HOOK).unwrap().disabled = true;
    assert_eq!(post(&github, &format!("{path}/4/attempts")).await, 422);
    github.age(HOOK, Duration::from_secs(73 * 3_600));
    assert_eq!(post(&github, &format!("{path}/4/attempts")).await, 404);
    assert_eq!(get(&github, TOKEN, &path).await.json::<Value>().await.unwrap(), Value::Array(vec![]));
}

#[tokio::test]
async fn github_limits_requests_until_the_reset() {
    let github = GitHub::start(&[HOOK]).await;
    {
        let mut data = github.data();
        data.remaining = 1;
        data.reset_at = Timestamp::from_micros(Timestamp::now().as_micros() + 60_000_000);
    }
    let path = format!("{HOOK}/deliveries");
    assert_eq!(get(&github, TOKEN, &path).await.status().as_u16(), 200);
    let refused = get(&github, TOKEN, &path).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["x-ratelimit-remaining"].as_bytes()), (403, &b"0"[..]));
    github.data().reset_at = Timestamp::now();
    assert_eq!(get(&github, TOKEN, &path).await.status().as_u16(), 200);
    let nameless = Client::new().get(format!("{}{path}", github.url())).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(nameless.status().as_u16(), 403);
}
