//! A Proxmox VE cluster in memory and in virtual time: nodes, machines with a guest each, tasks. It behaves as `pve-sim` and the client in front of it do
//! together, as far as the reconcilers can tell. [`client`] is what they hold of it.

pub mod client;
mod guest;
mod power;

pub use guest::{Guest, Machine, Power};
pub use power::{Effect, Post};

use crate::clock::Time;
use defib_proxmox::PowerAction;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The token that all tasks are started with.
pub const TOKEN: &str = "svc@pve!defib";

/// Statistics are written so often, and the list of all machines is as old.
const STATISTICS: Duration = Duration::from_secs(10);

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Nodes by name, and whether each is up.
    pub nodes: BTreeMap<String, bool>,
    /// Nodes in maintenance.
    pub in_maintenance: BTreeSet<String>,
    /// Nodes that are listed as offline though they answer.
    pub listed_offline: BTreeSet<String>,
    /// The cluster has quorum.
    pub quorate: bool,
    /// Machines by VMID.
    pub machines: BTreeMap<u32, Machine>,
    /// Tasks, in the order in which they began.
    pub tasks: Vec<Task>,
    /// Every POST that was sent, whether it arrived or not.
    pub posts: Vec<Post>,
    /// What goes wrong with requests at present.
    pub trouble: Option<Trouble>,
    listed: Option<(Time, Vec<Listed>)>,
    seed: u64,
}

/// What goes wrong with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nothing can be connected to.
    Unreachable,
    /// Answers to reads take so long that some are given up.
    Slow,
    /// Reads are answered by 500.
    Broken,
    /// A POST is carried out and its answer lost.
    LostAnswer,
    /// A POST is lost on its way, and nobody can tell.
    LostRequest,
    /// A POST is answered by 596 and carried out some 20 s later.
    LateDelivery,
    /// A POST is answered by 595: not delivered.
    NotDelivered,
    /// A POST is answered by 500, and a worker was started all the same or not.
    ServerError,
    /// A worker dies: `unexpected status`, whether it reset the machine or not.
    WorkerDies,
    /// A reset ends well and does nothing.
    NoEffect,
    /// Reads are all answered by 500.
    Failing,
    /// The token is not valid any more: 401.
    Unauthorized,
    /// The token has no Sys.Audit: nobody tells of maintenance and quorum.
    Unaudited,
    /// The token has no VM.PowerMgmt: 403 to a POST.
    Unprivileged,
    /// Reads work, and no connection for a POST can be opened.
    NoConnect,
    /// A connection for a POST takes 12 s to be opened.
    SlowConnect,
    /// A POST is answered by 500, and a worker was started.
    ErrorAndDone,
    /// A POST is answered by 500, and no worker was started.
    ErrorAndNotDone,
    /// A worker is killed after it has reset the machine.
    KilledAndDone,
    /// A worker is killed before it has done anything.
    KilledAndNotDone,
    /// A worker fails with words of which nothing is known.
    TaskFails,
    /// A worker succeeds with a warning.
    TaskWarns,
    /// A worker runs for 70 s.
    LongTask,
    /// The node has forgotten the task when it is asked for it.
    TaskForgotten,
    /// QEMU's monitor does not take a connection.
    MonitorRefuses,
    /// QEMU's monitor carries a reset out 20 s after the worker has given up.
    MonitorLate,
}

/// A row of the list of all machines.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Which machine.
    pub vmid: u32,
    /// As it was when statistics were written last.
    pub status: String,
    /// So were these: sent, read and written bytes.
    pub counters: [u64; 3],
}

/// A worker of Proxmox.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name.
    pub upid: String,
    /// What it does.
    pub action: PowerAction,
    /// Node on which it runs.
    pub node: String,
    /// Machine that it works on.
    pub vmid: u32,
    /// When it began.
    pub began: Time,
    /// When it ends.
    pub ends: Time,
    /// With these words.
    pub exit: String,
}

impl Cluster {
    /// An empty cluster of two nodes.
    pub fn new(seed: u64) -> Self {
        Self {
            nodes: BTreeMap::from([("pve1".to_owned(), true), ("pve2".to_owned(), true)]),
            in_maintenance: BTreeSet::new(),
            listed_offline: BTreeSet::new(),
            quorate: true,
            machines: BTreeMap::new(),
            tasks: Vec::new(),
            posts: Vec::new(),
            trouble: None,
            listed: None,
            seed,
        }
    }

    /// Whether a node is up.
    pub fn is_up(&self, node: &str) -> bool {
        self.nodes.get(node).copied().unwrap_or_default()
    }

    /// The list of all machines; but for node and lock up to 10 s old.
    pub fn list(&mut self, now: Time) -> Vec<Listed> {
        if let Some((at, rows)) = &self.listed
            && now.since(*at) < STATISTICS
        {
            return rows.clone();
        }
        let rows: Vec<Listed> = self
            .machines
            .values()
            .map(|m| Listed {
                vmid: m.vmid,
                // The last state of a node that died stays for five minutes.
                status: m.power.word().to_owned(),
                counters: m.counters(now),
            })
            .collect();
        self.listed = Some((now, rows.clone()));
        rows
    }
}
