//! A running simulator.

mod start;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::{GuestEvent, WriteRequest};
use crate::cluster::{Cluster, Endpoint};
use crate::control::{ClusterSnapshot, Control, ControlError, FaultControl, HaSetting, Reply};
use crate::fault::Fault;
use crate::guest::Reaper;
use crate::task::TaskRecord;
use crate::vm::{HaState, Lock, Unresponsive, VmSnapshot};

pub use start::StartError;

/// Killed guests are reaped within moments; a shutdown does not wait longer for one that is not.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// A running simulator. Dropping it kills all guests; [`shutdown`](Self::shutdown) also waits for their end.
#[derive(Debug)]
pub struct Simulator {
    cluster: Arc<Cluster>,
    state_dir: PathBuf,
    ca_pem: String,
    /// Lives as long as any guest may.
    _reaper: Reaper,
}

impl Simulator {
    /// Where the nodes' APIs are, in the order of their names.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.cluster.state().endpoints()
    }

    /// The certificate of the cluster's CA, in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Where state is kept: `pve-root-ca.pem`, `endpoints.json`, `audit.jsonl`, `guests/`.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Carries out a control, as `pve-sim ctl` does. When it returns, it has taken effect.
    pub async fn control(&self, control: Control) -> Result<Reply, ControlError> {
        self.cluster.control(control).await
    }

    /// Freezes a guest.
    pub async fn hang(&self, vmid: u32) -> Result<(), ControlError> {
        self.done(Control::Hang { vmid, livelock: false }).await
    }

    /// Lets a frozen guest go on.
    pub async fn thaw(&self, vmid: u32) -> Result<(), ControlError> {
        self.done(Control::Thaw { vmid }).await
    }

    /// Kills a guest under a live QEMU.
    pub async fn crash(&self, vmid: u32) -> Result<(), ControlError> {
        self.done(Control::Crash { vmid }).await
    }

    /// Cuts a VM's power.
    pub async fn stop(&self, vmid: u32) -> Result<(), ControlError> {
        self.done(Control::Stop { vmid }).await
    }

    /// Powers a VM on.
    pub async fn start_vm(&self, vmid: u32) -> Result<(), ControlError> {
        self.done(Control::Start { vmid }).await
    }

    /// Sets a config lock.
    pub async fn lock(&self, vmid: u32, lock: Lock) -> Result<(), ControlError> {
        self.done(Control::Lock { vmid, lock }).await
    }

    /// Removes the config lock.
    pub async fn unlock(&self, vmid: u32) -> Result<(), ControlError> {
        self.done(Control::Unlock { vmid }).await
    }

    /// Moves a VM to another node at once.
    pub async fn migrate(&self, vmid: u32, node: &str) -> Result<(), ControlError> {
        self.done(Control::Migrate {
            vmid,
            node: node.to_owned(),
            seconds: 0.0,
        })
        .await
    }

    /// Cuts a node's power. When it returns, its port refuses connections.
    pub async fn node_down(&self, node: &str) -> Result<(), ControlError> {
        self.done(Control::NodeDown {
            node: node.to_owned(),
            keep_guests: false,
        })
        .await
    }

    /// Brings a node back. When it returns, its port accepts connections.
    pub async fn node_up(&self, node: &str) -> Result<(), ControlError> {
        self.done(Control::NodeUp { node: node.to_owned() }).await
    }

    /// Sets the HA state of a VM; `None`: not managed by HA.
    pub async fn set_ha(&self, vmid: u32, state: Option<HaState>) -> Result<(), ControlError> {
        self.done(Control::Ha {
            vmid,
            state: HaSetting(state),
        })
        .await
    }

    /// Lets the QEMU monitor of a VM hang.
    pub async fn monitor_hang(&self, vmid: u32) -> Result<(), ControlError> {
        self.done(Control::MonitorHang { vmid }).await
    }

    /// Says which boots of a VM end hung.
    pub async fn set_unresponsive(&self, vmid: u32, boots: Unresponsive) -> Result<(), ControlError> {
        self.done(Control::Unresponsive { vmid, boots }).await
    }

    /// Adds a fault rule.
    pub async fn set_fault(&self, fault: Fault) -> Result<(), ControlError> {
        self.done(Control::Fault(FaultControl::Add(fault))).await
    }

    /// Removes all fault rules.
    pub async fn clear_faults(&self) -> Result<(), ControlError> {
        self.done(Control::Fault(FaultControl::Clear)).await
    }

    /// A VM as it is now.
    pub fn vm(&self, vmid: u32) -> Option<VmSnapshot> {
        self.cluster.state().vms.get(&vmid).map(crate::vm::Vm::snapshot)
    }

    /// The cluster as it is now.
    pub fn snapshot(&self) -> ClusterSnapshot {
        self.cluster.snapshot()
    }

    /// Every write request received, in the order of arrival (the newest 10,000).
    pub fn audit(&self) -> Vec<WriteRequest> {
        self.cluster.write_requests()
    }

    /// Everything that happened to guests, oldest first (the newest 10,000).
    pub fn guest_events(&self) -> Vec<GuestEvent> {
        self.cluster.audit().events()
    }

    /// All tasks, oldest first (the newest 10,000).
    pub fn tasks(&self) -> Vec<TaskRecord> {
        self.cluster.tasks().records()
    }

    /// Ends everything. When it returns, no guest process is left and all ports are free.
    pub async fn shutdown(self) {
        let exits = self.power_off_all();
        let deadline = tokio::time::Instant::from_std(Instant::now() + SHUTDOWN_DEADLINE);
        for exit in exits {
            if tokio::time::timeout_at(deadline, exit).await.is_err() {
                tracing::warn!("a guest process was not reaped in time");
            }
        }
        self.cluster.running.close();
        if tokio::time::timeout_at(deadline, self.cluster.running.wait()).await.is_err() {
            tracing::warn!("not everything ended in time");
        }
    }

    async fn done(&self, control: Control) -> Result<(), ControlError> {
        self.control(control).await.map(drop)
    }

    fn power_off_all(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        self.cluster.shutdown.cancel();
        let mut state = self.cluster.state();
        let mut exits = Vec::new();
        for vm in state.vms.values_mut() {
            exits.extend(vm.guest.exit());
            vm.power_off();
        }
        exits
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.power_off_all());
    }
}
