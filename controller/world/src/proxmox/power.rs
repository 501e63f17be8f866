//! What a POST does.

use super::guest::Power;
use super::{Cluster, Task, Trouble};
use crate::chance;
use crate::clock::{Time, WorldClock};
use crate::proxmox::TOKEN;
use defib_proxmox::Error;
use std::time::Duration;
use uuid::Uuid;

/// A power action that was sent.
#[derive(Clone, Debug)]
pub struct Post {
    /// When the controller sent it.
    pub sent: Time,
    /// When its connection was opened.
    pub opened: Time,
    /// Which process sent it.
    pub process: usize,
    /// Node in its path.
    pub node: String,
    /// Machine in its path.
    pub vmid: u32,
    /// The machine that then had this number.
    pub uuid: Option<Uuid>,
    /// State in QEMU then, and since when.
    pub power: Option<(Power, Time)>,
    /// Since when it had had this number.
    pub uuid_since: Time,
    /// What came of it.
    pub effect: Effect,
    /// When the worker ended.
    pub ended: Option<Time>,
    /// Its task.
    pub upid: Option<String>,
}

/// What came of a POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is under way.
    OnItsWay,
    /// Nothing: it did not arrive.
    None,
    /// Proxmox refused it, at once or in the worker.
    Refused,
    /// The guest was reset.
    Reset,
    /// A worker ran, and the guest went on as before.
    Nothing,
    /// QEMU ended.
    Stopped,
}

impl Effect {
    /// Whether the guest was touched.
    pub fn happened(self) -> bool {
        matches!(self, Self::Reset | Self::Stopped | Self::Nothing)
    }
}

impl Cluster {
    /// A reset arrives. Answers the UPID or the refusal.
    pub fn reset(&mut self, post: usize, now: Time, clock: &WorldClock) -> Result<String, Error> {
        let (node, vmid) = (self.posts[post].node.clone(), self.posts[post].vmid);
        let refused = |cluster: &mut Self, error| {
            cluster.posts[post].effect = Effect::Refused;
            Err(error)
        };
        let Some(machine) = self.machines.get_mut(&vmid).filter(|m| m.node == node) else {
            let detail = format!("unable to find configuration file for VM {vmid} on node '{node}'");
            return refused(
                self,
                Error::NotOnNode {
                    node,
                    vmid: Some(vmid),
                    detail,
                },
            );
        };
        machine.settle(now);
        let (uuid, power) = (machine.uuid, machine.power);
        let told = &mut self.posts[post];
        (told.uuid, told.uuid_since, told.power) = (Some(uuid), machine.uuid_since, Some((power, machine.power_since)));
        if power == Power::Stopped {
            return refused(self, Error::NotRunning { vmid: Some(vmid) });
        }
        let killed = |did: bool| {
            (
                300,
                "unexpected status".to_owned(),
                if did { Effect::Reset } else { Effect::Nothing },
            )
        };
        let monitor = |what: &str| format!("VM {vmid} {what}");
        let (takes, exit, effect) = if let Some(lock) = machine.lock {
            (200, format!("VM is locked ({lock})"), Effect::Refused)
        } else if machine.file_locked {
            let exit = format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout");
            (10_000, exit, Effect::Refused)
        } else if machine.monitor_hangs || self.trouble == Some(Trouble::MonitorLate) {
            (5_000, monitor("qmp command 'system_reset' failed - got timeout"), Effect::Nothing)
        } else {
            match self.trouble {
                Some(Trouble::MonitorRefuses) => {
                    let exit =
                        format!("qmp command 'system_reset' failed - unable to connect to VM {vmid} qmp socket - timeout after 51 retries");
                    (8_000, monitor(&exit), Effect::Nothing)
                }
                Some(Trouble::WorkerDies) => killed(chance::percent(chance::draw(self.seed, ("worker", vmid, now)), 50)),
                Some(Trouble::KilledAndDone) => killed(true),
                Some(Trouble::KilledAndNotDone) => killed(false),
                Some(Trouble::NoEffect) => (300, "OK".into(), Effect::Nothing),
                Some(Trouble::TaskFails) => (300, "something else went wrong".into(), Effect::Refused),
                trouble => {
                    let effect = if machine.reboot { Effect::Reset } else { Effect::Stopped };
                    match trouble {
                        Some(Trouble::TaskWarns) => (300, "WARNINGS: 1".into(), effect),
                        Some(Trouble::LongTask) => (70_000, "OK".into(), effect),
                        _ => (300, "OK".into(), effect),
                    }
                }
            }
        };
        match effect {
            Effect::Reset if power == Power::Running => machine.boot(now),
            Effect::Reset => machine.change(now, |m| m.power = Power::Prelaunch),
            Effect::Stopped => machine.change(now, |m| m.power = Power::Stopped),
            _ => {}
        }
        let seconds = clock.wall(now).as_second();
        let number = self.tasks.len() + 1;
        let upid = format!("UPID:{node}:{number:08X}:{number:08X}:{seconds:08X}:qmreset:{vmid}:{TOKEN}:");
        let ends = now.plus(Duration::from_millis(takes));
        self.tasks.push(Task {
            upid: upid.clone(),
            node,
            vmid,
            began: now,
            ends,
            exit,
        });
        let told = &mut self.posts[post];
        (told.effect, told.ended, told.upid) = (effect, Some(ends), Some(upid.clone()));
        Ok(upid)
    }
}
