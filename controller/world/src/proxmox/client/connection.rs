//! A connection for one power action, and what becomes of the request on it.

use super::SimulatedProxmox;
use crate::chance::{draw, percent};
use crate::clock::Time;
use crate::plan::{Point, WriteTo};
use crate::proxmox::power::{Effect, Post};
use crate::proxmox::{Cluster, Trouble};
use crate::sabotage::Sabotage;
use defib::reconcile::proxmox::{Asked, PowerConnection};
use defib_proxmox::{Error, PowerAction, Upid, Vmid};
use futures::FutureExt;
use futures::future::pending;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// A connection that is older is not sent on, as the real client has it.
const STALE: Duration = Duration::from_secs(4);
/// Proxmox closes a connection that was idle for so long.
const IDLE: Duration = Duration::from_secs(5);

/// A connection that is open.
pub(super) struct Opened {
    pub(super) client: SimulatedProxmox,
    pub(super) at: Time,
}

impl PowerConnection for Opened {
    fn post<'a>(self: Box<Self>, action: PowerAction, node: &'a str, vmid: Vmid) -> Asked<'a, Upid> {
        async move { self.client.post(self.at, action, node, vmid).await }.boxed()
    }
}

impl SimulatedProxmox {
    /// Boxed, as it calls itself where everything is sent twice.
    fn post<'a>(&'a self, opened: Time, action: PowerAction, node: &'a str, vmid: Vmid) -> Asked<'a, Upid> {
        async move {
            let sent = self.clock.now();
            let endpoint = || "pve1:8006".to_owned();
            if !self.alive.load(Ordering::Relaxed) {
                return pending().await;
            }
            if self.sabotage == Some(Sabotage::NeverStarts) && action == PowerAction::Start {
                return "UPID:pve1:00000001:00000001:6633A1E3:qmstart:100:svc@pve!ctl:"
                    .parse()
                    .map_err(|_| Error::NotRunning { vmid: Some(vmid) });
            }
            if sent.since(opened) > STALE {
                return Err(Error::Stale {
                    endpoint: endpoint(),
                    age: sent.since(opened),
                });
            }
            let world = self.world.upgrade();
            let dies = world.as_ref().and_then(|world| world.crash_point(self.process, WriteTo::Proxmox));
            if let Some(world) = &world {
                world.dies_at_post(self.process, true);
                if dies == Some(true) {
                    world.die(self.process, "before it sends a POST");
                }
            }
            if !self.alive.load(Ordering::Relaxed) {
                return pending().await;
            }
            let (post, trouble, up) = {
                let mut cluster = self.lock();
                cluster.posts.push(Post {
                    sent,
                    opened,
                    process: self.process,
                    action,
                    node: node.to_owned(),
                    vmid,
                    uuid: None,
                    power: None,
                    uuid_since: Time::default(),
                    effect: Effect::OnItsWay,
                    ended: None,
                    upid: None,
                });
                (cluster.posts.len() - 1, cluster.trouble, cluster.is_up(node))
            };
            self.reach(Point::Post);
            if let Some(world) = &world {
                world.dies_at_post(self.process, false);
                if dies == Some(false) {
                    world.die(self.process, "after it has sent a POST");
                }
            }
            drop(world);
            let drawn = draw(self.seed, ("post", self.process, vmid, sent));
            let arrives = sent.plus(Duration::from_millis(2 + drawn % 9));
            let ambiguous = |detail: &str| Error::Ambiguous {
                endpoint: endpoint(),
                detail: detail.into(),
            };
            // What is on its way arrives, whatever becomes of who sent it.
            let (cluster, clock) = (self.cluster.clone(), self.clock);
            let arrival = move |after: Duration| {
                tokio::spawn(async move {
                    tokio::time::sleep_until(clock.instant(arrives.plus(after))).await;
                    let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
                    cluster.carry_out(post, clock.now(), &clock)
                })
            };
            let lost = |cluster: &Arc<Mutex<Cluster>>| {
                cluster.lock().unwrap_or_else(PoisonError::into_inner).posts[post].effect = Effect::None;
            };
            if arrives.since(opened) > IDLE {
                lost(&self.cluster);
                return Err(ambiguous("connection closed before the answer"));
            }
            let answer = match trouble {
                Some(Trouble::NotDelivered) => {
                    lost(&self.cluster);
                    sleep(Duration::from_secs(3)).await;
                    Err(Error::NodeUnreachable {
                        endpoint: endpoint(),
                        node: Some(node.to_owned()),
                        detail: "No route to host".into(),
                    })
                }
                Some(Trouble::Unreachable | Trouble::LostRequest) => {
                    lost(&self.cluster);
                    sleep(Duration::from_millis(drawn / 3 % 40_000)).await;
                    Err(ambiguous("no answer"))
                }
                _ if !up => {
                    lost(&self.cluster);
                    sleep(Duration::from_secs(30)).await;
                    Err(ambiguous("596 Connection timed out"))
                }
                Some(Trouble::LostAnswer) => {
                    arrival(Duration::ZERO);
                    sleep(Duration::from_millis(drawn / 3 % 40_000)).await;
                    Err(ambiguous("connection reset by peer"))
                }
                Some(Trouble::LateDelivery) => {
                    arrival(Duration::from_millis(drawn / 5 % 30_000));
                    sleep(Duration::from_millis(100)).await;
                    Err(ambiguous("596 Broken pipe"))
                }
                Some(Trouble::Unprivileged) => {
                    self.lock().posts[post].effect = Effect::Refused;
                    sleep(Duration::from_millis(5)).await;
                    Err(Error::Forbidden {
                        path: format!("/vms/{vmid}"),
                        privilege: Some("VM.PowerMgmt".into()),
                    })
                }
                Some(Trouble::MonitorLate) => {
                    let upid = arrival(Duration::ZERO).await.map_err(|_| ambiguous("no answer"))?;
                    let (cluster, clock) = (self.cluster.clone(), self.clock);
                    tokio::spawn(async move {
                        sleep(Duration::from_secs(20)).await;
                        let mut cluster = cluster.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(machine) = cluster.machines.get_mut(&vmid) {
                            machine.boot(clock.now());
                        }
                    });
                    upid.and_then(|upid| upid.parse().map_err(|_| ambiguous("no UPID")))
                }
                Some(Trouble::ServerError | Trouble::ErrorAndDone | Trouble::ErrorAndNotDone) => {
                    let by_chance = trouble == Some(Trouble::ServerError) && percent(drawn / 3, 50);
                    if by_chance || trouble == Some(Trouble::ErrorAndDone) {
                        arrival(Duration::ZERO);
                    } else {
                        lost(&self.cluster);
                    }
                    sleep(Duration::from_millis(50)).await;
                    Err(Error::Other {
                        status: 500,
                        reason: "got no worker upid - start worker failed".into(),
                    })
                }
                _ => {
                    let upid = arrival(Duration::ZERO).await.map_err(|_| ambiguous("no answer"))?;
                    sleep(Duration::from_millis(2 + drawn % 9)).await;
                    upid.and_then(|upid| upid.parse().map_err(|_| ambiguous("no UPID")))
                }
            };
            if self.sabotage == Some(Sabotage::StartsAlso) {
                let again = Self {
                    sabotage: None,
                    ..self.clone()
                };
                let _ = again.post(again.clock.now(), PowerAction::Start, node, vmid).await;
            }
            if self.sabotage == Some(Sabotage::PostsTwice) {
                let again = Self {
                    sabotage: None,
                    ..self.clone()
                };
                let node = node.to_owned();
                tokio::spawn(async move {
                    sleep(Duration::from_secs(2)).await;
                    let _ = again.post(again.clock.now(), action, &node, vmid).await;
                });
            }
            if !self.alive.load(Ordering::Relaxed) {
                return pending().await;
            }
            answer
        }
        .boxed()
    }
}
