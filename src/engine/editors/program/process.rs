//! A program as a process of its own: how it starts, how it ends, and that nothing of it is left behind.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

#[cfg(target_os = "linux")]
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::noise::Noise;
use crate::authoring::editor::Run;

/// What a program gets of the gate's own variables.
const INHERITED: [&str; 3] = ["PATH", "HOME", "LANG"];

/// How many bytes the pipes to and from a program hold.
#[cfg(target_os = "linux")]
const PIPE: i32 = 1 << 20;

/// How long dropping a program waits for the system to end it.
const KILLED: Duration = Duration::from_millis(500);

/// A program that runs, in a process group of its own. Dropping it kills the group.
pub(super) struct Process {
    group: Arc<Group>,
    ended: watch::Receiver<Option<ExitStatus>>,
    noise: Option<Noise>,
}

/// The pipes to and from a program.
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
}

/// The process group of a program.
struct Group {
    id: Pid,
    /// Whether its leader is gone, so that its number may be another's.
    gone: Mutex<bool>,
    ended: Condvar,
}

impl Process {
    /// Starts a program.
    pub(super) fn start(run: &Run, step: &str) -> io::Result<(Self, Pipes)> {
        hide_from_programs();
        keep_to_itself();
        let mut command = Command::new(run.command.first().map_or("", String::as_str));
        command.args(run.command.iter().skip(1)).env_clear().process_group(0);
        command.envs(INHERITED.iter().filter_map(|name| Some((name, env::var_os(name)?))));
        command.envs(&run.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let group = Arc::new(Group {
            id: Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()),
            gone: Mutex::new(false),
            ended: Condvar::new(),
        });
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (sender, ended) = watch::channel(None);
        let own = group.clone();
        // from here on the process is waited for, whatever becomes of the rest
        thread::Builder::new().name("end of a program".to_owned()).spawn(move || {
            let status = own.reap(child);
            sender.send_replace(status);
        })?;
        let mut process = Process { group, ended, noise: None };
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("it has no pipes"));
        };
        process.noise = Some(Noise::read(stderr, step)?);
        widen(&stdin);
        widen(&stdout);
        let pipes =
            Pipes { stdin: ChildStdin::from_std(stdin)?, stdout: ChildStdout::from_std(stdout)? };
        Ok((process, pipes))
    }

    /// How the program ended, if it has.
    pub(super) fn has_ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// How the program ended, once it has.
    pub(super) async fn ended(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.clone();
        let status = ended.wait_for(Option::is_some).await;
        status.ok().and_then(|status| *status)
    }

    /// Asks the program and what it started to end.
    pub(super) fn terminate(&self) {
        self.group.signal(Signal::SIGTERM);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.group.signal(Signal::SIGKILL);
        let gone = self.group.gone();
        // a moment, so that nothing of it is left where the gate itself ends now
        let _ = self.group.ended.wait_timeout_while(gone, KILLED, |gone| !*gone);
        if let Some(noise) = self.noise.take() {
            noise.log();
        }
    }
}

impl Group {
    fn gone(&self) -> MutexGuard<'_, bool> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a signal to all of the group, unless the group is not the program's any more.
    fn signal(&self, signal: Signal) {
        let gone = self.gone();
        if !*gone {
            // it may have ended just now
            let _ = killpg(self.id, signal);
        }
    }

    /// Waits until the leader has ended, ends what it left running, and lets the system forget all of them.
    fn reap(&self, mut leader: Child) -> Option<ExitStatus> {
        wait_for_end(self.id, &mut leader);
        let status = {
            let mut gone = self.gone();
            // its number is still its own, and so is the group's
            let _ = killpg(self.id, Signal::SIGKILL);
            let status = leader.wait().ok();
            *gone = true;
            status
        };
        self.ended.notify_all();
        // where the gate is the first process of a container, it becomes the parent of what the program started
        while waitpid(Pid::from_raw(-self.id.as_raw()), None).is_ok() {}
        status
    }
}

/// Waits until a process has ended, and leaves it to be waited for once more.
#[cfg(target_os = "linux")]
fn wait_for_end(id: Pid, _: &mut Child) {
    use nix::errno::Errno;
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(id), flags) == Err(Errno::EINTR) {}
}

/// The same where the system has no such call.
#[cfg(not(target_os = "linux"))]
fn wait_for_end(_: Pid, leader: &mut Child) {
    while let Ok(None) = leader.try_wait() {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Lets a pipe hold more than a few messages, where the system does.
#[cfg(target_os = "linux")]
fn widen(pipe: &impl AsFd) {
    if let Err(error) = fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE)) {
        tracing::debug!(%error, "the pipes of the program stay small");
    }
}

#[cfg(not(target_os = "linux"))]
fn widen(_: &impl AsFd) {}

/// Lets no program inherit what the gate inherited itself: open descriptors, which may be the pipe that its connection
/// string came from, and that ends of child processes are ignored, after which nobody would learn how a program ended.
fn keep_to_itself() {
    close_fds::CloseFdsBuilder::new().cloexecfrom(3);
    if let Err(error) = signal(SignalKind::child()) {
        tracing::debug!(%error, "how programs end may not be seen");
    }
}

/// Makes the gate's memory and variables unreadable for its programs, which have its user: `/proc` then belongs to root,
/// and no debugger attaches.
fn hide_from_programs() {
    #[cfg(target_os = "linux")]
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::debug!(%error, "programs may be able to read the gate's memory");
    }
}
