//! Virtual machines as Proxmox reports them.

use std::fmt;

use serde::Deserialize;

use crate::Vmid;
use crate::loose;
use crate::text::is_node_name;

/// Most tags read of one VM.
const MAX_TAGS: usize = 64;
/// Longest word taken for a state, in characters: twice that of QEMU's longest, and what the status of a ManagedVM holds.
const MAX_STATE: usize = 32;

/// QEMU's run state as Proxmox passes it on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RunState {
    /// The guest executes, as far as QEMU knows. A hung monitor is reported like this too.
    Running,
    /// There is no QEMU process.
    Stopped,
    /// Paused by somebody.
    Paused,
    /// Not executing yet: after a reset of a machine that was not executing, until it is resumed.
    Prelaunch,
    /// Paused because storage failed.
    IoError,
    /// QEMU itself met an error it cannot go on from.
    InternalError,
    /// The guest's kernel reported its own panic.
    GuestPanicked,
    /// The guest went to sleep.
    Suspended,
    /// The machine was migrated away, and this process is what is left.
    Postmigrate,
    /// No statistics for 5 minutes: the node is dead, or only its `pvestatd` hangs.
    Unknown,
    /// Any other of QEMU's states, in its own word.
    Other(String),
}

impl RunState {
    /// Reads Proxmox's word. What is too long to be one is [`RunState::Unknown`].
    pub fn parse(word: &str) -> Self {
        let word = crate::text::clean(word);
        match word.as_str() {
            "running" => Self::Running,
            "stopped" => Self::Stopped,
            "paused" => Self::Paused,
            "prelaunch" => Self::Prelaunch,
            "io-error" => Self::IoError,
            "internal-error" => Self::InternalError,
            "guest-panicked" => Self::GuestPanicked,
            "suspended" => Self::Suspended,
            "postmigrate" => Self::Postmigrate,
            "unknown" | "" => Self::Unknown,
            _ if word.chars().count() > MAX_STATE => Self::Unknown,
            _ => Self::Other(word),
        }
    }

    /// Proxmox's word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Prelaunch => "prelaunch",
            Self::IoError => "io-error",
            Self::InternalError => "internal-error",
            Self::GuestPanicked => "guest-panicked",
            Self::Suspended => "suspended",
            Self::Postmigrate => "postmigrate",
            Self::Unknown => "unknown",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a VM's QEMU process exists; it says nothing about the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PowerState {
    /// The process exists.
    Running,
    /// It does not.
    Stopped,
    /// Proxmox said neither.
    Unknown,
}

/// What the machine did since its QEMU process started, in bytes. They survive a reset of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct VmCounters {
    /// Received by the guest. Moves without the guest's doing.
    #[serde(default, deserialize_with = "loose::counter", rename = "netin")]
    pub net_in: u64,
    /// Sent by the guest.
    #[serde(default, deserialize_with = "loose::counter", rename = "netout")]
    pub net_out: u64,
    /// Read by the guest.
    #[serde(default, deserialize_with = "loose::counter", rename = "diskread")]
    pub disk_read: u64,
    /// Written by the guest.
    #[serde(default, deserialize_with = "loose::counter", rename = "diskwrite")]
    pub disk_write: u64,
}

/// One QEMU machine of `GET /cluster/resources`, templates and containers left out.
///
/// `node` and `lock` are current, everything else up to 10 s old. When `status` is
/// [`RunState::Unknown`] the figures are absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmResource {
    /// The VM's number.
    pub vmid: Vmid,
    /// The node it is on.
    pub node: String,
    /// Its name, not unique.
    pub name: Option<String>,
    /// QEMU's state. The last one stays for up to 5 minutes after a node died.
    pub status: RunState,
    /// Seconds since the QEMU process started; a reset does not change it.
    pub uptime: Option<u64>,
    /// What holds its configuration, such as `backup`.
    pub lock: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its pool, if the token may see it.
    pub pool: Option<String>,
    /// The state the HA manager has it in; absent when not managed.
    pub ha_state: Option<String>,
    /// Bytes of memory it may use.
    pub max_memory: Option<u64>,
    /// What it did so far.
    pub counters: VmCounters,
}

/// A row of `GET /cluster/resources?type=vm`.
#[derive(Debug, Deserialize)]
pub(crate) struct ResourceRow {
    #[serde(default, deserialize_with = "loose::small")]
    vmid: Option<Vmid>,
    #[serde(default, deserialize_with = "loose::word")]
    r#type: String,
    #[serde(default, deserialize_with = "loose::word")]
    node: String,
    #[serde(default, deserialize_with = "loose::flag")]
    template: bool,
    #[serde(default, deserialize_with = "loose::text")]
    name: Option<String>,
    #[serde(default, deserialize_with = "loose::word")]
    status: String,
    #[serde(default, deserialize_with = "loose::number")]
    uptime: Option<u64>,
    #[serde(default, deserialize_with = "loose::text")]
    lock: Option<String>,
    #[serde(default, deserialize_with = "loose::word")]
    tags: String,
    #[serde(default, deserialize_with = "loose::text")]
    pool: Option<String>,
    #[serde(default, deserialize_with = "loose::text")]
    hastate: Option<String>,
    #[serde(default, deserialize_with = "loose::number")]
    maxmem: Option<u64>,
    // Not flattened: serde would then buffer every row.
    #[serde(default, deserialize_with = "loose::counter")]
    netin: u64,
    #[serde(default, deserialize_with = "loose::counter")]
    netout: u64,
    #[serde(default, deserialize_with = "loose::counter")]
    diskread: u64,
    #[serde(default, deserialize_with = "loose::counter")]
    diskwrite: u64,
}

impl ResourceRow {
    /// `None` for what is not a QEMU machine of use: a container, a template, or a row that does not
    /// say which VM on which node it is.
    pub(crate) fn into_resource(self) -> Option<VmResource> {
        if self.r#type != "qemu" || self.template || !is_node_name(&self.node) {
            return None;
        }
        Some(VmResource {
            vmid: self.vmid?,
            node: self.node,
            name: self.name,
            status: RunState::parse(&self.status),
            uptime: self.uptime,
            lock: self.lock,
            tags: tags(&self.tags),
            pool: self.pool,
            ha_state: self.hastate,
            max_memory: self.maxmem,
            counters: VmCounters {
                net_in: self.netin,
                net_out: self.netout,
                disk_read: self.diskread,
                disk_write: self.diskwrite,
            },
        })
    }
}

/// Tags are separated by `;`, and by `,` or spaces in older configurations.
fn tags(text: &str) -> Vec<String> {
    text.split([';', ',', ' '])
        .filter(|tag| !tag.is_empty())
        .take(MAX_TAGS)
        .map(str::to_owned)
        .collect()
}

/// What the HA manager does with a VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct HaStatus {
    /// Whether it is in charge; not while its state is `ignored`.
    #[serde(default, deserialize_with = "loose::flag")]
    pub managed: bool,
    /// Its state, such as `started`, `error`, `migrate`.
    #[serde(default, deserialize_with = "loose::text")]
    pub state: Option<String>,
}

/// `GET /nodes/{node}/qemu/{vmid}/status/current`: a VM right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmStatus {
    /// Whether its QEMU process exists.
    pub status: PowerState,
    /// QEMU's state. `running` also when the monitor is hung: see `monitor_answers`.
    pub qmp_status: RunState,
    /// Whether QEMU answered on its monitor: only then is its version (`running-qemu`) in the answer.
    pub monitor_answers: bool,
    /// Its name.
    pub name: Option<String>,
    /// Seconds since the QEMU process started; zero when there is none. A reset does not change it.
    pub uptime: u64,
    /// The QEMU process's id. A reset does not change it.
    pub pid: Option<u32>,
    /// What holds its configuration, such as `backup`.
    pub lock: Option<String>,
    /// What the HA manager does with it.
    pub ha: HaStatus,
    /// Whether a guest agent is enabled in its configuration; not whether one answers.
    pub agent: bool,
    /// Whether it is a template.
    pub template: bool,
    /// What it did so far.
    pub counters: VmCounters,
}

#[derive(Debug, Deserialize)]
pub(crate) struct VmStatusBody {
    #[serde(default, deserialize_with = "loose::word")]
    status: String,
    #[serde(default, deserialize_with = "loose::text")]
    qmpstatus: Option<String>,
    #[serde(default, deserialize_with = "loose::present", rename = "running-qemu")]
    running_qemu: bool,
    #[serde(default, deserialize_with = "loose::text")]
    name: Option<String>,
    #[serde(default, deserialize_with = "loose::counter")]
    uptime: u64,
    #[serde(default, deserialize_with = "loose::small")]
    pid: Option<u32>,
    #[serde(default, deserialize_with = "loose::text")]
    lock: Option<String>,
    #[serde(default)]
    ha: Option<HaStatus>,
    #[serde(default, deserialize_with = "loose::flag")]
    agent: bool,
    #[serde(default, deserialize_with = "loose::flag")]
    template: bool,
    #[serde(default, deserialize_with = "loose::counter")]
    netin: u64,
    #[serde(default, deserialize_with = "loose::counter")]
    netout: u64,
    #[serde(default, deserialize_with = "loose::counter")]
    diskread: u64,
    #[serde(default, deserialize_with = "loose::counter")]
    diskwrite: u64,
}

impl VmStatusBody {
    pub(crate) fn into_status(self) -> VmStatus {
        let status = match self.status.as_str() {
            "running" => PowerState::Running,
            "stopped" => PowerState::Stopped,
            _ => PowerState::Unknown,
        };
        VmStatus {
            status,
            qmp_status: RunState::parse(self.qmpstatus.as_deref().unwrap_or(&self.status)),
            monitor_answers: self.running_qemu,
            name: self.name,
            uptime: self.uptime,
            pid: self.pid,
            lock: self.lock,
            ha: self.ha.unwrap_or_default(),
            agent: self.agent,
            template: self.template,
            counters: VmCounters {
                net_in: self.netin,
                net_out: self.netout,
                disk_read: self.diskread,
                disk_write: self.diskwrite,
            },
        }
    }
}

/// What the QEMU guest agent of a VM does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuestAgent {
    /// It answers: userspace of the guest lives.
    Answers,
    /// It is enabled in the VM's configuration, and does not answer: it hangs with the guest, or is not
    /// installed in it.
    Silent,
    /// It is not enabled in the VM's configuration.
    NotConfigured,
}

impl GuestAgent {
    /// What a refusal says of it; `None` when it says nothing.
    pub(crate) fn of_refusal(reason: &str) -> Option<Self> {
        // The agent died between the check that it is there and the question.
        let timed_out = reason.contains(" qmp command 'guest-") && reason.ends_with("got timeout");
        match reason {
            "No QEMU guest agent configured" => Some(Self::NotConfigured),
            "QEMU guest agent is not running" => Some(Self::Silent),
            _ => timed_out.then_some(Self::Silent),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hung_monitor_shows_only_by_what_is_missing() {
        let status = |json: &str| serde_json::from_str::<VmStatusBody>(json).unwrap().into_status();
        let alive = status(
            r#"{"vmid":100,"status":"running","qmpstatus":"running","pid":"12345","uptime":86400,
                "running-qemu":"10.0.2","ha":{"managed":1,"state":"started"},"agent":1,"netout":"7"}"#,
        );
        assert!(alive.monitor_answers && alive.ha.managed && alive.agent);
        assert_eq!((alive.pid, alive.counters.net_out), (Some(12345), 7));
        let hung = status(r#"{"status":"running","qmpstatus":"running","uptime":5,"ha":{"managed":0}}"#);
        assert_eq!((hung.status, hung.qmp_status), (PowerState::Running, RunState::Running));
        assert!(!hung.monitor_answers && !hung.ha.managed);
        assert!(!status(r#"{"status":"running","running-qemu":null}"#).monitor_answers);
    }

    #[test]
    fn only_machines_that_can_be_acted_on_are_listed() {
        let row = |json: &str| serde_json::from_str::<ResourceRow>(json).unwrap().into_resource();
        let vm = row(
            r#"{"id":"qemu/100","vmid":"100","type":"qemu","node":"pve1","status":"io-error","name":"web1",
                "template":0,"uptime":86400,"maxmem":2,"netin":1,"netout":2,"diskread":3,"diskwrite":4,
                "lock":"backup","tags":"a;b","pool":"p","hastate":"started"}"#,
        )
        .unwrap();
        assert_eq!((vm.vmid, vm.node.as_str(), vm.status), (100, "pve1", RunState::IoError));
        assert_eq!((vm.tags, vm.counters.disk_write), (vec!["a".to_owned(), "b".to_owned()], 4));
        for json in [
            r#"{"vmid":100,"type":"lxc","node":"pve1","status":"running"}"#,
            r#"{"vmid":100,"type":"qemu","node":"pve1","status":"stopped","template":1}"#,
            r#"{"type":"qemu","node":"pve1","status":"running"}"#,
            r#"{"vmid":100,"type":"qemu","node":"../x","status":"running"}"#,
        ] {
            assert_eq!(row(json), None, "{json}");
        }
        let silent = row(r#"{"vmid":100,"type":"qemu","node":"pve1","status":"unknown"}"#).unwrap();
        assert_eq!((silent.status, silent.uptime), (RunState::Unknown, None));
    }

    /// The status of a ManagedVM holds 32 characters of it, and would be refused with more.
    #[test]
    fn a_word_that_is_too_long_for_a_state_is_none() {
        assert_eq!(RunState::parse(&"s".repeat(32)), RunState::Other("s".repeat(32)));
        assert_eq!(RunState::parse(&"s".repeat(33)), RunState::Unknown);
    }

    #[test]
    fn what_a_refusal_says_of_the_guest_agent() {
        for (reason, expected) in [
            ("No QEMU guest agent configured", Some(GuestAgent::NotConfigured)),
            ("QEMU guest agent is not running", Some(GuestAgent::Silent)),
            (
                "VM 100 qmp command 'guest-get-osinfo' failed - got timeout",
                Some(GuestAgent::Silent),
            ),
            ("VM 100 qmp command 'query-status' failed - got timeout", None),
            ("got no worker upid - start worker failed", None),
        ] {
            assert_eq!(GuestAgent::of_refusal(reason), expected, "{reason}");
        }
    }

    proptest! {
        #[test]
        fn no_word_makes_the_parsers_panic(text in any::<String>()) {
            let _ = tags(&text);
            prop_assert_eq!(RunState::parse(RunState::parse(&text).as_str()), RunState::parse(&text));
        }
    }
}
