//! How many requests may be under way. A Proxmox node has three synchronous API workers: whoever takes
//! them all blocks the people who want to use its web page to see what is wrong.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::MAX_REQUESTS;

/// Above this many nodes the idle ones are forgotten. Clusters have at most some 30.
const MAX_NODES: usize = 64;

#[derive(Debug)]
pub(crate) struct Limits {
    total: Arc<Semaphore>,
    per_node: usize,
    nodes: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The right to one request; returned when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _node: OwnedSemaphorePermit,
    _total: OwnedSemaphorePermit,
}

impl Limits {
    pub(crate) fn new(per_node: usize) -> Self {
        Self {
            total: Arc::new(Semaphore::new(MAX_REQUESTS)),
            per_node,
            nodes: Mutex::default(),
        }
    }

    /// Waits for the right to one request at this node, first come, first served. The caller sets the
    /// deadline. Always in the order node, then total, so that waiting for a slow node keeps nobody
    /// from the others.
    pub(crate) async fn acquire(&self, node: &str) -> Option<Permit> {
        // Neither semaphore is ever closed, so neither wait fails.
        let node = self.node(node).acquire_owned().await.ok()?;
        let total = self.total.clone().acquire_owned().await.ok()?;
        Some(Permit {
            _node: node,
            _total: total,
        })
    }

    fn node(&self, node: &str) -> Arc<Semaphore> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= MAX_NODES {
            // Permits and waiters hold a reference.
            nodes.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        nodes
            .entry(node.to_ascii_lowercase())
            .or_insert_with(|| Arc::new(Semaphore::new(self.per_node)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_free(limits: &Limits, node: &str) -> bool {
        tokio::time::timeout(Duration::ZERO, limits.acquire(node)).await.is_ok()
    }

    #[tokio::test]
    async fn a_node_and_the_total_are_limited() {
        let limits = Limits::new(2);
        let first = limits.acquire("pve1").await.unwrap();
        let _second = limits.acquire("PVE1").await.unwrap();
        assert!(!is_free(&limits, "pve1").await);
        assert!(is_free(&limits, "pve2").await);
        drop(first);
        assert!(is_free(&limits, "pve1").await);

        let mut held = Vec::new();
        for node in 2..9 {
            held.push(limits.acquire(&format!("pve{node}")).await.unwrap());
        }
        assert!(!is_free(&limits, "pve10").await);
        held.pop();
        assert!(is_free(&limits, "pve10").await);
    }

    #[tokio::test]
    async fn forgetting_nodes_does_not_forget_their_requests() {
        let limits = Limits::new(1);
        let _held = limits.acquire("busy").await.unwrap();
        for node in 0..200 {
            limits.acquire(&node.to_string()).await.unwrap();
        }
        assert!(limits.nodes.lock().unwrap().len() <= MAX_NODES);
        assert!(!is_free(&limits, "busy").await);
    }
}
