//! Tasks: what a worker that Proxmox forked is doing, and how it ended.

use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;

use crate::loose;
use crate::text::clean;
use crate::upid::Upid;

/// What can be asked of a VM's power. All need VM.PowerMgmt on the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PowerAction {
    /// The reset button. A machine that was not executing (paused, an I/O error, …) is left in `prelaunch`, and needs a [`Resume`](Self::Resume).
    Reset,
    /// Lets a machine go on that is paused or in `prelaunch`.
    Resume,
    /// The guest is asked to shut down, through its QEMU guest agent where the VM has one, and the VM is started again. A guest that does not end within a minute,
    /// or as long as the VM's `startup` says, makes the task fail - and may still end later.
    Reboot,
    /// Ends the VM's QEMU process. Of a VM that HA manages this only files a request.
    Stop,
    /// Starts the VM. Needs quorum. Of a VM that HA manages this only files a request.
    Start,
}

impl PowerAction {
    /// Proxmox's name, as it stands in a path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Resume => "resume",
            Self::Reboot => "reboot",
            Self::Stop => "stop",
            Self::Start => "start",
        }
    }

    /// The kinds of task that carry it out.
    pub fn tasks(self) -> &'static [TaskKind] {
        match self {
            Self::Reset => &[TaskKind::Reset],
            Self::Resume => &[TaskKind::Resume],
            Self::Reboot => &[TaskKind::Reboot],
            Self::Stop => &[TaskKind::Stop, TaskKind::HaStop],
            Self::Start => &[TaskKind::Start, TaskKind::HaStart],
        }
    }
}

impl fmt::Display for PowerAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kinds of task that are looked for. Their names are Proxmox's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskKind {
    /// `qmreset`: the reset button.
    Reset,
    /// `qmresume`: lets a paused machine go on.
    Resume,
    /// `qmreboot`: shutdown and start.
    Reboot,
    /// `qmstop`.
    Stop,
    /// `qmstart`.
    Start,
    /// `hastop`: the request to HA.
    HaStop,
    /// `hastart`: the request to HA.
    HaStart,
}

impl TaskKind {
    /// Proxmox's name, as it stands in a UPID.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "qmreset",
            Self::Resume => "qmresume",
            Self::Reboot => "qmreboot",
            Self::Stop => "qmstop",
            Self::Start => "qmstart",
            Self::HaStop => "hastop",
            Self::HaStart => "hastart",
        }
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    /// Its worker runs.
    Running,
    /// Its worker ended.
    Finished(TaskExit),
}

/// How a task ended: its exit status, which for failures is the text the worker died with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskExit {
    /// `OK`.
    Ok,
    /// `WARNINGS: n`, which is a success.
    Warnings(u32),
    /// `unexpected status`: the worker was killed, the host restarted, or the log was cut short. What
    /// it did is unknown.
    Unexpected,
    /// `VM is locked (kind)`: a backup, migration, snapshot and so on holds the VM's configuration.
    /// Nothing was done.
    Locked {
        /// Proxmox's word, such as `backup`.
        kind: String,
    },
    /// Another task held the VM's lock file for 10 s. Nothing was done; it can be tried again.
    LockTimeout,
    /// QEMU did not answer on its monitor. It may still carry out the command later.
    QmpUnresponsive,
    /// Any other text, cut at 512 characters.
    Error(String),
}

impl TaskExit {
    /// Reads an exit status. Patterns hold for the whole text: what a guest or an administrator can
    /// put into the middle of a message must not change its meaning.
    pub fn parse(status: &str) -> Self {
        let status = status.trim();
        if status == "OK" {
            return Self::Ok;
        }
        if let Some(count) = status.strip_prefix("WARNINGS: ").and_then(digits) {
            return Self::Warnings(count);
        }
        if status == "unexpected status" {
            return Self::Unexpected;
        }
        if let Some(kind) = lock_kind(status) {
            return Self::Locked { kind: kind.to_owned() };
        }
        let lock_file = status
            .strip_prefix("can't lock file '")
            .and_then(|rest| rest.strip_suffix("' - got timeout"));
        if lock_file.is_some_and(|path| !path.contains('\'')) {
            return Self::LockTimeout;
        }
        if is_qmp_unresponsive(status) {
            return Self::QmpUnresponsive;
        }
        Self::Error(clean(status))
    }

    /// Whether the worker did what it was asked to do, as far as Proxmox knows.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Ok | Self::Warnings(_))
    }
}

/// In Proxmox's own words where there are any.
impl fmt::Display for TaskExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("OK"),
            Self::Warnings(count) => write!(f, "WARNINGS: {count}"),
            Self::Unexpected => f.write_str("unexpected status"),
            Self::Locked { kind } => write!(f, "VM is locked ({kind})"),
            Self::LockTimeout => f.write_str("the VM's lock file was held by another task"),
            Self::QmpUnresponsive => f.write_str("QEMU did not answer on its monitor"),
            Self::Error(text) => f.write_str(text),
        }
    }
}

fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// `VM is locked (backup)`. Lock kinds are single lower-case words with dashes.
fn lock_kind(status: &str) -> Option<&str> {
    let kind = status.strip_prefix("VM is locked (")?.strip_suffix(')')?;
    let valid = (1..=32).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    valid.then_some(kind)
}

/// `VM 100 qmp command 'system_reset' failed - got timeout` or
/// `… - unable to connect to VM 100 qmp socket - timeout after 51 retries`.
fn is_qmp_unresponsive(status: &str) -> bool {
    let cause = || {
        let (vmid, rest) = status.strip_prefix("VM ")?.split_once(" qmp command '")?;
        let (command, cause) = rest.split_once("' failed - ")?;
        digits(vmid)?;
        command
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
            .then_some(cause)
    };
    let connect = |cause: &str| {
        let (vmid, rest) = cause
            .strip_prefix("unable to connect to VM ")?
            .split_once(" qmp socket - timeout after ")?;
        digits(vmid).and(digits(rest.strip_suffix(" retries")?))
    };
    cause().is_some_and(|cause| cause == "got timeout" || connect(cause).is_some())
}

/// One task of a node's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskEntry {
    /// Its name, which also says when it began and what it works on.
    pub upid: Upid,
    /// When it ended, by the node's clock.
    pub ended: Option<Timestamp>,
    /// Where it is.
    pub status: TaskStatus,
}

/// A row of `GET /nodes/{node}/tasks`. User and type are read from the UPID: rows of running tasks
/// and of finished ones differ in whether `user` is split from `tokenid`.
#[derive(Debug, Deserialize)]
pub(crate) struct TaskRow {
    #[serde(default, deserialize_with = "loose::word")]
    upid: String,
    #[serde(default, deserialize_with = "loose::number")]
    endtime: Option<u64>,
    #[serde(default, deserialize_with = "loose::text")]
    status: Option<String>,
}

impl TaskRow {
    pub(crate) fn into_entry(self) -> Option<TaskEntry> {
        let ended = self
            .endtime
            .and_then(|seconds| i64::try_from(seconds).ok())
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        let status = match self.status.as_deref() {
            Some("RUNNING") => TaskStatus::Running,
            Some(exit) => TaskStatus::Finished(TaskExit::parse(exit)),
            None if ended.is_none() => TaskStatus::Running,
            None => TaskStatus::Finished(TaskExit::Unexpected),
        };
        Some(TaskEntry {
            upid: self.upid.parse().ok()?,
            ended,
            status,
        })
    }
}

/// `GET /nodes/{node}/tasks/{upid}/status`.
#[derive(Debug, Deserialize)]
pub(crate) struct TaskStatusBody {
    #[serde(default, deserialize_with = "loose::word")]
    status: String,
    #[serde(default, deserialize_with = "loose::text")]
    exitstatus: Option<String>,
}

impl TaskStatusBody {
    /// `None` when the answer is neither of the two states Proxmox knows.
    pub(crate) fn into_status(self) -> Option<TaskStatus> {
        match self.status.as_str() {
            "running" => Some(TaskStatus::Running),
            "stopped" => Some(TaskStatus::Finished(
                self.exitstatus.as_deref().map_or(TaskExit::Unexpected, TaskExit::parse),
            )),
            _ => None,
        }
    }
}

/// A row of `GET /nodes/{node}/tasks/{upid}/log`.
#[derive(Debug, Deserialize)]
pub(crate) struct LogRow {
    #[serde(default, deserialize_with = "loose::word")]
    pub(crate) t: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_exit_statuses_proxmox_writes() {
        use TaskExit::*;
        let locked = |kind: &str| Locked { kind: kind.into() };
        for (text, exit) in [
            ("OK", Ok),
            ("WARNINGS: 2", Warnings(2)),
            ("unexpected status", Unexpected),
            ("VM is locked (backup)", locked("backup")),
            ("VM is locked (snapshot-delete)", locked("snapshot-delete")),
            ("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", LockTimeout),
            ("VM 100 qmp command 'system_reset' failed - got timeout", QmpUnresponsive),
            (
                "VM 100 qmp command 'system_reset' failed - unable to connect to VM 100 qmp socket - timeout after 51 retries",
                QmpUnresponsive,
            ),
            ("VM 100 not running", Error("VM 100 not running".into())),
        ] {
            assert_eq!(TaskExit::parse(text), exit, "{text}");
        }
    }

    #[test]
    fn patterns_hold_for_the_whole_text_only() {
        for text in [
            "",
            "ok",
            "OK, but",
            "WARNINGS: two",
            "WARNINGS: -1",
            "WARNINGS: 99999999999999",
            "hook failed: VM is locked (backup)",
            "VM is locked (backup) since noon",
            "VM is locked ()",
            "VM is locked (a) and VM is locked (b)",
            "can't lock file '/x' - no such file, or so: ' - got timeout",
            "VM 100 qmp command 'system_reset' failed - got timeout or so",
            "VM x qmp command 'system_reset' failed - got timeout",
            "VM 100 qmp command 'system_reset' failed - unable to connect to VM 100 qmp socket - Connection refused",
        ] {
            assert!(matches!(TaskExit::parse(text), TaskExit::Error(_)), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let exit = TaskExit::parse(&text);
            prop_assert!(exit.to_string().chars().count() <= 512);
        }

        #[test]
        fn near_misses_do_not_panic(
            text in "(VM |CT |can't lock file '|WARNINGS: )[0-9a-z()' -]{0,12}(qmp command '|is locked \\(|' - got timeout)[a-z_0-9()' -]{0,30}",
        ) {
            let _ = TaskExit::parse(&text);
        }

        #[test]
        fn only_ok_and_warnings_are_success(text in "\\PC{0,40}") {
            if TaskExit::parse(&text).is_success() {
                prop_assert!(text.trim() == "OK" || text.trim().starts_with("WARNINGS: "));
            }
        }
    }
}
