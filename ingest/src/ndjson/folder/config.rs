//! Configuration of the folder or bucket that records are read from.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use headrace_runtime::config::Invalid;
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::objects;
use crate::objects::config::Bucket;

const FILE: &str = "file://";
/// As much as the gateway takes.
const LINE_BYTES_MAX: usize = 25 << 20;

/// Records that are read from the files of a folder, or the objects of a bucket, one record a line. The role `collect` reads
/// them. Buckets were tried only against a stand-in that follows S3's published protocol.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder: a path, or `file:///` and a path. Its subfolders are read too. Every process of the role `collect` must
    /// see the same folder. Or a bucket, and a folder in it: `s3://bucket/folder`, `gs://bucket/folder` or
    /// `az://container/folder`.
    #[schemars(example = &"/var/log/audit")]
    pub url: String,
    /// Which files to read: those whose name ends with one of these. A number or date that a rotation adds may follow, as in
    /// `audit.log.1` and `audit.log-20260131`, and `.gz`.
    pub suffixes: Vec<String>,
    /// Pause between two looks into the folder, in seconds. Example: 60.
    #[schemars(range(min = 1, max = 86_400))]
    pub interval_s: u64,
    /// A packed file is read when it has not changed for this many seconds. Example: 60, for uploads that take long.
    #[schemars(range(max = 86_400))]
    pub settle_s: u64,
    /// A last line without a line end, and a packed file that breaks off, are taken as they are when the file has not
    /// changed for this many seconds. Example: 600.
    #[schemars(range(min = 1, max = 86_400))]
    pub last_line_s: u64,
    /// The longest line that becomes a record, in bytes. A longer one becomes a dead letter with its first 64 KiB.
    #[schemars(range(min = 1_024, max = LINE_BYTES_MAX))]
    pub line_bytes_max: usize,
    /// How the bucket is reached and looked through, if `url` is one.
    pub bucket: objects::config::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            suffixes: [".ndjson", ".jsonl", ".json", ".log"].map(str::to_owned).to_vec(),
            interval_s: 5,
            settle_s: 2,
            last_line_s: 60,
            line_bytes_max: LINE_BYTES_MAX,
            bucket: objects::config::Config::default(),
        }
    }
}

impl Config {
    /// `interval_s` as a duration.
    pub(super) const fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s)
    }

    /// `settle_s` as a duration.
    pub(super) const fn settle(&self) -> Duration {
        Duration::from_secs(self.settle_s)
    }

    /// `last_line_s` as a duration.
    pub(super) const fn last_line(&self) -> Duration {
        Duration::from_secs(self.last_line_s)
    }

    /// The folder's path.
    pub(super) fn path(&self) -> PathBuf {
        match self.url.strip_prefix(FILE) {
            Some(path) => percent_decode_str(path).decode_utf8_lossy().into_owned().into(),
            None => PathBuf::from(&self.url),
        }
    }

    /// Whether what is in the directory `path` would be read: it is the folder, or below it. Neither need exist yet.
    #[must_use]
    pub fn reads(&self, path: &Path) -> bool {
        self.beside(path).is_some_and(|(folder, path)| path.starts_with(folder))
    }

    /// Whether the folder is the directory `path`, or below it. Neither need exist yet.
    #[must_use]
    pub fn is_in(&self, path: &Path) -> bool {
        self.beside(path).is_some_and(|(folder, path)| folder.starts_with(path))
    }

    /// Where the folder is, unless it is in a bucket, and `path`.
    fn beside(&self, path: &Path) -> Option<(PathBuf, PathBuf)> {
        if self.bucket().is_some() {
            return None;
        }
        resolved(&self.path()).zip(resolved(path))
    }

    /// The bucket, if `url` is one.
    pub(in crate::ndjson) fn bucket(&self) -> Option<Bucket> {
        Bucket::parse(&self.url).and_then(Result::ok)
    }

    /// How `bucket` is read.
    pub(in crate::ndjson) fn objects(&self, bucket: Bucket) -> objects::Settings {
        objects::Settings {
            bucket,
            config: self.bucket.clone(),
            suffixes: self.suffixes.clone(),
            interval: self.interval(),
            line_bytes_max: self.line_bytes_max,
        }
    }

    /// What is wrong with these values, below `path`.
    pub(in crate::ndjson) fn validate(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: &str| problems.push(Invalid::new(format!("{path}.{field}"), message));
        match (Bucket::parse(&self.url), self.url.split_once("://")) {
            (Some(Err(expected)), _) => refuse("url", expected),
            (Some(Ok(_)), _) | (None, None) if !self.url.is_empty() => {}
            (None, Some(("file", path))) if path.starts_with('/') => {}
            _ => refuse(
                "url",
                "expected the path of a folder, `file:///` and a path, or a bucket: `s3://bucket/folder`, \
                 `gs://bucket/folder` or `az://container/folder`",
            ),
        }
        if self.suffixes.is_empty() {
            refuse("suffixes", "expected at least one suffix, such as `.ndjson`, found none");
        }
        for (index, suffix) in self.suffixes.iter().enumerate() {
            if suffix.is_empty() || suffix.contains('/') {
                refuse(&format!("suffixes[{index}]"), "expected the end of a file's name, such as `.ndjson`");
            }
        }
        if let Some(Ok(bucket)) = Bucket::parse(&self.url) {
            problems.extend(self.bucket.validate(&bucket, &format!("{path}.bucket")));
        }
        problems
    }
}

/// Where `path` leads, or would if it were there. `None` where nobody can tell.
fn resolved(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let (mut there, existing) =
        path.ancestors().find_map(|existing| Some((existing.canonicalize().ok()?, existing)))?;
    for component in path.strip_prefix(existing).ok()?.components() {
        match component {
            Component::ParentDir => {
                there.pop();
            }
            component => there.push(component),
        }
    }
    Some(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_path_or_in_a_bucket() {
        let problems = |url: &str| Config { url: url.to_owned(), ..Config::default() }.validate("folder").len();
        for url in ["/var/log", "logs", "file:///var/log", "./a:b", "s3://bucket/a/b", "gs://bucket"] {
            assert_eq!(problems(url), 0, "{url}");
        }
        for url in ["", "s3://", "s3://b/a//b", "file://host/share", "https://example.com/", "az://container"] {
            assert_eq!(problems(url), 1, "{url}");
        }
        let parent = tempfile::tempdir().unwrap();
        let [folder, below] = ["folder", "folder/below"].map(|name| parent.path().join(name));
        std::fs::create_dir_all(&below).unwrap();
        let config = Config { url: folder.join("below/..").display().to_string(), ..Config::default() };
        assert!(config.reads(&folder) && config.reads(&below) && !config.reads(parent.path()));
        assert!(config.reads(&below.join("later/still")) && !config.reads(&parent.path().join("later")));
        assert!(!Config { url: "s3://bucket".to_owned(), ..Config::default() }.reads(&below));
        let [later, link] = ["later", "link"].map(|name| parent.path().join(name));
        let config = Config { url: later.display().to_string(), ..Config::default() };
        assert!(config.reads(&later.join("copies")) && !config.reads(&folder), "it is made later");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        assert!(config.reads(&link.join("later/copies")));
        assert!(config.reads(&parent.path().join("none/../later/copies")));
        assert!(!config.reads(&later.join("none/../../other")));
        assert!(config.is_in(parent.path()) && config.is_in(&later) && !config.is_in(&later.join("copies")));
        let config = Config { url: "file:///var/a%20b".to_owned(), ..Config::default() };
        assert_eq!(config.path(), PathBuf::from("/var/a b"));
    }

    #[test]
    fn a_suffix_is_the_end_of_a_name() {
        let suffixes = vec![".log".to_owned(), String::new(), "a/b".to_owned()];
        let config = Config { url: "/var/log".to_owned(), suffixes, ..Config::default() };
        let paths: Vec<String> = config.validate("folder").into_iter().map(|problem| problem.path).collect();
        assert_eq!(paths, ["folder.suffixes[1]", "folder.suffixes[2]"]);
        assert_eq!(Config { suffixes: Vec::new(), ..config }.validate("folder").len(), 1);
    }
}
