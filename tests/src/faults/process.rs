//! One `headrace run` process of a fault run. It is started again when it ends.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use headrace_local::child::{Child, Environment, Spec};
use headrace_runtime::crash::{self, Point};
use rustix::process::{Pid, Signal, kill_process};

/// A process, and how to start it.
pub(super) struct Process {
    name: String,
    spec: Spec,
    child: Child,
}

impl Process {
    /// Starts `headrace run <role>` with the configuration `config`.
    pub(super) async fn start(
        program: &(PathBuf, Vec<OsString>),
        role: &str,
        name: &str,
        config: PathBuf,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let mut arguments = program.1.clone();
        arguments.extend(["run", role, "--config"].map(OsString::from));
        arguments.push(config.into_os_string());
        let spec = Spec { program: program.0.clone(), arguments, environment: Environment::Inherited, log };
        let child = Child::spawn(spec.clone()).await.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), spec, child })
    }

    /// Kills the process (`kill -9`) and starts a new one.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.end().await;
        self.start_again().await
    }

    /// Kills the process (`kill -9`), and no more.
    pub(super) async fn end(&self) {
        self.signal(Signal::KILL);
        self.child.wait().await;
    }

    /// Asks the process to end, as a deployment does, and starts a new one.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM);
        self.child.wait().await;
        self.start_again().await
    }

    /// Replaces the process by one that crashes at the n-th passing of `point`.
    pub(super) async fn arm(&mut self, point: Point, passing: u64) -> anyhow::Result<()> {
        self.end().await;
        let mut arguments = vec![OsString::from(format!("{}={}:{passing}", crash::VARIABLE, point.name()))];
        arguments.push(self.spec.program.clone().into_os_string());
        arguments.extend(self.spec.arguments.iter().cloned());
        let spec = Spec {
            program: "/usr/bin/env".into(),
            arguments,
            environment: Environment::Inherited,
            log: self.spec.log.clone(),
        };
        self.child = Child::spawn(spec).await.with_context(|| format!("cannot start {}", self.name))?;
        Ok(())
    }

    /// The same. Waits for that crash for at most `wait_max`, then starts a process that does not crash. Returns false if
    /// the process never came to the point.
    pub(super) async fn crash_at(
        &mut self,
        point: Point,
        passing: u64,
        wait_max: std::time::Duration,
    ) -> anyhow::Result<bool> {
        self.arm(point, passing).await?;
        let crashed = tokio::time::timeout(wait_max, self.child.wait()).await.is_ok();
        if !crashed {
            self.end().await;
        }
        self.start_again().await?;
        Ok(crashed)
    }

    /// Suspends the process.
    pub(super) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes a suspended process.
    pub(super) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Its exit status, if it has ended.
    pub(super) fn ended(&self) -> Option<String> {
        self.child.exited().map(|status| status.to_string())
    }

    /// Whether it was killed, or has killed itself at the point where it was to crash.
    pub(super) fn is_killed(&self) -> bool {
        self.child.exited().is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw()))
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        format!("{}: {}", self.name, self.child.log_tail())
    }

    /// Ends it.
    pub(super) async fn stop(&self) {
        self.child.stop(std::time::Duration::from_secs(10)).await;
    }

    /// Starts a new process in place of one that ended.
    pub(super) async fn start_again(&mut self) -> anyhow::Result<()> {
        self.child =
            Child::spawn(self.spec.clone()).await.with_context(|| format!("cannot start {} again", self.name))?;
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // The process may have ended by itself a moment ago, and that is what we wanted.
        if let Some(pid) = i32::try_from(self.child.pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}
