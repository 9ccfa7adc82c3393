//! Builds another commit's bench as this one was built, and keeps the program for the next time.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use headrace_local::install::user_cache_dir;
use serde::Serialize;
use tempfile::TempDir;

use super::Built;
use crate::cli::PRODUCTS;
use crate::servers::own_program;

/// The package and its program.
const BENCH: &str = "headrace-benches";
/// The allocator of production builds.
const JEMALLOC: &str = "jemalloc";

/// How a commit is built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Recipe {
    profile: String,
    features: Vec<&'static str>,
}

impl Recipe {
    /// As this program was built, with `profile`, as far as the other commit knows it. `root` is its Cargo.toml, `bench`
    /// that of its benches.
    pub(super) fn of(profile: &str, jemalloc: bool, root: &str, bench: &str) -> Self {
        // Before there was `dist`, `release` was what production builds were made of.
        let has_dist = root.contains("[profile.dist]");
        let profile = if profile == "dist" && !has_dist { "release" } else { profile };
        // Before it was a feature, every bench had that allocator.
        let has_feature = bench.lines().any(|line| line.starts_with("jemalloc = ["));
        let features = if jemalloc && has_feature { vec![JEMALLOC] } else { Vec::new() };
        Self { profile: profile.to_owned(), features }
    }
}

/// The program of `commit`. Without `target_dir`, it is built in Headrace's cache.
pub(super) fn build(commit: &str, target_dir: Option<&Path>) -> anyhow::Result<Built> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let commit =
        git(repository, ["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{commit}^{{commit}}")])
            .with_context(|| format!("expected a commit of {}, found `{commit}`", repository.display()))?;
    let target_dir = match target_dir {
        Some(dir) => std::path::absolute(dir).context("cannot tell where --target-dir is")?,
        None => user_cache_dir()?.join("bench-target"),
    };
    let profile = profile(&own_program()?)?;
    let file = |path: &str| git(repository, ["show", &format!("{commit}:{path}")]);
    let recipe = Recipe::of(&profile, cfg!(feature = "jemalloc"), &file("Cargo.toml")?, &file("benches/Cargo.toml")?);
    let program = kept(&target_dir, &commit, &recipe);
    if program.exists() {
        eprintln!("{commit} is built already: {}", program.display());
        return Ok(Built { commit, program, recipe });
    }
    let sources = Worktree::add(repository, &commit)?;
    eprintln!("building {commit} into {}", target_dir.display());
    let built = cargo(&sources.path, &target_dir, &recipe)?;
    let dir = program.parent().context("it is in a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // Renamed in one step, so that no half of a program is ever taken for it.
    let copy = dir.join("copy");
    let copied = fs::copy(&built, &copy).and_then(|_| fs::rename(&copy, &program));
    copied.with_context(|| format!("cannot copy {} to {}", built.display(), program.display()))?;
    Ok(Built { commit, program, recipe })
}

/// Where the program of a commit is kept. Another commit's build replaces the one in cargo's own place.
fn kept(target_dir: &Path, commit: &str, Recipe { profile, features }: &Recipe) -> PathBuf {
    let variant = [&[profile.as_str()], features.as_slice()].concat().join("-");
    target_dir.join(PRODUCTS).join(commit).join(variant).join(BENCH)
}

/// The profile that `program` was built with. Cargo names the directory after it, except for `dev`.
fn profile(program: &Path) -> anyhow::Result<String> {
    let dir = program.parent().map(|dir| if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir });
    let name = dir.and_then(Path::file_name).and_then(OsStr::to_str);
    match name {
        Some("debug") => Ok("dev".to_owned()),
        Some(name @ ("release" | "dist")) => Ok(name.to_owned()),
        _ => anyhow::bail!(
            "expected a program where cargo puts it, such as target/dist/{BENCH}, found {}; run it with `cargo run`",
            program.display()
        ),
    }
}

/// Builds the bench in `sources`. Returns its program.
fn cargo(sources: &Path, target_dir: &Path, Recipe { profile, features }: &Recipe) -> anyhow::Result<PathBuf> {
    // `cargo run` says which cargo it is: the other commit gets the same compiler.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.current_dir(sources).args(["build", "--locked", "--package", BENCH, "--profile", profile]);
    command.arg("--target-dir").arg(target_dir);
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    // Stdout is for the report.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {}", cargo.display()))?;
    anyhow::ensure!(status.success(), "cargo build ended with {status}");
    let dir = if profile == "dev" { "debug" } else { profile.as_str() };
    Ok(target_dir.join(dir).join(BENCH))
}

/// The sources of a commit in a directory of their own, removed at the end.
struct Worktree {
    repository: PathBuf,
    path: PathBuf,
    _dir: TempDir,
}

impl Worktree {
    fn add(repository: &Path, commit: &str) -> anyhow::Result<Self> {
        let dir = TempDir::with_prefix("headrace-compare-").context("cannot make a directory")?;
        let path = dir.path().join("sources");
        let arguments = [OsStr::new("worktree"), "add".as_ref(), "--detach".as_ref(), path.as_ref(), commit.as_ref()];
        git(repository, arguments).with_context(|| format!("cannot check {commit} out"))?;
        Ok(Self { repository: repository.to_owned(), path, _dir: dir })
    }
}

impl Drop for Worktree {
    fn drop(&mut self) {
        let arguments = [OsStr::new("worktree"), "remove".as_ref(), "--force".as_ref(), self.path.as_ref()];
        if let Err(error) = git(&self.repository, arguments) {
            eprintln!("a worktree stays at {}: {error:#}", self.path.display());
        }
    }
}

/// What git prints.
fn git<A: AsRef<OsStr>>(repository: &Path, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
    let output = Command::new("git").arg("-C").arg(repository).args(arguments).output().context("cannot start git")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    anyhow::ensure!(output.status.success(), "git: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_that_of_cargos_directory() {
        let told = |path: &str| profile(Path::new(path)).ok();
        assert_eq!(told("/x/target/dist/headrace-benches").as_deref(), Some("dist"));
        assert_eq!(told("/x/debug/headrace-benches").as_deref(), Some("dev"));
        assert_eq!(told("/x/target/release/deps/headrace_benches-0").as_deref(), Some("release"));
        assert_eq!(told("/usr/bin/headrace-benches"), None);
    }

    #[test]
    fn an_older_commit_is_built_as_production_builds_were_then() {
        let (dist, feature) = ("[profile.release]\n[profile.dist]\n", "[features]\njemalloc = [\"dep:x\"]\n");
        let recipe = |profile: &str, features: &[&'static str]| Recipe {
            profile: profile.to_owned(),
            features: features.to_vec(),
        };
        assert_eq!(Recipe::of("dist", true, dist, feature), recipe("dist", &[JEMALLOC]));
        assert_eq!(Recipe::of("dist", true, "[profile.release]", "[dependencies]"), recipe("release", &[]));
        assert_eq!(Recipe::of("dev", false, dist, feature), recipe("dev", &[]));
    }

    #[test]
    fn each_commit_profile_and_feature_has_a_program_of_its_own() {
        let recipe = |profile: &str, jemalloc| Recipe::of(profile, jemalloc, "[profile.dist]", "jemalloc = []");
        let kept = |commit: &str, profile, jemalloc| kept(Path::new("/t"), commit, &recipe(profile, jemalloc));
        let all = [kept("a", "dist", true), kept("b", "dist", true), kept("a", "dev", true), kept("a", "dist", false)];
        assert!(all.iter().enumerate().all(|(at, program)| !all[..at].contains(program)), "{all:?}");
        assert!(all[0].starts_with("/t/products/a"));
    }

    #[test]
    fn a_commit_is_checked_out_beside_and_removed() {
        let dir = TempDir::new().unwrap();
        let repository = dir.path();
        for arguments in [
            &["init", "--quiet"][..],
            &["-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "--allow-empty", "-m", "first"],
        ] {
            git(repository, arguments).unwrap();
        }
        let commit = git(repository, ["rev-parse", "HEAD"]).unwrap();
        let worktree = Worktree::add(repository, &commit).unwrap();
        let path = worktree.path.clone();
        assert_eq!(git(&path, ["rev-parse", "HEAD"]).unwrap(), commit);
        drop(worktree);
        assert!(!path.exists());
        assert_eq!(git(repository, ["worktree", "list"]).unwrap().lines().count(), 1);
    }
}
