//! What nodes publish about their VMs (pvestatd), and how old that may be.

use tokio::time::Instant;

use super::{Cluster, State};
use crate::vm::Vm;

/// The statistics of a VM as last published by its node.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) at: std::time::Instant,
    pub(crate) status: &'static str,
    pub(crate) uptime: u64,
    pub(crate) cpu: f64,
    pub(crate) mem: u64,
    pub(crate) net_in: u64,
    pub(crate) net_out: u64,
    pub(crate) disk_read: u64,
    pub(crate) disk_write: u64,
}

impl Published {
    /// The VM's statistics now.
    pub(crate) fn of(vm: &mut Vm) -> Self {
        vm.settle();
        let (cpu, mem) = vm.load();
        let counters = vm.qemu.as_ref().map(|qemu| qemu.counters);
        Self {
            at: std::time::Instant::now(),
            status: vm.resource_status(),
            uptime: vm.qemu.as_ref().map_or(0, crate::vm::Qemu::uptime),
            cpu,
            mem,
            net_in: counters.map_or(0, |counters| counters.net_in()),
            net_out: counters.map_or(0, |counters| counters.net_out()),
            disk_read: counters.map_or(0, |counters| counters.disk_read()),
            disk_write: counters.map_or(0, |counters| counters.disk_write()),
        }
    }
}

impl State {
    /// Every node that is up publishes its VMs.
    pub(crate) fn publish(&mut self) {
        let Self { nodes, vms, published, .. } = self;
        for (vmid, vm) in vms {
            if nodes.get(&vm.node).is_some_and(super::Node::is_up) {
                published.insert(*vmid, Published::of(vm));
            }
        }
    }
}

impl Cluster {
    /// Publishes now and then, until shutdown.
    pub(crate) async fn publish_stats(&self) {
        let period = self.config.timing.stats;
        if period.is_zero() {
            return;
        }
        // What nodes publish at their start is there already.
        let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                _ = ticks.tick() => self.state().publish(),
            }
        }
    }
}
