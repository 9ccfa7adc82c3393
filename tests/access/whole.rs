//! `up` on its own server. Each role has a user of its own, and nobody else can connect.

use std::os::unix::fs::PermissionsExt as _;

use headrace::nats::users::User;
use headrace_tests::product::hook::{Hook, guid};
use headrace_tests::product::process::Launch;
use headrace_tests::product::stored::Stored;
use tempfile::TempDir;

use super::{PROGRAM, violations};

#[tokio::test]
async fn up_keeps_strangers_out_and_its_roles_to_their_rights() {
    let dir = TempDir::new().unwrap();
    let up = Launch::up(PROGRAM, dir.path()).start().await;
    let (hook, stored) = (Hook::of(up.ready()), Stored::of(up.ready()).await);
    let publicized = r#"{"action":"publicized","repository":{"id":1,"full_name":"acme/a","owner":{"login":"acme"}},"sender":{"login":"mona"}}"#;
    hook.store("repository", &guid(), publicized).await;
    let large = format!("{}{}", publicized, " ".repeat(9 << 20));
    hook.store("repository", &guid(), large).await;
    stored.until_count("SELECT count() FROM events", 2).await;
    stored.until_count("SELECT count() FROM raw", 2).await;
    stored.settled().await;
    let data = dir.path().join("data");
    assert_eq!(violations(&data.join("nats")), [""; 0]);

    let nats = up.ready().nats.clone().unwrap();
    let address = nats.rsplit_once('@').unwrap().1.to_owned();
    let stranger = async_nats::connect(&address).await.unwrap_err();
    assert_eq!(stranger.kind(), async_nats::ConnectErrorKind::AuthorizationViolation, "{stranger}");
    let passwords = User::ALL.map(User::password_file);
    let private = passwords.iter().map(String::as_str).chain(["nats/nats-server.conf", "ready.json"]);
    for name in private {
        let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(data.join("nats")).unwrap().permissions().mode() & 0o777, 0o700);
    for file in passwords {
        let password = std::fs::read_to_string(data.join(&file)).unwrap();
        assert!(password.trim().len() == 64 && !up.log().contains(password.trim()), "{file}");
    }
    assert!(up.log().contains(&User::Subscriber.password_file()), "{}", up.log());
    up.stop().await;
}
