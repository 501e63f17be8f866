//! One node of the cluster.

use std::net::SocketAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::text_enum::text_enum;

text_enum! {
    /// Whether a node works.
    NodePower {
        /// It does.
        Up = "up",
        /// No power: its guests are off too, and connecting to it times out.
        PoweredOff = "powered-off",
        /// Its API is down or cut off; its guests go on.
        Unreachable = "unreachable",
    }
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) id: u32,
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: String,
    pub(crate) power: NodePower,
    pub(crate) booted: Instant,
    /// Somebody has put it into HA's maintenance mode.
    pub(crate) maintenance: bool,
    /// Whether its API should listen.
    pub(crate) wanted: watch::Sender<bool>,
    /// Whether its API listens.
    pub(crate) listening: watch::Receiver<bool>,
}

/// Where a node's API is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Name of the node.
    pub node: String,
    /// `https://127.0.0.1:<port>`.
    pub url: String,
    /// SHA-256 of its certificate, `AA:BB:...`.
    pub fingerprint: String,
}

/// A node at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSnapshot {
    /// Where its API is found.
    #[serde(flatten)]
    pub endpoint: Endpoint,
    /// Whether it works.
    pub power: NodePower,
}

impl Node {
    pub(crate) fn is_up(&self) -> bool {
        self.power == NodePower::Up
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            node: self.name.clone(),
            url: format!("https://{}", self.address),
            fingerprint: self.fingerprint.clone(),
        }
    }

    pub(crate) fn snapshot(&self) -> NodeSnapshot {
        NodeSnapshot {
            endpoint: self.endpoint(),
            power: self.power,
        }
    }
}
