//! One process group that stands for a guest's userspace.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;
use tokio::sync::watch;

use super::reaper::Reaper;

/// Puts its own process group on the reaper's list, then becomes the command. Until then it keeps
/// the reaper's pipe open: there is no moment at which a killed simulator leaves it unnoticed.
const LAUNCHER: &str = r#"
printf 'watch %s\n' "$$"
console=$1
shift
exec "$@" </dev/null >>"$console" 2>&1
"#;

/// A running command, leader of its own process group. Dropping it kills the group.
#[derive(Debug)]
pub(crate) struct GuestProcess {
    group: Pid,
    exited: watch::Receiver<Option<ExitStatus>>,
}

/// What a command is started with.
pub(crate) struct Launch<'a> {
    pub(crate) command: &'a [String],
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) directory: &'a Path,
    pub(crate) proc_root: &'a Path,
    pub(crate) sys_root: &'a Path,
}

impl GuestProcess {
    /// Starts the command. Its output goes to `console.log` in the guest's directory, and so does the
    /// reason when there is no such program.
    pub(crate) fn spawn(launch: &Launch<'_>, reaper: &Reaper) -> std::io::Result<Self> {
        // The environment of the simulator is not the guest's: only PATH is needed to find programs.
        let mut child = Command::new("/bin/sh")
            .args(["-c", LAUNCHER, "pve-sim-guest"])
            .arg(launch.directory.join("console.log"))
            .args(launch.command)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
            .env("HOME", launch.directory)
            .envs(launch.env)
            .env("DEFIB_PROC_ROOT", launch.proc_root)
            .env("DEFIB_SYS_ROOT", launch.sys_root)
            .stdin(Stdio::null())
            .stdout(reaper.pipe()?)
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()?;
        let raw = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(group) = raw else {
            return Err(std::io::Error::other("the new process has no id"));
        };
        let (tell, exited) = watch::channel(None);
        let reaper = reaper.clone();
        tokio::spawn(async move {
            let status = child.wait().await;
            // The command is the agent: what it leaves in its group ends with it.
            let _ = kill_process_group(group, Signal::KILL);
            reaper.forget(group);
            if let Ok(status) = status {
                tell.send_replace(Some(status));
            }
        });
        Ok(Self { group, exited })
    }

    /// Process id of the leader, which is the id of the group.
    pub(crate) fn pid(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to the whole group. A group that is gone is not an error.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.has_exited() {
            return;
        }
        if let Err(error) = kill_process_group(self.group, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(group = self.pid(), ?signal, %error, "cannot signal a guest");
        }
    }

    /// Whether the leader was reaped.
    pub(crate) fn has_exited(&self) -> bool {
        self.exited.borrow().is_some() || self.exited.has_changed().is_err()
    }

    /// A handle to wait for the end with.
    pub(crate) fn exit(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exited.clone()
    }
}

impl Drop for GuestProcess {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Waits until the leader was reaped; `None` when that could not be observed.
pub(crate) async fn reaped(mut exit: watch::Receiver<Option<ExitStatus>>) -> Option<ExitStatus> {
    match exit.wait_for(Option::is_some).await {
        Ok(status) => *status,
        Err(_) => None,
    }
}
