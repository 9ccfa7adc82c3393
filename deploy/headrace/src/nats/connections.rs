//! The connections of a process to NATS. If each role has a user of its own, there is one for each role.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use headrace_ingest::sources;
use headrace_local::nats;
use headrace_runtime::broker::Broker;
use headrace_runtime::config::Nats;
use headrace_runtime::consume::leftover::Component;
use headrace_runtime::secret::Secret;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::Config;
use crate::installation::data_dir::DataDir;
use crate::nats::users::User;
use crate::role::Role;

/// Connections by user.
pub(crate) struct Brokers(BTreeMap<User, Broker>);

impl Brokers {
    /// Connects as every user that `roles` need. Without `nats.users_dir` they share one connection.
    ///
    /// # Errors
    /// If a password is missing or NATS refuses one.
    pub(crate) async fn connect(config: &Config, roles: &[Role], name: &str) -> anyhow::Result<Self> {
        let mut users = vec![User::Admin];
        for role in roles {
            users.extend(match role {
                Role::Ingest => vec![User::Ingest],
                // Without a source that must be asked, the role does nothing.
                Role::Collect if sources::pulls(&config.ingest, config.for_sources())?.is_empty() => Vec::new(),
                Role::Collect => vec![User::Collect],
                Role::Pipeline => vec![User::Pipeline, User::Retention],
                Role::Sinks => vec![User::Sinks],
                // Without its configuration, the role does nothing.
                Role::Recover => config.recover.iter().map(|_| User::Recover).collect(),
            });
        }
        let Some(dir) = &config.nats.users_dir else {
            let broker = Broker::connect(&config.nats, &config.streams, name).await?;
            return Ok(Self(users.into_iter().map(|user| (user, broker.clone())).collect()));
        };
        let mut brokers = BTreeMap::new();
        for user in users {
            let is_needed = !matches!(user, User::Admin | User::Retention);
            if let Some(nats) = settings(&config.nats, dir, user)? {
                brokers.insert(user, Broker::connect(&nats, &config.streams, name).await?);
            } else if is_needed {
                return Err(missing(dir, user));
            }
        }
        anyhow::ensure!(!brokers.is_empty(), missing(dir, User::Admin));
        Ok(Self(brokers))
    }

    /// The connection of `user`, if its password is here.
    pub(crate) fn of(&self, user: User) -> Option<&Broker> {
        self.0.get(&user)
    }

    /// The connection with the most rights, which is the admin's if its password is here.
    pub(crate) fn first(&self) -> &Broker {
        self.0.values().next().expect("`connect` makes sure that there is one")
    }

    /// The connection of a role's user.
    pub(crate) fn need(&self, user: User) -> anyhow::Result<&Broker> {
        self.of(user).with_context(|| format!("no connection to NATS as the user `{}`", user.name()))
    }
}

/// Connects as the admin, for a command.
///
/// # Errors
/// If its password is missing or NATS refuses it.
pub(crate) async fn connect_admin(config: &Config, name: &str) -> anyhow::Result<Broker> {
    let nats = match &config.nats.users_dir {
        Some(dir) => settings(&config.nats, dir, User::Admin)?.ok_or_else(|| missing(dir, User::Admin))?,
        None => config.nats.clone(),
    };
    Broker::connect(&nats, &config.streams, name).await
}

/// Connects as the first user whose password is here. The admin is the first of all.
///
/// # Errors
/// If there is no password here, or NATS refuses it.
pub(crate) async fn connect_first(config: &Config, name: &str) -> anyhow::Result<Broker> {
    let Some(dir) = &config.nats.users_dir else {
        return Broker::connect(&config.nats, &config.streams, name).await;
    };
    for user in User::ALL {
        if let Some(nats) = settings(&config.nats, dir, user)? {
            return Broker::connect(&nats, &config.streams, name).await;
        }
    }
    Err(missing(dir, User::Admin))
}

/// The users of the server that `up` starts, with the rights for the components `sinks`. Their passwords are in the data directory, and are made if absent.
pub(crate) fn own_users(data: &DataDir, sinks: &[Component]) -> anyhow::Result<Vec<nats::User>> {
    let user = |user: User| -> anyhow::Result<nats::User> {
        let password = data.secret(&user.password_file())?.expose().into();
        Ok(nats::User { name: user.name().to_owned(), password, permissions: user.permissions_with(sinks) })
    };
    User::ALL.into_iter().map(user).collect()
}

/// Makes `nats` connect as the users of the server that `up` starts.
pub(crate) fn use_own_users(data: &DataDir, nats: &mut Nats) {
    (nats.user, nats.credentials_path) = (None, None);
    (nats.password, nats.token) = (Secret::default(), Secret::default());
    nats.users_dir = Some(data.path().to_owned());
}

/// The address of NATS with the admin's password. It is for a file that only its owner may read.
pub(crate) fn admin_url(nats: &Nats) -> anyhow::Result<String> {
    let Some(dir) = &nats.users_dir else { return Ok(nats.url.clone()) };
    let Some(own) = settings(nats, dir, User::Admin)? else { return Ok(nats.url.clone()) };
    let password = utf8_percent_encode(own.password.expose(), NON_ALPHANUMERIC);
    let (scheme, servers) = nats.url.split_once("://").unwrap_or(("nats", &nats.url));
    // The client uses the login of the first server for all.
    Ok(format!("{scheme}://{}:{password}@{servers}", User::Admin.name()))
}

/// The settings with which `user` connects. `None` if its password is not in `dir`.
fn settings(nats: &Nats, dir: &Path, user: User) -> anyhow::Result<Option<Nats>> {
    let path = dir.join(user.password_file());
    let password = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read the password in {}", path.display())),
    };
    anyhow::ensure!(
        !password.is_empty(),
        "expected the password of the NATS user in {}, found nothing",
        path.display()
    );
    Ok(Some(Nats {
        user: Some(user.name().to_owned()),
        password: Secret::new(password),
        inbox_prefix: user.inbox_prefix(),
        ..nats.clone()
    }))
}

fn missing(dir: &Path, user: User) -> anyhow::Error {
    anyhow::anyhow!(
        "expected the password of the NATS user `{}` in {}, found no such file; put it there, or set `nats.user` and \
         `nats.password` instead of `nats.users_dir`",
        user.name(),
        dir.join(user.password_file()).display()
    )
}
