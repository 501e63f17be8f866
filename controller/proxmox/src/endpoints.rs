//! Which endpoint to try first.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{ClusterNode, ClusterStatus};
use crate::config::Endpoint;

/// How long an endpoint that could not be reached is tried last. Shorter, and each read during a
/// node's outage pays the connect time-out; longer, and we stay away from a node that came back.
const COOL_DOWN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Endpoints {
    list: Vec<Endpoint>,
    states: Mutex<Vec<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    avoid_until: Option<Instant>,
    /// The node this endpoint is on, once the cluster has said so.
    node: Option<String>,
}

impl Endpoints {
    pub(crate) fn new(list: Vec<Endpoint>) -> Self {
        let states = Mutex::new(vec![State::default(); list.len()]);
        Self { list, states }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Endpoint> {
        self.list.get(index)
    }

    /// All endpoints in the order to try them: those that were not unreachable lately, of these those
    /// on the wanted node (one hop less, and no proxy with time-outs of its own), then as configured.
    pub(crate) fn order(&self, node: Option<&str>) -> Vec<usize> {
        let now = Instant::now();
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        order.sort_by_cached_key(|&index| {
            let avoid = self.with(index, |state| state.avoid_until.is_some_and(|until| now < until));
            (avoid, !node.is_some_and(|node| self.is_on(index, node)), index)
        });
        order
    }

    /// Whether the endpoint is known to be on that node.
    pub(crate) fn is_on(&self, index: usize, node: &str) -> bool {
        let learned = self.with(index, |state| state.node.as_deref().map(|known| known == node));
        learned.unwrap_or_else(|| self.get(index).is_some_and(|endpoint| endpoint.is_named_after(node)))
    }

    pub(crate) fn reached(&self, index: usize) {
        self.with(index, |state| state.avoid_until = None);
    }

    pub(crate) fn not_reached(&self, index: usize) {
        self.with(index, |state| state.avoid_until = Some(Instant::now() + COOL_DOWN));
    }

    /// Learns which endpoint is which node, where the configured address is the node's own.
    pub(crate) fn learn(&self, status: &ClusterStatus) {
        for (index, endpoint) in self.list.iter().enumerate() {
            let has_its_address = |node: &&ClusterNode| node.ip.as_deref().is_some_and(|ip| endpoint.has_address(ip));
            let mut owners = status.nodes.iter().filter(has_its_address);
            // An address that is several nodes' (behind one gateway) says nothing.
            if let (Some(owner), None) = (owners.next(), owners.next()) {
                self.with(index, |state| state.node = Some(owner.name.clone()));
            }
        }
    }

    fn with<T: Default>(&self, index: usize, f: impl FnOnce(&mut State) -> T) -> T {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.get_mut(index).map(f).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(urls: &[&str]) -> Endpoints {
        Endpoints::new(urls.iter().map(|url| url.parse().unwrap()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn configured_order_unless_one_is_unreachable_or_nearer() {
        let endpoints = endpoints(&["https://pve1.lab:8006", "https://10.0.0.2:8006", "https://PVE3:8006"]);
        assert_eq!(endpoints.order(None), [0, 1, 2]);
        assert_eq!(endpoints.order(Some("pve3")), [2, 0, 1]);
        assert_eq!(endpoints.order(Some("pve1")), [0, 1, 2]);
        endpoints.not_reached(0);
        assert_eq!(endpoints.order(None), [1, 2, 0]);
        assert_eq!(endpoints.order(Some("pve1")), [1, 2, 0]);
        tokio::time::advance(COOL_DOWN).await;
        assert_eq!(endpoints.order(None), [0, 1, 2]);
        endpoints.not_reached(1);
        endpoints.reached(1);
        assert_eq!(endpoints.order(None), [0, 1, 2]);
    }

    #[test]
    fn the_cluster_says_which_address_is_which_node() {
        let endpoints = endpoints(&["https://10.0.0.1:8006", "https://[fd00::2]:8006"]);
        assert_eq!(endpoints.order(Some("pve2")), [0, 1]);
        let node = |name: &str, ip: &str| ClusterNode {
            name: name.into(),
            ip: Some(ip.into()),
            online: true,
            local: false,
        };
        endpoints.learn(&ClusterStatus {
            name: None,
            quorate: true,
            nodes: vec![node("pve1", "10.0.0.1"), node("pve2", "fd00::2")],
        });
        assert_eq!(endpoints.order(Some("pve2")), [1, 0]);
        assert!(endpoints.is_on(0, "pve1") && !endpoints.is_on(0, "pve2"));
    }

    #[test]
    fn an_address_of_several_nodes_says_nothing() {
        let endpoints = endpoints(&["https://127.0.0.1:8006"]);
        let node = |name: &str| ClusterNode {
            name: name.into(),
            ip: Some("127.0.0.1".into()),
            online: true,
            local: false,
        };
        endpoints.learn(&ClusterStatus {
            name: None,
            quorate: true,
            nodes: vec![node("pve1"), node("pve2")],
        });
        assert!(!endpoints.is_on(0, "pve1") && !endpoints.is_on(0, "pve2"));
    }
}
