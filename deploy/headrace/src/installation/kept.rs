//! Reading what `up` keeps in its data directory. It says where secrets are sent, and which files hold them, so it must
//! come from whoever may decide that. `private.rs` tells how it is written.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::process::geteuid;

use crate::installation::locate::{Named, NamedBy};
use crate::installation::opened::{self, OTHERS_WRITE, Trust};

const ROOT: u32 = 0;

/// Opens the file `name` of the data directory; `None` when it is not there.
///
/// # Errors
/// When it is no regular file or cannot be read, or when another account could have put it there. As root a person may
/// name another account's directory. One that lies where it is looked for must be root's.
pub(crate) fn open(data_dir: &Named, name: &str) -> anyhow::Result<Option<File>> {
    let own = geteuid().as_raw();
    let owner = |path: &Path, owner: u32| refuse_foreign(path, owner, own, &data_dir.by);
    let trust = Trust { owner: &owner, closed: OTHERS_WRITE };
    let Some(directory) = opened::directory(&data_dir.path, &trust)? else { return Ok(None) };
    // `up` makes no links here, so none is followed.
    opened::file_in(directory.as_fd(), OsStr::new(name), &data_dir.path.join(name), &trust)
}

/// Reads the file `name` of the data directory, with the errors of [`open`].
pub(crate) fn read_to_string(data_dir: &Named, name: &str) -> anyhow::Result<Option<String>> {
    let Some(mut file) = open(data_dir, name)? else { return Ok(None) };
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(|| format!("cannot read {}", data_dir.path.join(name).display()))?;
    Ok(Some(text))
}

/// Refuses what belongs to another account than `own`. Root owns everything anyway.
fn refuse_foreign(path: &Path, owner: u32, own: u32, by: &NamedBy) -> anyhow::Result<()> {
    // Root may look after any account's installation, but must not come upon one.
    let may_be_anybodys = own == ROOT && *by != NamedBy::Default;
    if [own, ROOT].contains(&owner) || may_be_anybodys {
        return Ok(());
    }
    let (expected, remedy) = match own {
        ROOT => ("root, because nobody named it".to_owned(), "name the directory with --data-dir if you trust it"),
        own => (format!("this account (user id {own}) or to root"), "name the --data-dir of an `up` of your own"),
    };
    anyhow::bail!(
        "expected {} to belong to {expected}, found it to be that of user id {owner}, who could say which files are \
         read as secrets and where they are sent; {remedy}",
        path.display()
    );
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    fn data_dir(path: &Path, by: NamedBy) -> Named {
        Named { path: path.to_owned(), by }
    }

    /// What `read_to_string` says: the text, or why not.
    fn read(path: &Path, by: NamedBy) -> Result<Option<String>, String> {
        read_to_string(&data_dir(path, by), "last-up.json").map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn only_a_directory_that_was_named_may_be_anothers_and_only_for_root() {
        let named = [NamedBy::CommandLine, NamedBy::Environment, NamedBy::Context("live".to_owned())];
        for (own, owner, by_default, by_name) in [
            (ROOT, ROOT, true, true),
            (ROOT, 1_000, false, true),
            (1_000, 1_000, true, true),
            (1_000, ROOT, true, true),
            (1_000, 1_001, false, false),
        ] {
            let is_trusted = |by: &NamedBy| refuse_foreign(Path::new("data"), owner, own, by).is_ok();
            assert_eq!(is_trusted(&NamedBy::Default), by_default, "{own} comes upon a file of {owner}");
            assert!(named.iter().all(|by| is_trusted(by) == by_name), "{own} names a file of {owner}");
        }
    }

    #[test]
    fn what_others_may_write_is_refused_whoever_named_it() {
        let dir = tempfile::tempdir().unwrap();
        let (data, file) = (dir.path(), dir.path().join("last-up.json"));
        let file = file.as_path();
        assert_eq!(read(&data.join("nowhere"), NamedBy::Default), Ok(None));
        assert_eq!(read(data, NamedBy::Default), Ok(None));
        std::fs::write(file, "kept").unwrap();
        for (path, mode, is_refused) in [
            (file, 0o600, false),
            (file, 0o644, false),
            (file, 0o620, true),
            (file, 0o602, true),
            (file, 0o600, false),
            (data, 0o755, false),
            (data, 0o770, true),
            (data, 0o1777, true),
        ] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            for by in [NamedBy::Default, NamedBy::CommandLine] {
                match read(data, by) {
                    Ok(text) => assert!(!is_refused && text.as_deref() == Some("kept"), "{mode:o}"),
                    Err(error) => assert!(is_refused && error.contains("chmod go-w"), "{mode:o}: {error}"),
                }
            }
        }
    }

    #[test]
    fn a_link_is_not_followed_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
        std::fs::write(dir.path().join("elsewhere"), "secret").unwrap();
        symlink("../elsewhere", data.join("last-up.json")).unwrap();
        assert!(read(&data, NamedBy::CommandLine).is_err());
    }

    #[test]
    fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        mkfifoat(CWD, dir.path().join("last-up.json"), Mode::RUSR | Mode::WUSR).unwrap();
        let refused = read(dir.path(), NamedBy::CommandLine).unwrap_err();
        assert!(refused.contains("expected a regular file"), "{refused}");
    }

    #[test]
    fn root_comes_upon_nothing_of_another_account() {
        // Only root can give something away.
        if !geteuid().is_root() {
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        let (dir, link) = (parent.path().join("data"), parent.path().join("link"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        let file = dir.join("last-up.json");
        std::fs::write(&file, "kept").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        symlink(&dir, &link).unwrap();
        assert_eq!(read(&link, NamedBy::Default), Ok(Some("kept".to_owned())));
        // Through a link of root's, to a link of another account.
        let second = parent.path().join("second");
        symlink(&link, &second).unwrap();
        let given_away = |path: &Path, owner: u32| lchown(path, Some(owner), None).unwrap();
        for (path, read_as) in [(&file, &dir), (&dir, &dir), (&link, &link), (&link, &second)] {
            given_away(path, 65_534);
            let refused = read(read_as, NamedBy::Default).unwrap_err();
            assert!(refused.contains("user id 65534") && refused.contains("--data-dir"), "{refused}");
            assert_eq!(read(read_as, NamedBy::CommandLine), Ok(Some("kept".to_owned())), "somebody named it");
            given_away(path, ROOT);
        }
    }
}
