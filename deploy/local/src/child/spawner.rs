//! The thread that starts every child. The kernel sends a child its parent-death signal when the *thread* that started
//! the child ends, not when the process ends. tokio may end a pool thread at any time, and the kernel would then kill a
//! server for no reason. So one thread starts all children, and it must never end.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal};
use tokio::sync::{oneshot, watch};

use super::{Child, Environment, SpawnError, Spec};

/// The longest log to which a child appends, in bytes. A longer one is emptied when its program starts.
const LOG_BYTES_MAX: u64 = 16 << 20;

struct SpawnRequest {
    spec: Spec,
    reply: oneshot::Sender<io::Result<Child>>,
}

static REQUESTS: LazyLock<std::sync::Mutex<Sender<SpawnRequest>>> = LazyLock::new(|| {
    let (sender, requests) = mpsc::channel::<SpawnRequest>();
    // Thread "child-spawner": lives as long as the process, because the sender is never dropped.
    thread::Builder::new()
        .name("child-spawner".into())
        .spawn(move || {
            for request in requests {
                // If nobody waits for the reply any more, the child is dropped, and the drop kills it.
                let _ = request.reply.send(start(&request.spec));
            }
        })
        .expect("a process that cannot start a thread cannot start a child");
    std::sync::Mutex::new(sender)
});

pub(super) async fn spawn(spec: Spec) -> Result<Child, SpawnError> {
    let program = spec.program.clone();
    let (reply, started) = oneshot::channel();
    let request = SpawnRequest { spec, reply };
    let sent = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner).send(request);
    let ended = || io::Error::other("the thread that starts children has ended");
    let started = match sent {
        Ok(()) => started.await.unwrap_or_else(|_| Err(ended())),
        Err(_) => Err(ended()),
    };
    started.map_err(|source| SpawnError { program, source })
}

/// Variables that any program may need.
const PLAIN: [&str; 9] =
    ["PATH", "HOME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "RUST_BACKTRACE", "XDG_CACHE_HOME"];

fn start(spec: &Spec) -> io::Result<Child> {
    let log = open_log(&spec.log)?;
    let parent = getpid();
    let mut command = Command::new(&spec.program);
    command.args(&spec.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    if spec.environment == Environment::Plain {
        command.env_clear().envs(PLAIN.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    }
    // SAFETY: between fork and exec, only async-signal-safe calls are allowed. `die_with` makes two plain system calls,
    // and its errors allocate nothing.
    unsafe { command.pre_exec(move || die_with(parent)) };
    let mut child = command.spawn()?;
    let pid = child.id();
    let watched = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    // Nobody has waited for the child yet, so the process id is still the child's.
    let pidfd = pidfd_open(watched, PidfdFlags::empty())?;
    let (exit_sender, exit) = watch::channel::<Option<ExitStatus>>(None);
    // Thread "child-<pid>": ends with the child.
    thread::Builder::new().name(format!("child-{pid}")).spawn(move || {
        let status = child.wait().unwrap_or_default();
        exit_sender.send_replace(Some(status));
    })?;
    Ok(Child { pid, pidfd, exit, log: spec.log.clone() })
}

/// Runs in the child, before the program.
fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // If the parent died before the line above, the signal never comes and nobody would ever end this process.
    if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = File::options().create(true).append(true).open(path)?;
    if file.metadata()?.len() > LOG_BYTES_MAX {
        file.set_len(0)?;
    }
    Ok(file)
}
