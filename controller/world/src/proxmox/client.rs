//! What a controller holds of the cluster: the client behind the reconcilers' trait.

mod connection;

use super::{Cluster, Trouble};
use crate::chance::{draw, percent};
use crate::clock::{Time, WorldClock};
use crate::plan::Point;
use crate::sabotage::Sabotage;
use crate::world::World;
use connection::Opened;
use defib::reconcile::proxmox::{Asked, PowerConnection, Proxmox};
use defib_proxmox::{
    ClusterHaStatus, ClusterStatus, Error, GuestAgent, HaStatus, Node, NodeState, Permissions, PowerAction, PowerState, RunState,
    TaskEntry, TaskExit, TaskStatus, Upid, Version, VmConfig, VmCounters, VmResource, VmStatus, Vmid,
};
use futures::FutureExt;
use futures::future::pending;
use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::sleep;

/// A client of one process.
#[derive(Clone)]
pub struct SimulatedProxmox {
    cluster: Arc<Mutex<Cluster>>,
    clock: WorldClock,
    seed: u64,
    process: usize,
    /// How wrong the process's wall clock is.
    skew: &'static AtomicI64,
    /// A process that died asks nothing more, and hears nothing more.
    alive: Arc<AtomicBool>,
    /// What of it is broken on purpose.
    sabotage: Option<Sabotage>,
    world: Weak<World>,
}

impl fmt::Debug for SimulatedProxmox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimulatedProxmox of process {}", self.process)
    }
}

impl SimulatedProxmox {
    /// A client for a process of a world, while that is alive.
    pub fn new(
        cluster: Arc<Mutex<Cluster>>,
        clock: WorldClock,
        seed: u64,
        process: usize,
        alive: Arc<AtomicBool>,
        skew: &'static AtomicI64,
        world: Weak<World>,
    ) -> Self {
        Self {
            cluster,
            clock,
            seed,
            process,
            skew,
            alive,
            sabotage: None,
            world,
        }
    }

    /// The same, broken.
    #[must_use]
    pub fn broken(self, sabotage: Option<Sabotage>) -> Self {
        Self { sabotage, ..self }
    }

    /// A reset has come to this point.
    fn reach(&self, point: Point) {
        if let Some(world) = self.world.upgrade() {
            world.reach(point);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way there and back. What is drawn for it goes with the question.
    async fn way(&self, about: impl Hash) -> u64 {
        let now = self.clock.now();
        let drawn = draw(self.seed, ("proxmox", self.process, about, now));
        if !self.alive.load(Ordering::Relaxed) {
            return pending().await;
        }
        sleep(Duration::from_millis(2 + drawn % 19)).await;
        if !self.alive.load(Ordering::Relaxed) {
            return pending().await;
        }
        drawn
    }

    /// What becomes of a read.
    async fn read(&self, path: &str, node: Option<&str>) -> Result<(), Error> {
        let drawn = self.way(path).await;
        let failed = |detail: &str| {
            Err(Error::ReadFailed {
                path: path.to_owned(),
                detail: detail.to_owned(),
            })
        };
        let (trouble, up) = {
            let cluster = self.lock();
            (cluster.trouble, node.is_none_or(|node| cluster.is_up(node)))
        };
        if trouble == Some(Trouble::Unreachable) {
            return failed("connection refused");
        }
        if !up {
            sleep(Duration::from_secs(3)).await;
            return Err(Error::NodeUnreachable {
                endpoint: "pve1:8006".into(),
                node: node.map(str::to_owned),
                detail: "No route to host".into(),
            });
        }
        match trouble {
            Some(Trouble::Unauthorized) => {
                sleep(Duration::from_secs(3)).await;
                return Err(Error::AuthFailed {
                    detail: "authentication failure".into(),
                });
            }
            Some(Trouble::Failing) => {
                return Err(Error::Other {
                    status: 500,
                    reason: "internal error".into(),
                });
            }
            Some(Trouble::Slow) => {
                sleep(Duration::from_millis(1_000 + drawn / 7 % 16_000)).await;
                if percent(drawn / 31, 40) {
                    return Err(Error::Timeout {
                        path: path.to_owned(),
                        after: Duration::from_secs(15),
                    });
                }
            }
            Some(Trouble::Broken) if percent(drawn / 31, 60) => {
                return Err(Error::Other {
                    status: 500,
                    reason: "internal error".into(),
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn sees_lock(&self) -> Option<&'static str> {
        (self.sabotage == Some(Sabotage::SeesLocks)).then_some("backup")
    }

    fn not_on_node(node: &str, vmid: Vmid) -> Error {
        Error::NotOnNode {
            node: node.to_owned(),
            vmid: Some(vmid),
            detail: format!("Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist"),
        }
    }
}

impl Proxmox for SimulatedProxmox {
    fn version(&self) -> Asked<'_, Version> {
        async move {
            self.read("/version", None).await?;
            Ok(Version {
                version: "9.2.11".into(),
                release: "9.2".into(),
                repo_id: "0".into(),
            })
        }
        .boxed()
    }

    fn permissions(&self) -> Asked<'_, Permissions> {
        async move {
            self.read("/access/permissions", None).await?;
            let held = ["VM.Audit", "VM.PowerMgmt", "VM.GuestAgent.Audit"].map(|p| (p.to_owned(), true));
            Ok(Permissions::from_iter([("/vms".to_owned(), held.into())]))
        }
        .boxed()
    }

    fn ha_status(&self) -> Asked<'_, ClusterHaStatus> {
        async move {
            let path = "/cluster/ha/status/current";
            self.read(path, None).await?;
            let cluster = self.lock();
            if cluster.trouble == Some(Trouble::Unaudited) {
                return Err(Error::Forbidden {
                    path: path.into(),
                    privilege: Some("Sys.Audit".into()),
                });
            }
            Ok(ClusterHaStatus {
                quorate: Some(cluster.quorate),
                in_maintenance: cluster.in_maintenance.iter().cloned().collect(),
            })
        }
        .boxed()
    }

    fn cluster_status(&self) -> Asked<'_, ClusterStatus> {
        async move {
            self.read("/cluster/status", None).await?;
            Ok(ClusterStatus {
                name: Some("world".into()),
                quorate: self.lock().quorate,
                nodes: Vec::new(),
            })
        }
        .boxed()
    }

    fn resources(&self) -> Asked<'_, Vec<VmResource>> {
        async move {
            self.read("/cluster/resources", None).await?;
            let now = self.clock.now();
            let mut cluster = self.lock();
            let rows = cluster.list(now);
            let known = |row: &super::Listed| {
                let machine = cluster.machines.get(&row.vmid).filter(|m| !m.unseen)?;
                Some(VmResource {
                    vmid: row.vmid,
                    node: machine.node.clone(),
                    name: None,
                    status: RunState::parse(&row.status),
                    uptime: None,
                    lock: machine.lock.map(str::to_owned),
                    tags: Vec::new(),
                    pool: None,
                    ha_state: machine.ha.map(str::to_owned),
                    max_memory: None,
                    counters: counters(row.counters),
                })
            };
            Ok(rows.iter().filter_map(known).collect())
        }
        .boxed()
    }

    fn nodes(&self) -> Asked<'_, Vec<Node>> {
        async move {
            self.read("/nodes", None).await?;
            let cluster = self.lock();
            let node = |(name, up): (&String, &bool)| Node {
                node: name.clone(),
                status: if *up && !cluster.listed_offline.contains(name) {
                    NodeState::Online
                } else {
                    NodeState::Offline
                },
                ssl_fingerprint: None,
                uptime: None,
            };
            Ok(cluster.nodes.iter().map(node).collect())
        }
        .boxed()
    }

    fn vm_status<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, VmStatus> {
        async move {
            self.reach(Point::Look);
            self.read(&format!("/nodes/{node}/qemu/{vmid}/status/current"), Some(node)).await?;
            let now = self.clock.now();
            let mut cluster = self.lock();
            let machine = cluster.machines.get_mut(&vmid).filter(|m| m.node == node);
            let machine = machine.ok_or_else(|| Self::not_on_node(node, vmid))?;
            machine.settle(now);
            let exists = machine.power != super::Power::Stopped;
            let shown = if machine.monitor_hangs && exists {
                "running"
            } else {
                machine.power.word()
            };
            Ok(VmStatus {
                status: if exists { PowerState::Running } else { PowerState::Stopped },
                qmp_status: RunState::parse(shown),
                monitor_answers: exists && !machine.monitor_hangs,
                name: None,
                uptime: if exists { now.since(machine.started).as_secs() } else { 0 },
                pid: exists.then_some(1),
                lock: machine.lock.or(self.sees_lock()).map(str::to_owned),
                ha: HaStatus {
                    managed: machine.ha.is_some(),
                    state: machine.ha.map(str::to_owned),
                },
                agent: machine.guest_agent,
                template: false,
                counters: counters(machine.counters(now)),
            })
        }
        .boxed()
    }

    fn vm_config<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, VmConfig> {
        async move {
            self.read(&format!("/nodes/{node}/qemu/{vmid}/config"), Some(node)).await?;
            let cluster = self.lock();
            let machine = cluster.machines.get(&vmid).filter(|m| m.node == node);
            let machine = machine.ok_or_else(|| Self::not_on_node(node, vmid))?;
            Ok(VmConfig {
                smbios_uuid: machine.shows_uuid.then_some(machine.uuid),
                name: None,
                reboot: machine.reboot,
                lock: machine.lock.map(str::to_owned),
                digest: None,
                agent: machine.guest_agent,
                template: false,
                created: None,
            })
        }
        .boxed()
    }

    fn guest_agent<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, GuestAgent> {
        async move {
            self.read(&format!("/nodes/{node}/qemu/{vmid}/agent"), Some(node)).await?;
            let (configured, answers) = {
                let cluster = self.lock();
                let machine = cluster.machines.get(&vmid).filter(|m| m.node == node);
                let machine = machine.ok_or_else(|| Self::not_on_node(node, vmid))?;
                (machine.guest_agent, machine.answers())
            };
            if !configured {
                return Ok(GuestAgent::NotConfigured);
            }
            if answers {
                return Ok(GuestAgent::Answers);
            }
            sleep(Duration::from_secs(3)).await;
            Ok(GuestAgent::Silent)
        }
        .boxed()
    }

    fn task_status<'a>(&'a self, upid: &'a Upid) -> Asked<'a, TaskStatus> {
        async move {
            self.read(&format!("/tasks/{upid}"), Some(upid.node())).await?;
            let now = self.clock.now();
            let cluster = self.lock();
            let task = cluster.tasks.iter().find(|t| t.upid == upid.as_str());
            let task = task.filter(|_| cluster.trouble != Some(Trouble::TaskForgotten));
            let task = task.ok_or_else(|| Error::TaskUnknown {
                upid: upid.clone(),
                detail: "no such task".into(),
            })?;
            Ok(status(task, now))
        }
        .boxed()
    }

    fn search_tasks<'a>(&'a self, node: &'a str, vmid: Vmid, action: PowerAction, since: Timestamp) -> Asked<'a, Vec<TaskEntry>> {
        async move {
            self.read(&format!("/nodes/{node}/tasks/{vmid}"), Some(node)).await?;
            let now = self.clock.now();
            let cluster = self.lock();
            // The real client asks the node for its clock, and allows for the difference to its own and for 5 s.
            let since = since - SignedDuration::from_millis(self.skew.load(Ordering::Relaxed)) - SignedDuration::from_secs(5);
            let entry = |task: &super::Task| {
                Some(TaskEntry {
                    upid: task.upid.parse().ok()?,
                    ended: (task.ends <= now).then(|| self.clock.wall(task.ends)),
                    status: status(task, now),
                })
            };
            let ours = cluster
                .tasks
                .iter()
                .filter(|t| t.node == node && t.vmid == vmid && t.action == action);
            Ok(ours.filter(|t| self.clock.wall(t.began) >= since).filter_map(entry).collect())
        }
        .boxed()
    }

    fn open<'a>(&'a self, node: Option<&'a str>) -> Asked<'a, Box<dyn PowerConnection>> {
        async move {
            self.reach(Point::Open);
            let drawn = self.way(("open", node)).await;
            let trouble = self.lock().trouble;
            match trouble {
                Some(Trouble::Unreachable | Trouble::NoConnect) => {
                    return Err(Error::NotDelivered {
                        endpoint: "pve1:8006".into(),
                        detail: "connection refused".into(),
                    });
                }
                Some(Trouble::Slow) => sleep(Duration::from_millis(drawn / 7 % 9_000)).await,
                Some(Trouble::SlowConnect) => sleep(Duration::from_secs(12)).await,
                _ => {}
            }
            Ok(Box::new(Opened {
                client: self.clone(),
                at: self.clock.now(),
            }) as Box<dyn PowerConnection>)
        }
        .boxed()
    }
}

fn status(task: &super::Task, now: Time) -> TaskStatus {
    if task.ends <= now {
        TaskStatus::Finished(TaskExit::parse(&task.exit))
    } else {
        TaskStatus::Running
    }
}

fn counters([net_out, disk_read, disk_write]: [u64; 3]) -> VmCounters {
    VmCounters {
        net_in: 0,
        net_out,
        disk_read,
        disk_write,
    }
}
