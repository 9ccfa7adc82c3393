//! Configuration of a bucket: where it is, who we are there, and how it is looked through.

use std::time::Duration;

use headrace_runtime::config::Invalid;
use headrace_runtime::secret::Secret;
use object_store::path::Path;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a bucket is reached and looked through. What is not set here comes from the environment, or from the machine itself,
/// as the provider's own programs find it: `AWS_ACCESS_KEY_ID` and the like, `GOOGLE_SERVICE_ACCOUNT`,
/// `AZURE_STORAGE_ACCOUNT_NAME`, web identities, instance metadata.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The base URL of the service, if it is not the provider's own. Unset means the provider's.
    #[schemars(example = &"https://minio.example.com:9000")]
    pub endpoint: Option<String>,
    /// S3: the bucket's region. Unset means `AWS_REGION`, else `us-east-1`.
    #[schemars(example = &"eu-central-1")]
    pub region: Option<String>,
    /// S3: the access key's id. Unset means that of the environment or the machine.
    #[schemars(example = &"AKIAIOSFODNN7EXAMPLE")]
    pub access_key_id: Option<String>,
    /// S3: the secret access key that belongs to `access_key_id`.
    pub secret_access_key: Secret,
    /// Google: the key of a service account, as JSON. Empty means that of the environment or the machine.
    pub service_account_key: Secret,
    /// Azure: the storage account. Unset means that of the environment.
    #[schemars(example = &"acmelogs")]
    pub account: Option<String>,
    /// Azure: the storage account's key. Empty means what the environment or the machine gives.
    pub account_key: Secret,
    /// An object that becomes visible this many seconds after the time that the service gives it is still found. S3 gives an
    /// object that is uploaded in parts the time at which its upload began. Example: 14400, for uploads of hours.
    #[schemars(range(min = 60, max = 604_800))]
    pub look_back_s: u64,
    /// Everything is listed this often, in seconds. In between only the last 1,000 names are, and what comes behind them.
    /// Example: 3600, for a bucket with millions of objects.
    #[schemars(range(min = 1, max = 86_400))]
    pub full_listing_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: Secret::default(),
            service_account_key: Secret::default(),
            account: None,
            account_key: Secret::default(),
            look_back_s: 3_600,
            full_listing_s: 900,
        }
    }
}

impl Config {
    /// `look_back_s` as a duration.
    pub(super) const fn look_back(&self) -> Duration {
        Duration::from_secs(self.look_back_s)
    }

    /// `full_listing_s` as a duration.
    pub(super) const fn full_listing(&self) -> Duration {
        Duration::from_secs(self.full_listing_s)
    }

    /// What is wrong with these values for `bucket`, below `path`.
    pub(crate) fn validate(&self, bucket: &Bucket, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: &str| problems.push(Invalid::new(format!("{path}.{field}"), message));
        let is_url = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        if self.endpoint.as_ref().is_some_and(|url| !is_url(url)) {
            refuse("endpoint", "expected a URL that begins with `https://` or `http://`");
        }
        if self.access_key_id.is_some() == self.secret_access_key.is_empty() {
            let field = if self.access_key_id.is_some() { "secret_access_key" } else { "access_key_id" };
            refuse(field, "expected both `access_key_id` and `secret_access_key`, or neither");
        }
        if bucket.service == Service::Azure
            && self.account.is_none()
            && std::env::var_os("AZURE_STORAGE_ACCOUNT_NAME").is_none()
        {
            refuse("account", "expected the name of the storage account, here or in `AZURE_STORAGE_ACCOUNT_NAME`");
        }
        problems
    }
}

/// Whose service a bucket is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    S3,
    Google,
    Azure,
}

/// A bucket, and a folder in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(super) service: Service,
    pub(super) name: String,
    /// The folder; empty for the whole bucket.
    pub(super) folder: Path,
}

impl Bucket {
    /// The bucket that `url` means. `None` if it means none; an error says what is wrong with the name of one.
    pub(crate) fn parse(url: &str) -> Option<Result<Self, &'static str>> {
        let (scheme, rest) = url.split_once("://")?;
        let service = match scheme {
            "s3" => Service::S3,
            "gs" => Service::Google,
            "az" => Service::Azure,
            _ => return None,
        };
        let (name, folder) = rest.split_once('/').unwrap_or((rest, ""));
        let folder = Path::parse(folder);
        Some(match folder {
            _ if name.is_empty() || name.contains(['@', ':', '?', '#']) => {
                Err("expected the name of a bucket after `://`, and nothing else before the next `/`")
            }
            // Their listings have no order, and cannot begin in the middle.
            _ if name.ends_with("--x-s3") => Err("expected a general purpose bucket, found a directory bucket"),
            Err(_) => Err("expected a folder's path without empty parts, `.` and `..` after the bucket"),
            Ok(folder) => Ok(Self { service, name: name.to_owned(), folder }),
        })
    }

    /// As a person writes it.
    pub(super) fn told(&self) -> String {
        let scheme = match self.service {
            Service::S3 => "s3",
            Service::Google => "gs",
            Service::Azure => "az",
        };
        format!("{scheme}://{}/{}", self.name, self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_in_pairs() {
        let bucket = Bucket::parse("s3://logs/audit/").unwrap().unwrap();
        assert_eq!(
            (bucket.name.as_str(), bucket.folder.as_ref(), bucket.told().as_str()),
            ("logs", "audit", "s3://logs/audit")
        );
        let paths = |config: &Config| -> Vec<String> {
            config.validate(&bucket, "b").into_iter().map(|problem| problem.path).collect()
        };
        let whole = Config {
            access_key_id: Some("id".to_owned()),
            secret_access_key: Secret::new("key"),
            endpoint: Some("https://localhost:9000".to_owned()),
            ..Config::default()
        };
        assert_eq!(paths(&whole), [""; 0]);
        assert_eq!(paths(&Config { access_key_id: None, ..whole.clone() }), ["b.access_key_id"]);
        let half = Config { secret_access_key: Secret::default(), endpoint: Some("minio:9000".to_owned()), ..whole };
        assert_eq!(paths(&half), ["b.endpoint", "b.secret_access_key"]);
    }
}
