//! What `up` prints about the webhook secret. The secret itself is shown only once, to the person for whom it was made.

use std::path::PathBuf;

/// Where the webhook secret comes from.
#[derive(Debug)]
pub(crate) enum SecretOrigin {
    /// The configuration.
    Configured,
    /// It is new, and will be kept in this file.
    Made(PathBuf),
    /// An earlier `up` made it and kept it in this file.
    Kept(PathBuf),
}

impl SecretOrigin {
    /// The origin of the secret in the file `path`. Call it before the secret is made.
    pub(crate) fn of(path: PathBuf) -> Self {
        if path.exists() { Self::Kept(path) } else { Self::Made(path) }
    }

    /// The text for a person. `shown` is the secret itself, if the output is a terminal. Redirected output ends in
    /// logs.
    pub(crate) fn told(&self, shown: Option<&str>) -> String {
        match (self, shown) {
            (Self::Configured, _) => "as configured".to_owned(),
            (Self::Made(path), Some(secret)) => format!("{secret}   (shown only now; kept in {})", path.display()),
            (Self::Made(path) | Self::Kept(path), _) => format!("in the file {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_shown_once_and_only_to_a_person() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("webhook-secret");
        let place = format!("in the file {}", path.display());
        let made = SecretOrigin::of(path.clone());
        std::fs::write(&path, "s3cret").unwrap();
        let kept = SecretOrigin::of(path);
        assert!(made.told(Some("s3cret")).starts_with("s3cret   (shown only now; kept in "));
        assert_eq!(made.told(None), place);
        assert_eq!(kept.told(Some("s3cret")), place);
        assert_eq!(SecretOrigin::Configured.told(Some("s3cret")), "as configured");
    }
}
