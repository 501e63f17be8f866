//! A child process that cannot outlive its owner. The crate's documentation says how, and why not otherwise.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::Error;
use crate::error::Tried;

/// Becomes the program, leaving a watcher in its process group that kills the group when the pipe on its stdin ends.
/// A line in the pipe ends the watcher instead: then the program is on its own.
///
/// The watcher is started by a subshell that ends at once, so that it is no child of the program: etcd would not reap it.
/// SIGHUP is ignored, and stays ignored across exec: closing a terminal is not the end of what was released from the leash.
const LEASH: &str = r#"
trap '' HUP
exec 3<&0 </dev/null
( { if read -r _ <&3; then exit 0; fi; kill -s KILL 0; } & )
exec 3<&-
exec "$0" "$@"
"#;

/// How long a process may take to vanish after SIGKILL. The kernel needs milliseconds, unless a disk hangs.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// How much of a log goes into an error.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 * 1024;

/// The command that runs the program on a leash; add its arguments, folder and environment.
pub fn leashed(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(LEASH).arg(program);
    command
}

/// A running program, its process group, and the leash that ends them with the owner.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    leash: Option<ChildStdin>,
    log: PathBuf,
    /// The end of the log when this process started: a log is kept across restarts.
    log_start: u64,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a [`leashed`] command; its output is appended to the log.
    pub fn start(name: &'static str, mut command: Command, log: &Path) -> Result<Self, Error> {
        let file = File::options().create(true).append(true).open(log).tried("open", log)?;
        let log_start = file.metadata().tried("read", log)?.len();
        let errors = file.try_clone().tried("open", log)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .tried("run", "sh")?;
        let leash = child.stdin.take();
        Ok(Self {
            name,
            child,
            leash,
            log: log.to_path_buf(),
            log_start,
            status: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has; `None` at the deadline. A deadline in the past only looks.
    ///
    /// It stays a zombie until `finish`, so that its process group keeps its number.
    pub fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>, Error> {
        while self.status.is_none() && !self.has_exited()? {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
        self.finish()
    }

    fn has_exited(&self) -> Result<bool, Error> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let answer = rustix::process::waitid(WaitId::Pid(Pid::from_child(&self.child)), options);
        Ok(answer.tried("wait for", self.name)?.is_some())
    }

    /// Reaps an ended process, after what is left of its group was killed.
    fn finish(&mut self) -> Result<Option<ExitStatus>, Error> {
        if self.status.is_none() {
            self.signal_group(Signal::KILL);
            self.status = Some(self.child.wait().tried("wait for", self.name)?);
            self.leash = None;
        }
        Ok(self.status)
    }

    /// Asks it to end (SIGTERM), without waiting.
    pub fn terminate(&self) {
        if self.status.is_none() {
            // Failing means that it has ended, which the wait that follows sees.
            let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
    }

    /// Halts the process itself (SIGSTOP), as a machine under load or a debugger does.
    pub fn freeze(&self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn thaw(&self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::CONT);
    }

    /// Ends it at once, with its group (SIGKILL).
    pub fn kill(&mut self) -> Result<(), Error> {
        if self.status.is_some() {
            return Ok(());
        }
        self.signal_group(Signal::KILL);
        match self.wait_until(Instant::now() + KILL_PATIENCE)? {
            Some(_) => Ok(()),
            None => Err(Error::StillRunning {
                process: self.name.to_owned(),
                pid: self.pid(),
                waited: KILL_PATIENCE,
            }),
        }
    }

    /// SIGTERM, and SIGKILL at the deadline.
    pub fn stop(&mut self, deadline: Instant) -> Result<(), Error> {
        self.terminate();
        match self.wait_until(deadline)? {
            Some(_) => Ok(()),
            None => self.kill(),
        }
    }

    /// Lets it outlive this process. Its id is the last that is known of it.
    pub fn release(mut self) -> Result<(), Error> {
        if let Some(leash) = &mut self.leash {
            leash.write_all(b"released\n").tried("release", self.name)?;
        }
        // Nothing is left for `drop` to kill.
        self.status = Some(ExitStatus::default());
        Ok(())
    }

    fn signal_group(&self, signal: Signal) {
        // Failing means that no process of the group is left.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// The last lines that it wrote.
    pub fn tail(&self) -> String {
        tail(&self.log, self.log_start)
    }

    /// Fails if it has ended, which none of these programs does by itself.
    pub fn check_running(&mut self) -> Result<(), Error> {
        match self.wait_until(Instant::now())? {
            Some(status) => Err(Error::Exited {
                process: self.name,
                status,
                tail: self.tail(),
            }),
            None => Ok(()),
        }
    }

    /// Asks again and again until the answer is yes. `Err` of the question is its words on why not yet.
    pub fn wait_ready(&mut self, patience: Duration, mut ready: impl FnMut() -> Result<(), String>) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            self.check_running()?;
            match ready() {
                Ok(()) => return Ok(()),
                Err(answer) if began.elapsed() > patience => {
                    return Err(Error::NotReady {
                        process: self.name,
                        waited: patience,
                        answer,
                        tail: self.tail(),
                    });
                }
                Err(_) => thread::sleep(POLL),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The leash, dropped next, is a second attempt.
        let _ = self.kill();
    }
}

/// The last lines of a file, from an offset on. Words if it cannot be read: this is for messages.
fn tail(path: &Path, start: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "(it wrote nothing)".to_owned(),
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
        }
        Err(error) => format!("({} cannot be read: {error})", path.display()),
    }
}
