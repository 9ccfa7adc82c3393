//! A hook by its names: in GitHub's routes, in our keys, for people.

use headrace_schemas::subject;

use super::config::{self, Kind};

/// A hook whose deliveries are looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    /// For people and metrics: `app/123456`, `organization/acme/42`, `repository/acme/app/42`.
    pub(super) name: String,
    /// Its token in keys, unique as the name is.
    pub(super) key: String,
    /// The route of its deliveries, without the API's base URL.
    pub(super) deliveries: String,
    /// The route that tells the App's installation there; `None` for an App's own hook.
    pub(super) installation: Option<String>,
    /// The login whose events it sends; `None` for an App, which is installed at several.
    pub(super) owner: Option<String>,
}

impl Hook {
    /// The hook that `config`, which has been validated, describes.
    pub(super) fn new(config: &config::Hook) -> Self {
        let id = config.hook_id.unwrap_or_default();
        let place = match config.kind {
            Kind::App => None,
            Kind::Organization => config.organization.as_ref().map(|login| format!("orgs/{login}")),
            Kind::Repository => config.repository.as_ref().map(|name| format!("repos/{name}")),
        };
        let owner = match config.kind {
            Kind::App => None,
            Kind::Organization => config.organization.clone(),
            Kind::Repository => config.repository.as_deref().and_then(|name| name.split('/').next()).map(str::to_owned),
        };
        let name = match config.kind {
            Kind::App => format!("app/{}", config.app_id.unwrap_or_default()),
            Kind::Organization => format!("organization/{}/{id}", config.organization.as_deref().unwrap_or_default()),
            Kind::Repository => format!("repository/{}/{id}", config.repository.as_deref().unwrap_or_default()),
        };
        Self {
            key: subject::token(&name),
            deliveries: match &place {
                Some(place) => format!("/{place}/hooks/{id}/deliveries"),
                None => "/app/hook/deliveries".to_owned(),
            },
            installation: place.map(|place| format!("/{place}/installation")),
            owner,
            name,
        }
    }
}

/// Whether `text` is a login or the name of a repository, so that it can stand in a route as it is.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.bytes().all(plain) && text.bytes().any(|byte| byte != b'.')
}
