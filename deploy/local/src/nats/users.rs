//! The users of a server and what each may do, as plain data. It must know nothing of Headrace.

use secrecy::{ExposeSecret as _, SecretString};

/// A user who connects with a password.
#[derive(Clone, Debug)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The user's password. Only the owner of the configuration file can read it there.
    pub password: SecretString,
    /// What the user may do. `None` means everything.
    pub permissions: Option<Permissions>,
}

/// What a user may do. The server refuses everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects to which the user may publish. A request is published too.
    pub publish: Vec<String>,
    /// Subjects to which the user may subscribe. The answer to a request comes to a subscription.
    pub subscribe: Vec<String>,
}

/// The block `authorization` of nats-server's configuration file. The server then refuses anybody who is not in
/// `users`.
pub fn authorization(users: &[User]) -> String {
    let users: String = users.iter().map(user).collect();
    format!("authorization: {{\n  users: [\n{users}  ]\n}}\n")
}

fn user(user: &User) -> String {
    let (name, password) = (quoted(&user.name), quoted(user.password.expose_secret()));
    let head = format!("    {{\n      user: {name}\n      password: {password}\n");
    let permissions = user.permissions.as_ref().map(|own| {
        let (publish, subscribe) = (allowed("publish", &own.publish), allowed("subscribe", &own.subscribe));
        format!("      permissions: {{\n{publish}{subscribe}      }}\n")
    });
    format!("{head}{}    }}\n", permissions.unwrap_or_default())
}

/// An empty list must refuse everything, but to nats-server an empty `allow` means no limit at all.
fn allowed(what: &str, subjects: &[String]) -> String {
    if subjects.is_empty() {
        return format!("        {what}: {{ deny: [\">\"] }}\n");
    }
    let subjects: String = subjects.iter().map(|subject| format!("          {}\n", quoted(subject))).collect();
    format!("        {what}: {{ allow: [\n{subjects}        ] }}\n")
}

pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_written_with_what_they_may_do() {
        let permissions = Permissions { publish: vec!["raw.>".into(), "a.*".into()], subscribe: Vec::new() };
        let users = [
            User { name: "admin".into(), password: "a \"tide\"".into(), permissions: None },
            User { name: "ingest".into(), password: "b".into(), permissions: Some(permissions) },
        ];
        assert_eq!(
            authorization(&users),
            r#"authorization: {
  users: [
    {
      user: "admin"
      password: "a \"tide\""
    }
    {
      user: "ingest"
      password: "b"
      permissions: {
        publish: { allow: [
          "raw.>"
          "a.*"
        ] }
        subscribe: { deny: [">"] }
      }
    }
  ]
}
"#
        );
        assert!(!format!("{users:?}").contains("tide"), "{users:?}");
    }
}
