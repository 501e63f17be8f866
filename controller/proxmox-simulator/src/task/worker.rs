//! The process behind a task.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::Upid;
use crate::api::missing_config;
use crate::audit::GuestEventKind;
use crate::cluster::Cluster;
use crate::vm::{Lock, Vm};

/// What a task works with.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) vmid: u32,
    upid: Upid,
    /// The UPID as text: the cause recorded for what it does to guests.
    cause: String,
}

impl Worker {
    /// Forks a worker and returns its UPID at once. The work goes on whoever asked for it.
    pub(crate) fn fork<F>(
        cluster: &Arc<Cluster>,
        node: &str,
        kind: &str,
        vmid: u32,
        user: &str,
        work: impl FnOnce(Self) -> F + Send + 'static,
    ) -> Upid
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        let upid = cluster.tasks().begin(node, kind, vmid.to_string(), user);
        let worker = Self {
            cluster: Arc::clone(cluster),
            vmid,
            upid: upid.clone(),
            cause: upid.to_string(),
        };
        let handle = cluster.running.spawn(async move {
            let (cluster, upid) = (Arc::clone(&worker.cluster), worker.upid.clone());
            let pause = cluster.config.timing.task / 2;
            let run = async {
                tokio::time::sleep(pause).await;
                let outcome = work(worker).await;
                tokio::time::sleep(pause).await;
                outcome
            };
            if let Some(outcome) = cluster.shutdown.run_until_cancelled(run).await {
                cluster.tasks().finish(&upid, outcome);
            }
        });
        cluster.tasks().set_worker(&upid, handle.abort_handle());
        upid
    }

    /// Writes a line into the task's log.
    pub(crate) fn log(&self, line: impl Into<String>) {
        self.cluster.tasks().log(&self.upid, line);
    }

    /// The file lock of the VM's configuration, held until dropped.
    pub(crate) async fn lock_config(&self) -> Result<OwnedMutexGuard<()>, String> {
        let vmid = self.vmid;
        let lock = self.with_vm(|vm| Ok(Arc::clone(&vm.file_lock)))?;
        if let Ok(guard) = Arc::clone(&lock).try_lock_owned() {
            return Ok(guard);
        }
        self.log("trying to acquire lock...");
        match tokio::time::timeout(self.cluster.config.timing.file_lock, lock.lock_owned()).await {
            Ok(guard) => {
                self.log(" OK");
                Ok(guard)
            }
            Err(_) => Err(format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout")),
        }
    }

    /// Looks at the VM, if its configuration is still on this node.
    pub(crate) fn with_vm<R>(&self, look: impl FnOnce(&mut Vm) -> Result<R, String>) -> Result<R, String> {
        let mut state = self.cluster.state();
        match state.vms.get_mut(&self.vmid).filter(|vm| vm.node == self.upid.node) {
            Some(vm) => look(vm),
            // Ending a VM first asks whether QEMU runs, everything else reads the configuration: two texts.
            None if matches!(self.upid.kind.as_str(), "qmstop" | "qmshutdown" | "qmreboot") => Err(not_on_node(&self.upid.node, self.vmid)),
            None => Err(missing_config(&self.upid.node, self.vmid)),
        }
    }

    /// Changes the VM if `check` still holds, in one step, and records it with this task as the cause.
    pub(crate) fn change_vm<R>(
        &self,
        event: GuestEventKind,
        check: impl FnOnce(&Vm) -> Result<(), String>,
        change: impl FnOnce(&mut Vm) -> R,
    ) -> Result<R, String> {
        self.with_vm(|vm| {
            check(vm)?;
            Ok(self.cluster.change_locked(vm, event, &self.cause, change))
        })
    }

    /// Waits in vain for a QEMU monitor that hangs.
    pub(crate) async fn qmp_timeout(&self, command: &str) -> Result<(), String> {
        tokio::time::sleep(self.cluster.config.timing.qmp).await;
        Err(format!("VM {} qmp command '{command}' failed - got timeout", self.vmid))
    }
}

/// Fails when a config lock is set, other than the one tolerated.
pub(crate) fn check_lock(vm: &Vm, tolerated: Option<Lock>) -> Result<(), String> {
    match vm.lock {
        Some(lock) if Some(lock) != tolerated => Err(format!("VM is locked ({lock})")),
        _ => Ok(()),
    }
}

/// Fails when there is no QEMU process.
pub(crate) fn check_running(vm: &Vm) -> Result<(), String> {
    if vm.is_running() {
        Ok(())
    } else {
        Err(format!("VM {} not running", vm.config.vmid))
    }
}

/// What a power action says of a VM whose configuration is on another node, or nowhere.
pub(crate) fn not_on_node(node: &str, vmid: u32) -> String {
    format!("unable to find configuration file for VM {vmid} on node '{node}'")
}
