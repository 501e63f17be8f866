//! A VM at one moment, for tests and `ctl`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{GuestAgent, GuestState, HaState, Lock, QmpStatus, Unresponsive, Vm};

/// A VM at one moment: what Proxmox VE knows, and what only the simulator knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmSnapshot {
    /// The VM.
    pub vmid: u32,
    /// Its name.
    pub name: String,
    /// Node that holds its configuration.
    pub node: String,
    /// Whether a QEMU process exists.
    pub running: bool,
    /// QEMU's run state; absent when stopped.
    pub qmp_status: Option<QmpStatus>,
    /// The QEMU monitor does not answer.
    pub monitor_hung: bool,
    /// Id of the (simulated) QEMU process.
    pub qemu_pid: Option<u32>,
    /// Seconds since the QEMU process started.
    pub qemu_uptime: u64,
    /// Config lock.
    pub lock: Option<Lock>,
    /// HA state.
    pub ha: Option<HaState>,
    /// The UUID Proxmox VE holds for it.
    pub smbios_uuid: Option<Uuid>,
    /// QEMU guest agent.
    pub guest_agent: GuestAgent,
    /// Which boots end hung.
    pub unresponsive: Unresponsive,
    /// What the guest is doing.
    pub guest: GuestState,
    /// Boot id of the guest; absent when stopped.
    pub boot_id: Option<Uuid>,
    /// Real process id of the guest's command; absent when it does not run.
    pub guest_pid: Option<u32>,
}

impl Vm {
    /// The VM now.
    pub(crate) fn snapshot(&self) -> VmSnapshot {
        VmSnapshot {
            vmid: self.config.vmid,
            name: self.config.display_name(),
            node: self.node.clone(),
            running: self.is_running(),
            qmp_status: self.qemu.as_ref().map(|qemu| qemu.status),
            monitor_hung: self.monitor_hung,
            qemu_pid: self.qemu.as_ref().map(|qemu| qemu.pid),
            qemu_uptime: self.qemu.as_ref().map_or(0, super::Qemu::uptime),
            lock: self.lock,
            ha: self.ha,
            smbios_uuid: self.smbios_uuid,
            guest_agent: self.guest_agent,
            unresponsive: self.unresponsive,
            guest: self.guest.state(),
            boot_id: self.guest.boot_id(),
            guest_pid: self.guest.pid(),
        }
    }
}
