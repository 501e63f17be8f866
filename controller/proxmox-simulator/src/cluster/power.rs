//! Nodes that lose power or reach, and VMs that move.

use std::time::Instant;

use super::{Cluster, NodePower, UnknownVm};
use crate::audit::GuestEventKind;
use crate::vm::Qemu;

/// A control that names something that does not exist.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(transparent)]
    Vm(#[from] UnknownVm),
    #[error("there is no node `{0}`")]
    Node(String),
}

impl Cluster {
    /// Takes a node down. Returns when its port no longer accepts connections.
    pub(crate) async fn node_down(&self, name: &str, power: NodePower) -> Result<(), ClusterError> {
        let listening = {
            let mut state = self.state();
            // What was published last is what the others go on showing.
            state.publish();
            let node = state.nodes.get_mut(name).ok_or_else(|| ClusterError::Node(name.to_owned()))?;
            node.power = power;
            node.wanted.send_replace(false);
            let listening = node.listening.clone();
            if power == NodePower::PoweredOff {
                for vm in state.vms.values_mut().filter(|vm| vm.node == name && vm.is_running()) {
                    self.change_locked(vm, GuestEventKind::PowerOff, "node", |vm| {
                        vm.power_off();
                        vm.lost_power = true;
                    });
                }
                self.tasks().lose_node(name);
            }
            listening
        };
        settled(listening, false).await;
        Ok(())
    }

    /// Brings a node back, and the VMs that ran when it lost power. Returns when its port accepts connections.
    pub(crate) async fn node_up(&self, name: &str) -> Result<(), ClusterError> {
        let listening = {
            let mut state = self.state();
            let node = state.nodes.get_mut(name).ok_or_else(|| ClusterError::Node(name.to_owned()))?;
            if node.power == NodePower::PoweredOff {
                node.booted = Instant::now();
            }
            node.power = NodePower::Up;
            node.wanted.send_replace(true);
            let listening = node.listening.clone();
            for vm in state.vms.values_mut().filter(|vm| vm.node == name && vm.lost_power) {
                let pid = self.new_qemu_pid();
                self.change_locked(vm, GuestEventKind::PowerOn, "node", |vm| vm.power_on(pid));
            }
            listening
        };
        settled(listening, true).await;
        Ok(())
    }

    /// Moves a VM. A running guest does not notice (live migration); one that lost power with its
    /// node boots on the new one (HA recovery).
    pub(crate) fn migrate(&self, vmid: u32, target: &str) -> Result<(), ClusterError> {
        let mut state = self.state();
        if !state.nodes.contains_key(target) {
            return Err(ClusterError::Node(target.to_owned()));
        }
        let vm = state.vms.get_mut(&vmid).ok_or(UnknownVm(vmid))?;
        let pid = self.new_qemu_pid();
        self.change_locked(vm, GuestEventKind::Migrate, "control", |vm| {
            target.clone_into(&mut vm.node);
            if let Some(qemu) = &mut vm.qemu {
                // The target's QEMU is another process: new pid, uptime and counters from zero.
                let (status, livelocked) = (qemu.status, qemu.livelocked);
                *qemu = Qemu::new(pid);
                (qemu.status, qemu.livelocked) = (status, livelocked);
            } else if vm.lost_power {
                vm.power_on(pid);
            }
        });
        Ok(())
    }
}

async fn settled(mut listening: tokio::sync::watch::Receiver<bool>, wanted: bool) {
    // An error means that the listener has ended: the simulator is shutting down.
    let _ = listening.wait_for(|now| *now == wanted).await;
}
