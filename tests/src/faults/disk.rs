//! A file system of its own that a fault can fill. Mounting it needs the right to mount.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// A file system in memory. It stays mounted on a directory until this is dropped.
pub(super) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Makes the directory and mounts a file system of so many bytes on it.
    pub(super) fn mount(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        let size = format!("size={bytes}");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "headrace-faults"]).arg(path).output();
        let output = output.context("cannot run mount")?;
        anyhow::ensure!(
            output.status.success(),
            "cannot mount a small disk on {}; this scenario needs the right to mount: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(Self { path: path.to_owned() })
    }

    /// Takes all the free space.
    pub(super) fn fill(&self) -> anyhow::Result<()> {
        let mut file =
            File::options().create(true).append(true).open(self.ballast()).context("cannot make the ballast")?;
        let zeros = vec![0; 1 << 20];
        // Write big pieces first, then small ones into the rest.
        for piece in [&zeros[..], &zeros[..4096]] {
            while file.write_all(piece).is_ok() {}
        }
        Ok(())
    }

    /// Gives the space back.
    pub(super) fn free(&self) -> anyhow::Result<()> {
        fs::remove_file(self.ballast()).context("cannot remove the ballast")
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Unmount lazily: the servers in it may just be ending.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
