//! Finds the `up` that runs on a data directory, for other commands.

use std::fmt;

use crate::installation::data_dir::DataDir;
use crate::installation::kept;
use crate::installation::locate::Named;
use crate::installation::ready::READY_FILE;
use crate::installation::ready::Ready;

/// No `up` runs on a data directory. Later, one may.
#[derive(Debug)]
pub(crate) struct NotRunning(String);

impl fmt::Display for NotRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotRunning {}

/// Reads the ready file of the `up` that runs on `data_dir`.
///
/// # Errors
/// [`NotRunning`] if there is no file, or if its process was killed and nothing answers at its addresses. Others if the
/// file is another account's ([`kept::open`]), or no ready file.
pub(crate) fn of(data_dir: &Named) -> anyhow::Result<Ready> {
    let kept = kept::open(data_dir, READY_FILE)?;
    let data_dir = data_dir.path.as_path();
    let path = data_dir.join(READY_FILE);
    let Some(file) = kept else {
        let problem = format!("no `headrace up` runs on {}: there is no {}", data_dir.display(), path.display());
        return Err(NotRunning(problem).into());
    };
    let ready = Ready::read(file, &path)?;
    let process = ready.pids.get("headrace").map_or_else(|| "it".to_owned(), |pid| format!("process {pid}"));
    if DataDir::is_taken(data_dir) {
        return Ok(ready);
    }
    let problem = format!(
        "`headrace up` is not running on {}: {process} is gone, and was killed before it could remove {}; start it again \
         with `headrace up --data-dir {}`",
        data_dir.display(),
        path.display(),
        data_dir.display()
    );
    Err(NotRunning(problem).into())
}
