//! The ways to log in to NATS besides a user for each role: one user, a token, a credentials file.

use headrace_runtime::broker::Broker;
use headrace_runtime::config::Nats;
use headrace_runtime::secret::Secret;
use headrace_tests::harness::accounts::Operator;
use headrace_tests::harness::{configured, streams};
use tempfile::TempDir;

use super::tls::connect;

/// A server with the lines `block` lets in `right` and nobody else. Whoever comes as `wrong` is told `advice`.
async fn lets_in_only(right: Nats, wrong: Nats, block: &str, advice: &str) {
    let dir = TempDir::new().unwrap();
    let server = configured(dir.path(), block).await;
    let there = |nats: Nats| Nats { url: server.url(), ..nats };
    connect(&there(right)).await.unwrap();
    let refused = connect(&there(wrong)).await.unwrap_err();
    assert!(refused.contains(advice) && !refused.contains("guessed"), "{refused}");
    let refused = connect(&there(Nats::default())).await.unwrap_err();
    let advice = "; it lets in only whoever it knows; set `nats.user` and `nats.password`, `nats.token`, ";
    assert!(refused.contains(advice), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn a_user_needs_the_right_password() {
    let with =
        |password: &str| Nats { user: Some("headrace".to_owned()), password: Secret::new(password), ..Nats::default() };
    let block = "authorization: { user: \"headrace\", password: \"the right one\" }\n";
    let advice = " as the user `headrace`; it does not know the user, or refuses the password; check `nats.user` and ";
    lets_in_only(with("the right one"), with("guessed"), block, advice).await;
}

#[tokio::test]
async fn a_token_must_be_the_servers() {
    let with = |token: &str| Nats { token: Secret::new(token), ..Nats::default() };
    let block = "authorization: { token: \"the right one\" }\n";
    let advice = "; it refuses the token; set `nats.token` to the server's";
    lets_in_only(with("the right one"), with("guessed"), block, advice).await;
}

#[tokio::test]
async fn a_credentials_file_must_come_from_the_servers_operator() {
    let dir = TempDir::new().unwrap();
    let (operator, stranger) = (Operator::default(), Operator::default());
    let server = configured(&dir.path().join("nats"), &operator.nats_block()).await;
    let with =
        |name: &str| Nats { url: server.url(), credentials_path: Some(dir.path().join(name)), ..Nats::default() };
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();

    write("right.creds", operator.credentials());
    let broker = Broker::connect(&with("right.creds"), &streams(), "test").await.unwrap();
    broker.ensure_topology(&streams()).await.unwrap();

    write("stranger.creds", stranger.credentials());
    write("stolen.creds", operator.stolen_credentials());
    write("expired.creds", operator.expired_credentials());
    for name in ["stranger.creds", "stolen.creds", "expired.creds"] {
        let refused = connect(&with(name)).await.unwrap_err();
        let told = format!("it refuses the credentials in {}; make new ones", dir.path().join(name).display());
        assert!(refused.contains(&told), "{refused}");
    }
    write("empty.creds", String::new());
    for name in ["empty.creds", "absent.creds"] {
        let refused = connect(&with(name)).await.unwrap_err();
        let told = format!("cannot read the NATS credentials in {}", dir.path().join(name).display());
        assert!(refused.starts_with(&told), "{refused}");
    }
    server.stop().await;
}
