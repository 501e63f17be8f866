//! Which process a process id meant when it was written down.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::output_within;

/// A process id that cannot be mistaken for a later process with the same number: it carries when the process started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The number.
    pub pid: u32,
    /// When it started: on Linux the id of the boot and the clock ticks since then, elsewhere the date that `ps` prints.
    pub started: String,
}

impl ProcessId {
    /// The process that has this number now. `None` if there is none, or only its exit status is left (a zombie).
    pub fn of(pid: u32) -> Option<Self> {
        let started = if fs::exists("/proc/self/stat").unwrap_or(false) {
            from_proc(pid)?
        } else {
            from_ps(pid)?
        };
        Some(Self { pid, started })
    }

    /// Whether the process still runs.
    pub fn is_running(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

fn from_proc(pid: u32) -> Option<String> {
    // Ticks count from the boot, so that without its id an early process of the next boot could be taken for ours.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name in brackets, may itself contain spaces and brackets.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    // starttime is field 22 of proc_pid_stat(5); the state was field 3.
    let ticks = fields.nth(22 - 4)?;
    (!matches!(state, "Z" | "X")).then(|| format!("{} {ticks}", boot.trim()))
}

fn from_ps(pid: u32) -> Option<String> {
    let mut ps = Command::new("ps");
    ps.env("LC_ALL", "C").args(["-o", "stat=,lstart=", "-p", &pid.to_string()]);
    let said = output_within(&mut ps, Duration::from_secs(10)).ok()?;
    let (state, started) = said.trim().split_once(' ')?;
    (!state.starts_with('Z')).then(|| started.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{self, Stdio};

    use super::*;

    #[test]
    fn a_process_is_told_from_another_with_its_number() {
        let me = ProcessId::of(process::id()).unwrap();
        assert!(me.is_running());
        assert!(
            !ProcessId {
                started: "another boot 1".to_owned(),
                ..me.clone()
            }
            .is_running()
        );
        assert_ne!(ProcessId::of(1).unwrap().started, me.started);
    }

    #[test]
    fn a_zombie_does_not_run() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.is_running());
        drop(child.stdin.take());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while id.is_running() {
            assert!(std::time::Instant::now() < deadline, "cat did not end");
            std::thread::yield_now();
        }
        assert!(
            fs::exists(format!("/proc/{}", child.id())).unwrap_or(true),
            "it is still to be reaped"
        );
        child.wait().unwrap();
    }

    #[test]
    fn ps_tells_the_same() {
        let me = from_ps(process::id()).unwrap();
        assert_eq!(from_ps(process::id()), Some(me.clone()));
        assert_eq!(from_ps(u32::MAX / 2), None);
        assert!(me.contains(':'), "a time of day: {me}");
    }
}
