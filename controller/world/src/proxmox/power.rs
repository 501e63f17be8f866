//! What a POST does.

use super::guest::{Machine, Power};
use super::{Cluster, Task, Trouble};
use crate::chance;
use crate::clock::{Time, WorldClock};
use crate::proxmox::TOKEN;
use defib_proxmox::{Error, PowerAction};
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
    /// What it asks for.
    pub action: PowerAction,
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
    /// QEMU started.
    Started,
}

impl Effect {
    /// Whether the guest was touched.
    pub fn happened(self) -> bool {
        matches!(self, Self::Reset | Self::Stopped | Self::Nothing | Self::Started)
    }
}

/// How a worker ends: after how many milliseconds, with which words, and what it did by then.
type Work = (u64, &'static str, Effect);

impl Cluster {
    /// A POST arrives. Answers the UPID or the refusal.
    pub fn carry_out(&mut self, post: usize, now: Time, clock: &WorldClock) -> Result<String, Error> {
        let (node, vmid, action) = {
            let post = &self.posts[post];
            (post.node.clone(), post.vmid, post.action)
        };
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
        let needs_to_run = !matches!(action, PowerAction::Start | PowerAction::Stop);
        if power == Power::Stopped && needs_to_run {
            return refused(self, Error::NotRunning { vmid: Some(vmid) });
        }
        let dies = (self.trouble == Some(Trouble::WorkerDies)).then(|| chance::percent(chance::draw(self.seed, ("worker", vmid, now)), 50));
        let (takes, exit, effect) = match (action, dies) {
            _ if machine.lock.is_some() => (200, "VM is locked (backup)", Effect::Refused),
            (PowerAction::Reset, _) => reset(machine, dies, self.trouble == Some(Trouble::NoEffect)),
            (PowerAction::Resume, _) if power == Power::Prelaunch => (300, "OK", Effect::Reset),
            (PowerAction::Resume, _) => (300, "OK", Effect::Nothing),
            (PowerAction::Start, _) if power != Power::Stopped => (300, "VM 100 already running", Effect::Nothing),
            (_, Some(false)) => (300, "unexpected status", Effect::Nothing),
            (PowerAction::Start, _) => (1_500, "OK", Effect::Started),
            // QEMU's monitor hangs: it is killed.
            (PowerAction::Stop, _) if machine.monitor_hangs => (15_000, "OK", Effect::Stopped),
            (PowerAction::Stop, Some(true)) => (300, "unexpected status", Effect::Stopped),
            (PowerAction::Stop, None) => (1_000, "OK", Effect::Stopped),
            (PowerAction::Reboot, _) if machine.answers() => (4_000, "OK", Effect::Started),
            (PowerAction::Reboot, _) => (60_000, "VM quit/powerdown failed - got timeout", Effect::Nothing),
        };
        match effect {
            Effect::Reset if power == Power::Running || action == PowerAction::Resume => machine.boot(now),
            Effect::Reset => machine.change(now, |m| m.power = Power::Prelaunch),
            Effect::Stopped => machine.change(now, |m| {
                m.power = Power::Stopped;
                m.monitor_hangs = false;
            }),
            Effect::Started => machine.start(now),
            _ => {}
        }
        let kind = action.tasks()[0];
        let seconds = clock.wall(now).as_second();
        let number = self.tasks.len() + 1;
        let upid = format!("UPID:{node}:{number:08X}:{number:08X}:{seconds:08X}:{kind}:{vmid}:{TOKEN}:");
        let ends = now.plus(Duration::from_millis(takes));
        self.tasks.push(Task {
            upid: upid.clone(),
            action,
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

/// A reset of a machine that has a QEMU process. `dies`: the worker does, and has reset the machine by then or not.
fn reset(machine: &Machine, dies: Option<bool>, no_effect: bool) -> Work {
    if machine.monitor_hangs {
        return (5_000, "VM 100 qmp command 'system_reset' failed - got timeout", Effect::Nothing);
    }
    match dies {
        Some(did) => (300, "unexpected status", if did { Effect::Reset } else { Effect::Nothing }),
        None if no_effect => (300, "OK", Effect::Nothing),
        None if machine.reboot => (300, "OK", Effect::Reset),
        None => (300, "OK", Effect::Stopped),
    }
}
