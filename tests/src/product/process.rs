//! One `headrace` process: its start, its ready file, its end. A process must not outlive its test.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};

use headrace_local::child::{Child, Environment, Spec};
use headrace_local::poll;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::Command;

use crate::harness::CEILING;

/// What would change a test's configuration if the person who runs it has it set.
const AMBIENT: [&str; 6] = [
    "CLICOLOR_FORCE",
    "HEADRACE_CONFIG",
    "HEADRACE_CONTEXT",
    "HEADRACE_DATA_DIR",
    "HEADRACE_WEBHOOK_SECRET",
    "HEADRACE_CLICKHOUSE_PASSWORD",
];
/// Where a person's own configuration and contexts would be: nowhere.
const CONFIG_DIR: [&str; 2] = ["HEADRACE_CONFIG_DIR", "/nonexistent"];

/// The content of the ready file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ready {
    /// The gateway's URL, without a path.
    pub gateway: Option<String>,
    /// The NATS server's URL.
    pub nats: Option<String>,
    /// The URL of ClickHouse's HTTP interface.
    pub clickhouse: Option<String>,
    /// The URL of health and metrics, without a path.
    pub metrics: String,
    /// The secret to sign with.
    pub webhook_secret: Option<String>,
    /// The tokens to send with, by source.
    #[serde(default)]
    pub tokens: BTreeMap<String, String>,
    /// Process ids by name.
    pub pids: BTreeMap<String, u32>,
}

/// A `headrace up` or `headrace run` that is to be started.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    directory: Option<PathBuf>,
    ready_file: PathBuf,
    log: PathBuf,
}

impl Launch {
    /// `up` with free ports, on the data directory `data` in `dir`.
    #[must_use]
    pub fn up(program: impl Into<PathBuf>, dir: &Path) -> Self {
        let launch = Self::new(program.into(), "up", "up", dir);
        let launch = launch.argument("--data-dir").argument(dir.join("data"));
        let ports = ["--gateway-port", "--metrics-port", "--nats-port", "--clickhouse-port"];
        ports.into_iter().fold(launch, |launch, port| launch.argument(port).argument("0"))
    }

    /// `run` of one role with the configuration `config`. Its files are in `dir`.
    #[must_use]
    pub fn run(program: impl Into<PathBuf>, role: &str, config: &Path, dir: &Path) -> Self {
        Self::new(program.into(), "run", role, dir).argument("--config").argument(config).argument(role)
    }

    fn new(program: PathBuf, command: &str, name: &str, dir: &Path) -> Self {
        let ready_file = dir.join(format!("{name}.ready.json"));
        let log = dir.join(format!("{name}.log"));
        let launch = Self { program, arguments: Vec::new(), environment: Vec::new(), directory: None, ready_file, log };
        let ready_file = launch.ready_file.clone();
        launch.argument(command).argument("--ready-file").argument(ready_file)
    }

    /// Adds an argument. A later `--x-port` replaces an earlier one only if the command allows it.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Replaces the value of an option that was given before.
    ///
    /// # Panics
    /// When it was not given.
    #[must_use]
    pub fn replace(mut self, option: &str, value: impl Into<OsString>) -> Self {
        let at = self.arguments.iter().position(|argument| argument == option).expect("the option is given");
        self.arguments[at + 1] = value.into();
        self
    }

    /// Sets an environment variable, such as `HEADRACE__PIPELINE__CHAINS`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn within(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Starts the process and waits until it reports that everything answers.
    ///
    /// # Panics
    /// When it ends instead; its log is in the message.
    pub async fn start(self) -> Running {
        // The ready file of an earlier process says nothing about this one.
        let _ = std::fs::remove_file(&self.ready_file);
        let child = self.spawn().await;
        let ready = tokio::select! {
            ready = poll::until("the ready file", CEILING, async || read(&self.ready_file)) => ready,
            status = child.wait() => panic!("it ended instead ({status}): {}", self.log_text()),
        };
        let ready = ready.unwrap_or_else(|error| panic!("{error}: {}", self.log_text()));
        Running { child, ready, launch: self }
    }

    /// Starts the process and waits for it to end by itself. Returns its exit code and its output.
    ///
    /// # Panics
    /// When it keeps running.
    pub async fn refused(self) -> (Option<i32>, String) {
        let child = self.spawn().await;
        let status = tokio::time::timeout(CEILING, child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it goes on running: {}", self.log_text()));
        (status.code(), self.log_text())
    }

    /// Starts the process and runs it until `done`. Then it ends it with Ctrl-C. Returns false when the process ended by
    /// itself before.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn until(self, done: impl Future<Output = ()>) -> bool {
        let child = self.spawn().await;
        tokio::select! {
            () = done => {}
            _ = child.wait() => return false,
        }
        signal(child.pid(), Signal::INT);
        let status = tokio::time::timeout(CEILING, child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end: {}", self.log_text()));
        assert!(status.success(), "it ended with {status}: {}", self.log_text());
        true
    }

    /// `env` sets the variables and then becomes the program. So the child keeps its process id and its log, and does
    /// not outlive the test.
    async fn spawn(&self) -> Child {
        let within = self.directory.iter().flat_map(|directory| [OsString::from("-C"), directory.into()]);
        let unset = AMBIENT.iter().flat_map(|name| [OsString::from("-u"), name.into()]);
        let own = [OsString::from(CONFIG_DIR.join("="))];
        let set = self.environment.iter().map(|(name, value)| {
            let mut pair = OsString::from(format!("{name}="));
            pair.push(value);
            pair
        });
        let program = [self.program.clone().into_os_string()];
        let arguments =
            within.chain(unset).chain(own).chain(set).chain(program).chain(self.arguments.iter().cloned()).collect();
        let spec = Spec {
            program: "/usr/bin/env".into(),
            arguments,
            environment: Environment::Inherited,
            log: self.log.clone(),
        };
        Child::spawn(spec).await.expect("`env` is everywhere")
    }

    fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

/// A running `headrace`. Dropping this kills it.
pub struct Running {
    child: Child,
    ready: Ready,
    launch: Launch,
}

impl Running {
    /// Where everything answers, as reported at the start.
    #[must_use]
    pub const fn ready(&self) -> &Ready {
        &self.ready
    }

    /// What the ready file says now.
    #[must_use]
    pub fn ready_now(&self) -> Ready {
        read(&self.launch.ready_file).expect("it is replaced in one step")
    }

    /// Waits until the ready file names another process `name` than `before`.
    pub async fn started_again(&self, name: &str, before: u32) -> Ready {
        let what = format!("another process {name} is in the ready file");
        let condition = async || Some(self.ready_now()).filter(|ready| ready.pids[name] != before);
        poll::until(&what, CEILING, condition).await.unwrap_or_else(|error| panic!("{error}: {}", self.log()))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// All its output on stdout and stderr.
    #[must_use]
    pub fn log(&self) -> String {
        self.launch.log_text()
    }

    /// Where its ready file is.
    #[must_use]
    pub fn ready_file(&self) -> &Path {
        &self.launch.ready_file
    }

    /// Sends Ctrl-C and waits for the end.
    pub async fn interrupt(&self) -> ExitStatus {
        signal(self.pid(), Signal::INT);
        self.ended().await
    }

    /// Kills it (`kill -9`) and waits for the end.
    pub async fn kill(&self) {
        signal(self.pid(), Signal::KILL);
        assert_eq!(self.ended().await.signal(), Some(Signal::KILL.as_raw()));
    }

    /// Sends Ctrl-C. The process must end without an error.
    pub async fn stop(self) {
        let status = self.interrupt().await;
        assert!(status.success(), "it ended with {status}: {}", self.log());
    }

    /// Waits for the end, which something else causes.
    pub async fn ended(&self) -> ExitStatus {
        let ended = tokio::time::timeout(CEILING, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end: {}", self.log()))
    }
}

fn read(path: &Path) -> Option<Ready> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Sends a signal to a process that nobody has waited for yet.
///
/// # Panics
/// When there is no such process.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("process ids are positive");
    kill_process(pid, signal).expect("the process runs");
}

/// Whether a process runs. A process that has ended but was not reaped does not.
#[must_use]
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Suspends a process, and waits until every one of its threads has stopped. Until then, it may still answer.
pub async fn freeze(pid: u32) {
    signal(pid, Signal::STOP);
    let is_stopped = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    let all_stopped = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut stats = threads.map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        stats.all(|stat| stat.is_some_and(is_stopped)).then_some(())
    };
    let what = format!("process {pid} has stopped");
    let stopped = poll::until(&what, CEILING, || std::future::ready(all_stopped())).await;
    stopped.unwrap_or_else(|error| panic!("{error}"));
}

/// Waits until a process no longer runs.
pub async fn gone(pid: u32) {
    let what = format!("process {pid} is gone");
    let condition = || std::future::ready((!runs(pid)).then_some(()));
    poll::until(&what, CEILING, condition).await.unwrap_or_else(|error| panic!("{error}"));
}

/// Runs a command to its end, without the variables that would change its configuration.
pub async fn command(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    command_into(Stdio::piped(), program, arguments).await
}

/// The same with a stdout of the caller's.
pub async fn command_into(
    stdout: impl Into<Stdio>,
    program: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).kill_on_drop(true);
    for name in AMBIENT {
        command.env_remove(name);
    }
    let [name, value] = CONFIG_DIR;
    command.env(name, value);
    let child = command.spawn().expect("the program was built for this test");
    let output = tokio::time::timeout(CEILING, child.wait_with_output()).await;
    output.expect("a command ends by itself").expect("its output can be read")
}

/// The output of a command on stdout.
#[must_use]
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The output of a command on stderr.
#[must_use]
pub fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
