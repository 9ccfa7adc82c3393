//! What commands learn of the `up` that runs on a data directory.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use rustix::process::geteuid;

use crate::installation::data_dir::DataDir;
use crate::installation::ready::READY_FILE;
use crate::installation::ready::Ready;

/// Reads the ready file of the `up` that runs on `data_dir`.
///
/// # Errors
/// When there is none, when it is another account's, or when its process is gone: it was killed, and nothing
/// answers at the addresses that it left.
pub(crate) fn of(data_dir: &Path) -> anyhow::Result<Ready> {
    let path = data_dir.join(READY_FILE);
    let (ready, own) = (Ready::read(&path)?, geteuid());
    let owner = path.metadata().with_context(|| format!("cannot read {}", path.display()))?.uid();
    // Root may look after any account's; everybody else would send secrets wherever another account says.
    anyhow::ensure!(
        own.is_root() || owner == own.as_raw(),
        "expected {} to belong to this account (user id {}), found it to be that of user id {owner}; name the --data-dir \
         of an `up` of your own",
        path.display(),
        own.as_raw()
    );
    let process = ready.pids.get("headrace").map_or_else(|| "it".to_owned(), |pid| format!("process {pid}"));
    anyhow::ensure!(
        DataDir::is_taken(data_dir),
        "`headrace up` is not running on {}: {process} is gone, and was killed before it could remove {}; start it again \
         with `headrace up --data-dir {}`",
        data_dir.display(),
        path.display(),
        data_dir.display()
    );
    Ok(ready)
}
