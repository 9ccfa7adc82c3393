//! Identifies the client. There are two users: one may do everything that is allowed, the other only reads. Each has
//! places of its own. Everybody else is refused, and this server must look at nothing but the head of their requests.

use super::Password;
use super::failure::Failure;
use super::request::Credentials;

/// The name of the user who only reads.
pub(super) const READER: &str = "reader";

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything that the policy allows.
    Writer,
    /// Only statements that change nothing.
    Reader,
}

/// The two users and their passwords.
#[derive(Debug)]
pub(super) struct Users {
    pub(super) writer: String,
    pub(super) writer_password: Option<Password>,
    pub(super) reader_password: Option<Password>,
}

impl Users {
    /// Identifies the user. If no password is set at all, anybody may come in under any name and gets that name's role.
    pub(super) fn authenticate(&self, credentials: &Credentials) -> Result<Role, Failure> {
        let user = credentials.user.as_deref().unwrap_or("default");
        let open = self.writer_password.is_none() && self.reader_password.is_none();
        let (role, expected) = match user {
            READER if READER != self.writer => (Role::Reader, self.reader_password.as_ref()),
            name if open || name == self.writer => (Role::Writer, self.writer_password.as_ref()),
            _ => return Err(Failure::unauthenticated(user)),
        };
        let given = credentials.password.as_deref().unwrap_or_default();
        match expected {
            Some(password) if password.is(given) => Ok(role),
            None if open => Ok(role),
            // A user without a password does not exist if the other has one.
            Some(_) | None => Err(Failure::unauthenticated(user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Password;
    use super::super::request::Credentials;
    use super::{Role, Users};

    #[test]
    fn each_user_has_a_password_of_its_own() {
        let users = |writer: Option<&str>, reader: Option<&str>| Users {
            writer: "default".into(),
            writer_password: writer.map(Password::new),
            reader_password: reader.map(Password::new),
        };
        for (users, user, password, expected) in [
            (users(Some("w"), Some("r")), "default", "w", Some(Role::Writer)),
            (users(Some("w"), Some("r")), "reader", "r", Some(Role::Reader)),
            (users(Some("w"), Some("r")), "reader", "w", None),
            (users(Some("w"), Some("r")), "default", "r", None),
            (users(Some("w"), Some("r")), "other", "w", None),
            (users(Some("w"), None), "reader", "", None),
            (users(None, Some("r")), "default", "", None),
            (users(None, None), "any", "", Some(Role::Writer)),
            (users(None, None), "reader", "", Some(Role::Reader)),
        ] {
            let credentials = Credentials { user: Some(user.to_owned()), password: Some(password.to_owned()) };
            assert_eq!(users.authenticate(&credentials).ok(), expected, "{user} {password}");
        }
    }
}
