//! Finds the commit that is being built, for `headrace --version` and the metric `headrace_build_info`.
//!
//! A source archive has no git and must build too. Packagers set `HEADRACE_BUILD="abc1234 2026-11-21"`; without it, the
//! version comes alone. A debug build has no commit, because otherwise every commit would compile this crate and its
//! tests again.

use std::env;
use std::path::Path;
use std::process::Command;

/// The variable that packagers set.
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

/// Commit and date, if they are known.
fn built() -> Option<String> {
    if let Some(given) = env::var(GIVEN).ok().filter(|given| !given.trim().is_empty()) {
        return Some(given.trim().to_owned());
    }
    if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        return Some("debug build".to_owned());
    }
    // An archive may have been unpacked inside another repository. That repository's commit is not ours.
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    for changes in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", changes])?;
        // For a file that does not exist, cargo would build again every time.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["log", "-1", "--format=%h %cs", "--abbrev=7"])
}

/// The output of git in the directory of this crate. `None` without git, after an error, or if it is empty.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let said = said.trim();
    (output.status.success() && !said.is_empty()).then(|| said.to_owned())
}
