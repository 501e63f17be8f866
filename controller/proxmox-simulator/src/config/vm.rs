//! One virtual machine of the configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use crate::vm::{GuestAgent, HaState, Lock, Unresponsive};

/// A virtual machine as it is when the simulator starts.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmConfig {
    /// 100 to 999999999.
    pub vmid: u32,
    /// Node it is on at first.
    pub node: String,
    /// Name; `VM <vmid>` when absent, as Proxmox VE shows it.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it runs when the simulator starts.
    #[serde(default = "yes")]
    pub running: bool,
    /// A template cannot run.
    #[serde(default)]
    pub template: bool,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Pool it belongs to; privileges on `/pool/<name>` apply to it.
    #[serde(default)]
    pub pool: Option<String>,
    /// Virtual CPUs.
    #[serde(default = "two")]
    pub cores: u32,
    /// Memory in MiB.
    #[serde(default = "two_gib")]
    pub memory: u64,
    /// Size of its disk in GiB.
    #[serde(default = "disk")]
    pub disk: u64,
    /// The UUID Proxmox VE holds for it (`smbios1`): a UUID, `none`, or absent for one derived
    /// from cluster name and vmid, so that it survives a restart of the simulator.
    #[serde(default)]
    pub smbios_uuid: SmbiosUuid,
    /// The UUID the guest reads, when it differs from `smbiosUuid` (a cloned or wrong machine).
    #[serde(default)]
    pub guest_uuid: Option<Uuid>,
    /// QEMU guest agent.
    #[serde(default = "agent_disabled")]
    pub guest_agent: GuestAgent,
    /// Config lock.
    #[serde(default)]
    pub lock: Option<Lock>,
    /// HA state, when HA manages it.
    #[serde(default)]
    pub ha: Option<HaState>,
    /// `reboot: 0` makes QEMU power off where it would reset.
    #[serde(default = "yes")]
    pub reboot: bool,
    /// Which boots end hung. `true` is `always`, `false` is `never`.
    #[serde(default = "responsive", deserialize_with = "bool_or_text")]
    pub unresponsive: Unresponsive,
    /// The program that stands for the guest's agent: argv, found by PATH. Empty: a VM without an agent.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment of the command, beside PATH and HOME.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds from power-on or reset until the command starts.
    #[serde(default)]
    pub boot_seconds: f64,
    /// What the guest's procfs shows.
    #[serde(default)]
    pub load: Load,
    /// How fast the I/O counters grow.
    #[serde(default)]
    pub io: IoRates,
}

/// The SMBIOS UUID in a VM's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SmbiosUuid {
    /// Derived from cluster name and vmid.
    #[default]
    Derived,
    /// No `smbios1` line.
    Absent,
    /// This one.
    Fixed(Uuid),
}

impl<'de> Deserialize<'de> for SmbiosUuid {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let text = String::deserialize(source)?;
        if text == "none" {
            return Ok(Self::Absent);
        }
        Uuid::parse_str(&text).map(Self::Fixed).map_err(serde::de::Error::custom)
    }
}

/// Load a guest shows, in percent of what it has.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Load {
    /// CPU use.
    pub cpu_percent: f64,
    /// Memory use.
    pub memory_percent: f64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            cpu_percent: 12.0,
            memory_percent: 45.0,
        }
    }
}

/// Bytes a second a VM moves while it executes.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IoRates {
    /// Received. Goes on while the guest hangs: the network keeps sending.
    pub net_in: f64,
    /// Sent by the guest.
    pub net_out: f64,
    /// Read from disk.
    pub disk_read: f64,
    /// Written to disk.
    pub disk_write: f64,
}

impl Default for IoRates {
    fn default() -> Self {
        Self {
            net_in: 4_096.0,
            net_out: 2_048.0,
            disk_read: 8_192.0,
            disk_write: 16_384.0,
        }
    }
}

fn yes() -> bool {
    true
}

fn two() -> u32 {
    2
}

fn two_gib() -> u64 {
    2_048
}

fn disk() -> u64 {
    32
}

fn agent_disabled() -> GuestAgent {
    GuestAgent::Disabled
}

fn responsive() -> Unresponsive {
    Unresponsive::Never
}

fn bool_or_text<'de, D: Deserializer<'de>>(source: D) -> Result<Unresponsive, D::Error> {
    let text = match serde_json::Value::deserialize(source)? {
        serde_json::Value::Bool(true) => return Ok(Unresponsive::Always),
        serde_json::Value::Bool(false) => return Ok(Unresponsive::Never),
        serde_json::Value::String(text) => text,
        other => return Err(serde::de::Error::custom(format!("`{other}` is neither a boolean nor a word"))),
    };
    text.parse().map_err(serde::de::Error::custom)
}

impl VmConfig {
    /// A running VM with two CPUs, 2 GiB of memory and no command.
    pub fn new(vmid: u32, node: impl Into<String>) -> Self {
        Self {
            vmid,
            node: node.into(),
            name: None,
            running: true,
            template: false,
            tags: Vec::new(),
            pool: None,
            cores: two(),
            memory: two_gib(),
            disk: disk(),
            smbios_uuid: SmbiosUuid::Derived,
            guest_uuid: None,
            guest_agent: GuestAgent::Disabled,
            lock: None,
            ha: None,
            reboot: true,
            unresponsive: Unresponsive::Never,
            command: Vec::new(),
            env: BTreeMap::new(),
            boot_seconds: 0.0,
            load: Load::default(),
            io: IoRates::default(),
        }
    }

    /// The name Proxmox VE shows.
    pub fn display_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("VM {}", self.vmid))
    }

    pub(crate) fn boot_delay(&self) -> Duration {
        Duration::try_from_secs_f64(self.boot_seconds).unwrap_or_default()
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let vmid = self.vmid;
        if !(100..=999_999_999).contains(&vmid) {
            return Err(format!("vmid {vmid} is outside 100 to 999999999"));
        }
        if self.template && self.running {
            return Err(format!("VM {vmid} is a template: set `running: false`"));
        }
        if self.cores == 0 || self.memory < 16 {
            return Err(format!("VM {vmid} needs at least 1 core and 16 MiB of memory"));
        }
        // A day: longer boots are a mistyped unit.
        if !(0.0..=86_400.0).contains(&self.boot_seconds) {
            return Err(format!("VM {vmid}: bootSeconds {} is outside 0 to 86400", self.boot_seconds));
        }
        let percents = [self.load.cpu_percent, self.load.memory_percent];
        if percents.iter().any(|percent| !(0.0..=100.0).contains(percent)) {
            return Err(format!("VM {vmid}: load percentages go from 0 to 100"));
        }
        let rates = [self.io.net_in, self.io.net_out, self.io.disk_read, self.io.disk_write];
        if rates.iter().any(|rate| !(rate.is_finite() && *rate >= 0.0)) {
            return Err(format!("VM {vmid}: I/O rates are bytes a second, 0 or more"));
        }
        Ok(())
    }
}
