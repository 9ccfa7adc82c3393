//! Finds out which commit is built, for `headrace --version` and the metric `headrace_build_info`.
//!
//! A source archive has no git and is built all the same: packagers say `HEADRACE_BUILD="abc1234 2026-11-21"`, and
//! without it the version alone is told. A debug build tells no commit, because every commit would compile this crate
//! and its tests anew.

use std::env;
use std::path::Path;
use std::process::Command;

/// What packagers set.
const GIVEN: &str = "HEADRACE_BUILD";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={GIVEN}");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let built = built();
    let commit = built.as_deref().and_then(|built| built.split(' ').next()).unwrap_or("unknown");
    println!("cargo::rustc-env=HEADRACE_COMMIT={commit}");
    let told = built.as_ref().map_or_else(|| version.clone(), |built| format!("{version} ({built})"));
    println!("cargo::rustc-env=HEADRACE_VERSION={told}");
}

/// Commit and date, as far as they are known.
fn built() -> Option<String> {
    if let Some(given) = env::var(GIVEN).ok().filter(|given| !given.trim().is_empty()) {
        return Some(given.trim().to_owned());
    }
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return Some("debug build".to_owned());
    }
    // An archive that was unpacked within another repository is not of its commit.
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    for changes in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", changes])?;
        // Cargo would build anew each time for a file that is not there.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["log", "-1", "--format=%h %cs", "--abbrev=7"])
}

/// What git says about the directory of this crate, if there is a git and it says something.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let said = said.trim();
    (output.status.success() && !said.is_empty()).then(|| said.to_owned())
}
