//! The cluster: everything its nodes share.

mod listing;
mod node;
mod power;
mod stats;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub(crate) use node::Node;
pub use node::{Endpoint, NodePower, NodeSnapshot};
pub(crate) use power::ClusterError;
pub(crate) use stats::Published;

use crate::audit::{Audit, GuestEventKind};
use crate::config::{Config, SmbiosUuid, VmConfig};
use crate::fault::Faults;
use crate::guest::{Guest, GuestSignal, Reaper};
use crate::task::TaskStore;
use crate::vm::Vm;

/// Process ids of simulated QEMU processes start here.
const FIRST_QEMU_PID: u32 = 100_000;

/// Everything the nodes share. Locks are taken in the order of the fields, and never held while waiting.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: Config,
    state: Mutex<State>,
    tasks: Mutex<TaskStore>,
    audit: Mutex<Audit>,
    faults: Mutex<Faults>,
    next_qemu_pid: AtomicU32,
    /// Everything spawned, so that a shutdown can wait for it.
    pub(crate) running: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// What changes while the cluster runs.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) vms: BTreeMap<u32, Vm>,
    pub(crate) published: BTreeMap<u32, Published>,
    /// Quorum as a test wants it; computed from the nodes when absent.
    pub(crate) quorum: Option<bool>,
}

/// There is no VM with this id.
#[derive(Debug, thiserror::Error)]
#[error("there is no VM {0}")]
pub(crate) struct UnknownVm(pub(crate) u32);

impl Cluster {
    pub(crate) fn new(
        config: Config,
        nodes: BTreeMap<String, Node>,
        state_dir: &Path,
        audit: Audit,
        reaper: &Reaper,
        signals: &mpsc::Sender<GuestSignal>,
    ) -> Arc<Self> {
        let vms = config
            .vms
            .iter()
            .map(|vm| (vm.vmid, new_vm(&config.cluster_name, vm, state_dir, reaper, signals)))
            .collect();
        Arc::new(Self {
            config,
            state: Mutex::new(State {
                nodes,
                vms,
                published: BTreeMap::new(),
                quorum: None,
            }),
            tasks: Mutex::new(TaskStore::new()),
            audit: Mutex::new(audit),
            faults: Mutex::new(Faults::default()),
            next_qemu_pid: AtomicU32::new(FIRST_QEMU_PID),
            running: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tasks(&self) -> MutexGuard<'_, TaskStore> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn audit(&self) -> MutexGuard<'_, Audit> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn new_qemu_pid(&self) -> u32 {
        self.next_qemu_pid.fetch_add(1, Ordering::Relaxed)
    }

    /// Changes a VM and records what that meant for its guest.
    pub(crate) fn change<R>(
        &self,
        vmid: u32,
        event: GuestEventKind,
        cause: &str,
        change: impl FnOnce(&mut Vm) -> R,
    ) -> Result<R, UnknownVm> {
        let mut state = self.state();
        let vm = state.vms.get_mut(&vmid).ok_or(UnknownVm(vmid))?;
        Ok(self.change_locked(vm, event, cause, change))
    }

    /// As [`change`](Self::change), for a caller that holds the state.
    pub(crate) fn change_locked<R>(&self, vm: &mut Vm, event: GuestEventKind, cause: &str, change: impl FnOnce(&mut Vm) -> R) -> R {
        let before = (vm.guest_state(), vm.guest.boot_id());
        let result = change(vm);
        self.audit().guest(vm, event, cause, before);
        result
    }

    /// Applies what happened to a guest by itself.
    pub(crate) fn on_guest_signal(&self, signal: &GuestSignal) {
        let (vmid, event) = match signal {
            GuestSignal::BootDue { vmid, .. } => (*vmid, GuestEventKind::Booted),
            GuestSignal::Exited { vmid, .. } => (*vmid, GuestEventKind::AgentExited),
        };
        let mut state = self.state();
        let Some(vm) = state.vms.get_mut(&vmid) else { return };
        let before = (vm.guest_state(), vm.guest.boot_id());
        if vm.on_signal(signal) {
            self.audit().guest(vm, event, "guest", before);
        }
    }
}

fn new_vm(cluster: &str, config: &VmConfig, state_dir: &Path, reaper: &Reaper, signals: &mpsc::Sender<GuestSignal>) -> Vm {
    let smbios_uuid = match config.smbios_uuid {
        SmbiosUuid::Absent => None,
        SmbiosUuid::Fixed(uuid) => Some(uuid),
        SmbiosUuid::Derived => Some(derived_uuid(cluster, config.vmid, "smbios")),
    };
    let directory = state_dir.join("guests").join(config.vmid.to_string());
    let machine = config.guest_uuid.or(smbios_uuid);
    Vm {
        node: config.node.clone(),
        smbios_uuid,
        vmgenid: derived_uuid(cluster, config.vmid, "vmgenid"),
        created: Timestamp::now().as_second(),
        lock: config.lock,
        ha: config.ha,
        monitor_hung: false,
        unresponsive: config.unresponsive,
        guest_agent: config.guest_agent,
        qemu: None,
        guest: Guest::new(config.clone(), machine, directory, signals.clone(), reaper.clone()),
        file_lock: Arc::default(),
        lost_power: false,
        config: config.clone(),
    }
}

/// A UUID that is the same at every start: what knows a VM by it survives a restart of the simulator.
fn derived_uuid(cluster: &str, vmid: u32, purpose: &str) -> Uuid {
    let hash = digest(&SHA256, format!("{cluster}/{vmid}/{purpose}").as_bytes());
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
