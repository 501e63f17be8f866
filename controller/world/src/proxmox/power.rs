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
type Work = (u64, String, Effect);

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
        // A worker that is killed may have done its work by then.
        let killed = match self.trouble {
            Some(Trouble::WorkerDies) => Some(chance::percent(chance::draw(self.seed, ("worker", vmid, now)), 50)),
            Some(Trouble::KilledAndDone) => Some(true),
            Some(Trouble::KilledAndNotDone) => Some(false),
            _ => None,
        };
        let done = |takes, effect| (takes, "OK".to_owned(), effect);
        let (takes, exit, effect) = if let Some(lock) = machine.lock {
            (200, format!("VM is locked ({lock})"), Effect::Refused)
        } else if machine.file_locked {
            let exit = format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout");
            (10_000, exit, Effect::Refused)
        } else {
            match action {
                PowerAction::Reset => reset(machine, killed, self.trouble),
                PowerAction::Resume if power == Power::Prelaunch => done(300, Effect::Reset),
                PowerAction::Resume => done(300, Effect::Nothing),
                PowerAction::Start if power != Power::Stopped => (300, format!("VM {vmid} already running"), Effect::Nothing),
                _ if killed == Some(false) => (300, "unexpected status".into(), Effect::Nothing),
                PowerAction::Start => done(1_500, Effect::Started),
                // It is killed.
                PowerAction::Stop if machine.monitor_hangs => done(15_000, Effect::Stopped),
                PowerAction::Stop if killed == Some(true) => (300, "unexpected status".into(), Effect::Stopped),
                PowerAction::Stop => done(1_000, Effect::Stopped),
                PowerAction::Reboot if machine.answers() => done(4_000, Effect::Started),
                PowerAction::Reboot => (60_000, "VM quit/powerdown failed - got timeout".into(), Effect::Nothing),
            }
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

/// A reset of a machine that has a QEMU process. `killed`: its worker is, and has reset the machine by then or not.
fn reset(machine: &Machine, killed: Option<bool>, trouble: Option<Trouble>) -> Work {
    let qmp = |why: &str| format!("VM {} qmp command 'system_reset' failed - {why}", machine.vmid);
    if machine.monitor_hangs || trouble == Some(Trouble::MonitorLate) {
        return (5_000, qmp("got timeout"), Effect::Nothing);
    }
    if let Some(did) = killed {
        return (300, "unexpected status".into(), if did { Effect::Reset } else { Effect::Nothing });
    }
    let effect = if machine.reboot { Effect::Reset } else { Effect::Stopped };
    match trouble {
        Some(Trouble::MonitorRefuses) => {
            let why = format!("unable to connect to VM {} qmp socket - timeout after 51 retries", machine.vmid);
            (8_000, qmp(&why), Effect::Nothing)
        }
        Some(Trouble::NoEffect) => (300, "OK".into(), Effect::Nothing),
        Some(Trouble::TaskFails) => (300, "something else went wrong".into(), Effect::Refused),
        Some(Trouble::TaskWarns) => (300, "WARNINGS: 1".into(), effect),
        Some(Trouble::LongTask) => (70_000, "OK".into(), effect),
        _ => (300, "OK".into(), effect),
    }
}
