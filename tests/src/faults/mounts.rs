//! Lets a test mount file systems: it runs once more, alone, in a mount namespace of its own. Nothing is mounted
//! outside, and the kernel unmounts everything when the last process in the namespace ends.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use headrace_local::child::{Child, Environment, Spec};

/// The variable that tells a test that it may mount. It names the namespace outside, in which nobody may.
const MAY_MOUNT: &str = "HEADRACE_TEST_MAY_MOUNT";
/// The mount namespace of this process: a link whose text is its name, such as `mnt:[4026531841]`.
const OWN_NAMESPACE: &str = "/proc/self/ns/mnt";
/// The ways into such a namespace: the first needs root, the second a kernel that gives everybody user namespaces.
const WAYS: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
/// How long a test may take in there. It only ends one that hangs.
const WITHIN: Duration = Duration::from_secs(600);

/// Whether this process runs in a namespace in which it may mount: another than the one that the variable names. So
/// nothing is mounted in the namespace of a person who sets the variable.
#[must_use]
pub fn may_mount() -> bool {
    let (Ok(outside), Ok(own)) = (std::env::var(MAY_MOUNT), std::fs::read_link(OWN_NAMESPACE)) else { return false };
    outside.starts_with("mnt:[") && own.as_os_str() != outside.as_str()
}

/// How `unshare` makes a namespace in which we may mount, tried on the directory `dir`.
///
/// # Errors
/// When this machine gives us no right to mount; with what was tried.
pub fn way_to_mount(dir: &Path) -> anyhow::Result<&'static [&'static str]> {
    let mut refusals = Vec::new();
    for way in WAYS {
        let mut command = Command::new("unshare");
        command.args(way).args(["mount", "-t", "tmpfs", "-o", "size=1m", "headrace-faults"]).arg(dir);
        let refusal = match command.output() {
            Ok(output) if output.status.success() => return Ok(way),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        refusals.push(format!("`unshare {}`: {refusal}", way.join(" ")));
    }
    anyhow::bail!("expected the right to mount as root or in a user namespace, found none: {}", refusals.join("; "))
}

/// Runs the test `name` of this program once more, alone, where it may mount. Its output goes to a file in `dir`.
///
/// # Errors
/// When it fails there, with its output.
pub async fn run_again(name: &str, way: &[&str], dir: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let outside = std::fs::read_link(OWN_NAMESPACE).context("cannot tell the own mount namespace")?;
    let may_mount = format!("{MAY_MOUNT}={}", outside.display());
    let mut arguments: Vec<OsString> = way.iter().copied().map(OsString::from).collect();
    arguments.extend(["/usr/bin/env".into(), may_mount.into(), program.into_os_string()]);
    arguments.extend(["--exact", name, "--nocapture"].map(OsString::from));
    let log = dir.join("with-mounts.log");
    // The kernel kills it when this process ends, and the servers in it with it.
    let spec = Spec { program: "unshare".into(), arguments, environment: Environment::Inherited, log: log.clone() };
    let child = Child::spawn(spec).await?;
    let ended = tokio::time::timeout(WITHIN, child.wait()).await;
    let output = String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()).into_owned();
    let status = ended.with_context(|| format!("{name} did not end within {WITHIN:?}: {output}"))?;
    // A name that no test has runs nothing, and succeeds.
    let has_passed = status.success() && output.contains("test result: ok. 1 passed");
    anyhow::ensure!(has_passed, "expected {name} to pass where it may mount, found {status}: {output}");
    Ok(())
}
