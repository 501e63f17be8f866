//! Questions about the cluster as a whole.

use super::{Endpoint, NodeSnapshot, State};
use crate::vm::{Vm, VmSnapshot};

impl State {
    /// Whether the nodes that are up are a majority, unless a test decided.
    pub(crate) fn is_quorate(&self) -> bool {
        let up = self.nodes.values().filter(|node| node.is_up()).count();
        self.quorum.unwrap_or(up * 2 > self.nodes.len())
    }

    /// The VM, when its configuration is on that node.
    pub(crate) fn vm_on(&self, vmid: u32, node: &str) -> Option<&Vm> {
        self.vms.get(&vmid).filter(|vm| vm.node == node)
    }

    pub(crate) fn vm_snapshots(&self) -> Vec<VmSnapshot> {
        self.vms.values().map(Vm::snapshot).collect()
    }

    pub(crate) fn node_snapshots(&self) -> Vec<NodeSnapshot> {
        self.nodes.values().map(super::Node::snapshot).collect()
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.nodes.values().map(super::Node::endpoint).collect()
    }
}
