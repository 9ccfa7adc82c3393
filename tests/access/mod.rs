//! Who gets in to NATS, and who may do what there: the users of each role on a real nats-server, and the product with
//! them.

mod forged;
mod logins;
mod page;
mod rights;
mod tls;
mod topology;
mod whole;
mod wire;

use std::path::Path;
use std::sync::Arc;

use headrace::nats::users::User;
use headrace_local::install::{Installer, Silent};
use headrace_local::nats;
use headrace_runtime::broker::Broker;
use headrace_runtime::config::Nats;
use headrace_runtime::secret::Secret;
use headrace_tests::harness::streams;

/// The binary under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headrace");

/// The password of `user`, as on the page about permissions.
fn password(user: User) -> String {
    format!("password of {}", user.name())
}

/// Every role's user.
fn users() -> Vec<nats::User> {
    let user = |user: User| nats::User {
        name: user.name().to_owned(),
        password: password(user).into(),
        permissions: user.permissions(),
    };
    User::ALL.into_iter().map(user).collect()
}

/// Starts a server that knows only the roles' users. It has no streams. Its data and its log are in `dir`.
async fn server(dir: &Path) -> nats::Running {
    let install = || Installer::for_user(Arc::new(Silent)).and_then(|installer| installer.nats_server());
    let program = tokio::task::spawn_blocking(install).await.unwrap().unwrap();
    nats::start(nats::Config { users: users(), ..nats::Config::new(program, dir) }).await.unwrap()
}

/// How `user` connects to `server`.
fn settings(server: &nats::Running, user: User) -> Nats {
    Nats {
        url: server.url(),
        user: Some(user.name().to_owned()),
        password: Secret::new(password(user)),
        inbox_prefix: user.inbox_prefix(),
        ..Nats::default()
    }
}

/// Connects through the runtime as `user`.
async fn broker(server: &nats::Running, user: User) -> Broker {
    Broker::connect(&settings(server, user), &streams(), "test").await.unwrap()
}

/// Connects without the runtime as `user`.
async fn client(server: &nats::Running, user: User) -> async_nats::Client {
    let options = async_nats::ConnectOptions::with_user_and_password(user.name().to_owned(), password(user));
    options.custom_inbox_prefix(user.inbox_prefix()).connect(server.url()).await.unwrap()
}

/// The log lines about what the server in `dir` has refused so far.
fn violations(dir: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(dir.join("nats-server.log")).unwrap();
    log.lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
}
