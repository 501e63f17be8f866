//! One virtual machine: configuration, QEMU process and guest.

mod counters;
mod qemu;
mod snapshot;
mod states;

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use uuid::Uuid;

pub(crate) use counters::Counters;
pub(crate) use qemu::Qemu;
pub use snapshot::VmSnapshot;
pub use states::{GuestAgent, GuestState, HaState, Lock, QmpStatus, Unresponsive};

use crate::config::VmConfig;
use crate::guest::{Guest, GuestSignal};

/// A VM as the cluster knows it. Methods change it at once; waiting is the tasks' business.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) config: VmConfig,
    /// Node that holds its configuration file.
    pub(crate) node: String,
    pub(crate) smbios_uuid: Option<Uuid>,
    pub(crate) vmgenid: Uuid,
    /// `meta: ctime=`, seconds since the epoch.
    pub(crate) created: i64,
    pub(crate) lock: Option<Lock>,
    pub(crate) ha: Option<HaState>,
    /// The QEMU monitor does not answer.
    pub(crate) monitor_hung: bool,
    pub(crate) unresponsive: Unresponsive,
    pub(crate) guest_agent: GuestAgent,
    pub(crate) qemu: Option<Qemu>,
    pub(crate) guest: Guest,
    /// `/var/lock/qemu-server/lock-<vmid>.conf`.
    pub(crate) file_lock: Arc<tokio::sync::Mutex<()>>,
    /// It ran when its node lost power: started again with the node, or where HA moves it.
    pub(crate) lost_power: bool,
}

impl Vm {
    pub(crate) fn is_running(&self) -> bool {
        self.qemu.is_some()
    }

    /// The VM's HA state, unless HA does not act on it.
    pub(crate) fn ha_managed(&self) -> Option<HaState> {
        self.ha.filter(|state| *state != HaState::Ignored)
    }

    /// What the simulator knows of the guest.
    pub(crate) fn guest_state(&self) -> GuestState {
        self.guest.state()
    }

    /// Starts a QEMU process and boots the guest.
    pub(crate) fn power_on(&mut self, pid: u32) {
        self.qemu = Some(Qemu::new(pid));
        self.lost_power = false;
        self.guest.boot(true, self.unresponsive == Unresponsive::Always);
    }

    /// Ends the QEMU process, and the guest with it.
    pub(crate) fn power_off(&mut self) {
        self.qemu = None;
        self.guest.power_off();
    }

    /// QMP `system_reset`: the same QEMU process boots anew. One that did not execute does not
    /// execute afterwards either (`prelaunch`), and with `reboot: 0` QEMU ends.
    pub(crate) fn system_reset(&mut self) {
        if !self.config.reboot {
            self.power_off();
            return;
        }
        self.settle();
        let Some(qemu) = &mut self.qemu else { return };
        qemu.livelocked = false;
        if qemu.status != QmpStatus::Running {
            qemu.status = QmpStatus::Prelaunch;
        }
        let executing = qemu.status == QmpStatus::Running;
        self.guest.boot(executing, self.unresponsive != Unresponsive::Never);
    }

    /// The guest restarts itself: a new boot in the same QEMU process.
    pub(crate) fn guest_reboot(&mut self) {
        if self.qemu.is_some() {
            self.settle();
            self.guest.boot(true, self.unresponsive == Unresponsive::Always);
        }
    }

    /// Freezes the guest; a livelocked one keeps its disks busy.
    pub(crate) fn hang(&mut self, livelocked: bool) {
        self.settle();
        if let Some(qemu) = &mut self.qemu {
            qemu.livelocked = livelocked;
        }
        self.guest.hang();
    }

    /// Undoes [`hang`](Self::hang).
    pub(crate) fn thaw(&mut self) {
        self.settle();
        self.guest.thaw();
    }

    /// Kills the guest under a live QEMU.
    pub(crate) fn crash(&mut self) {
        self.settle();
        if let Some(qemu) = &mut self.qemu {
            qemu.livelocked = false;
        }
        self.guest.crash();
    }

    /// Applies what happened to the guest by itself. Returns whether its state changed.
    pub(crate) fn on_signal(&mut self, signal: &GuestSignal) -> bool {
        self.settle();
        self.guest.on_signal(signal)
    }

    /// Changes QEMU's run state, and whether the guest executes with it.
    pub(crate) fn set_qmp_status(&mut self, status: QmpStatus) {
        self.settle();
        if let Some(qemu) = &mut self.qemu {
            qemu.status = status;
            self.guest.set_vcpus(status == QmpStatus::Running);
        }
    }

    /// Adds up the I/O done so far under the present conditions. Call before they change.
    pub(crate) fn settle(&mut self) {
        let state = self.guest.state();
        if let Some(qemu) = &mut self.qemu {
            qemu.counters.settle(Instant::now(), &self.config.io, state, qemu.livelocked);
        }
    }

    /// The VM's status as `/cluster/resources` shows it: the QMP status when known.
    pub(crate) fn resource_status(&self) -> &'static str {
        match &self.qemu {
            None => "stopped",
            // A monitor that does not answer falls back to the state of the process.
            Some(_) if self.monitor_hung => "running",
            Some(qemu) => qemu.status.as_str(),
        }
    }

    /// CPU use as a fraction of one and memory in bytes, as the host sees them.
    pub(crate) fn load(&self) -> (f64, u64) {
        let total = self.config.memory * 1024 * 1024;
        let (cpu, memory) = self.guest.usage();
        // Bytes of memory are far below 2^53.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let used = (total as f64 * memory) as u64;
        match self.guest.state() {
            GuestState::Off => (0.0, 0),
            // A kernel spinning on a lock keeps one virtual CPU busy.
            GuestState::Hung | GuestState::Crashed => (1.0 / f64::from(self.config.cores), used),
            GuestState::Paused => (0.0, used),
            GuestState::Booting | GuestState::Running | GuestState::AgentExited => (cpu, used),
        }
    }

    /// Makes it another VM that got the same id: new identity, nothing else kept.
    pub(crate) fn recreate(&mut self, pid: Option<u32>) {
        let uuid = Uuid::new_v4();
        self.power_off();
        self.smbios_uuid = Some(uuid);
        self.vmgenid = Uuid::new_v4();
        self.created = Timestamp::now().as_second();
        self.lock = None;
        self.guest.set_machine(Some(uuid));
        if let Some(pid) = pid {
            self.power_on(pid);
        }
    }
}
