//! Those who break things, each in a thread of its own, and those who repair them.

use super::Stage;
use crate::evidence::Did;
use crate::plan::{At, Guest, Proxmox};
use crate::sample::sample;
use anyhow::Result;
use control_plane::ControlPlane;
use pve_sim::{Control, FaultControl, GuestState, Lock, Reply, Unresponsive};
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use xtask::lab::{Controller, Lab, NAMESPACE};

/// Between two looks at the controller.
const LOOK: Duration = Duration::from_millis(200);
/// How long a controller that ended by itself is left alone, as Kubernetes does at first.
const RESTART: Duration = Duration::from_secs(1);

/// Breaks everything as planned, for as long as planned. In the end all is whole again.
pub fn play(lab: &mut Lab, stage: &Stage, runtime: &Runtime, say: &dyn Fn(&str)) -> Result<()> {
    let kubectl = lab.control_plane.kubectl();
    let (plane, controller) = lab.split();
    let broke = thread::scope(|scope| {
        let actors = [
            scope.spawn(|| api_server(plane, stage)),
            scope.spawn(|| keep(controller, stage, &stage.plan.kills)),
            scope.spawn(|| proxmox(stage, runtime)),
            scope.spawn(|| guests(stage, runtime, kubectl)),
        ];
        scope.spawn(|| samples(stage));
        let mut told = Instant::now();
        while stage.began.elapsed() < stage.plan.length {
            thread::sleep(LOOK);
            if told.elapsed() > Duration::from_secs(60) {
                told = Instant::now();
                say(&format!("{} s of {}", stage.began.elapsed().as_secs(), stage.plan.length.as_secs()));
            }
        }
        stage.did(Did::Calm);
        stage.over.store(true, Ordering::Relaxed);
        for actor in actors {
            match actor.join() {
                Ok(result) => result?,
                Err(_) => anyhow::bail!("a part of the soak panicked"),
            }
        }
        anyhow::Ok(())
    });
    stage.over.store(false, Ordering::Relaxed);
    broke
}

/// Starts the controller whenever it has ended, and kills it when that is due.
fn keep(controller: &mut Controller, stage: &Stage, kills: &[Duration]) -> Result<()> {
    let mut kills = kills.iter().copied().peekable();
    while !stage.is_over() {
        if kills.next_if(|at| *at <= stage.began.elapsed()).is_some() {
            stage.pid.store(0, Ordering::Relaxed);
            stage.did(Did::Killed);
            controller.kill()?;
            start(controller, stage)?;
        }
        revive(controller, stage)?;
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Starts the controller if it has ended by itself.
pub fn revive(controller: &mut Controller, stage: &Stage) -> Result<()> {
    let died = match controller.process() {
        Ok(process) => process.check_running().err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(words) = died {
        stage.pid.store(0, Ordering::Relaxed);
        stage.did(Did::Died(words));
        controller.kill()?;
        thread::sleep(RESTART);
        start(controller, stage)?;
    }
    Ok(())
}

fn start(controller: &mut Controller, stage: &Stage) -> Result<()> {
    stage.did(Did::Started);
    controller.spawn()?;
    stage.pid.store(controller.process()?.pid(), Ordering::Relaxed);
    Ok(())
}

fn api_server(plane: &mut ControlPlane, stage: &Stage) -> Result<()> {
    for At { at, what } in &stage.plan.api {
        if !stage.wait_until(*at) {
            break;
        }
        stage.did(Did::ApiDown);
        if what.kill {
            plane.kill_apiserver()?;
        } else {
            plane.stop_apiserver()?;
        }
        stage.wait_until(stage.began.elapsed() + Duration::from_millis(what.millis));
        plane.start_apiserver()?;
        stage.did(Did::ApiUp);
    }
    Ok(())
}

fn proxmox(stage: &Stage, runtime: &Runtime) -> Result<()> {
    let nodes = ["pve1", "pve2", "pve3"];
    for At { at, what } in &stage.plan.proxmox {
        if !stage.wait_until(*at) {
            break;
        }
        stage.did(Did::Proxmox(format!("{what:?}")));
        let (begin, end, millis) = match what {
            Proxmox::Fault {
                kind,
                resets,
                count,
                millis,
            } => {
                let fault = pve_sim::Fault::new(kind.parse().map_err(anyhow::Error::msg)?).count(*count);
                let fault = if *resets {
                    fault.method("POST").path_contains("status/reset")
                } else {
                    fault
                };
                let begin = Control::Fault(FaultControl::Add(fault));
                (begin, Control::Fault(FaultControl::Clear), *millis)
            }
            Proxmox::Unreachable(node, millis) => node_down(nodes.get(*node), true, *millis),
            Proxmox::PowerLoss(node, millis) => node_down(nodes.get(*node), false, *millis),
        };
        control(stage, runtime, &begin)?;
        stage.wait_until(stage.began.elapsed() + Duration::from_millis(millis));
        control(stage, runtime, &end)?;
    }
    Ok(())
}

fn node_down(node: Option<&&str>, keep_guests: bool, millis: u64) -> (Control, Control, u64) {
    let node = (*node.unwrap_or(&"pve1")).to_owned();
    let down = Control::NodeDown {
        node: node.clone(),
        keep_guests,
    };
    (down, Control::NodeUp { node }, millis)
}

/// A control, as `pve-sim ctl`. That a VM is not in the state to be broken is none of our concern.
fn control(stage: &Stage, runtime: &Runtime, control: &Control) -> Result<()> {
    match runtime.block_on(pve_sim::send(&stage.simulator, control)) {
        Ok(_) | Err(pve_sim::CtlError::Refused(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What is undone later.
struct Undo {
    at: Duration,
    vmid: u32,
    control: Control,
}

fn guests(stage: &Stage, runtime: &Runtime, mut kubectl: Command) -> Result<()> {
    kubectl
        .args(["delete", "managedvms.defib.dev", "--wait=false", "--namespace", NAMESPACE])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut undo: Vec<Undo> = Vec::new();
    let mut plan = stage.plan.guests.iter().peekable();
    loop {
        let next = plan.peek().map(|event| event.at);
        let due = undo.iter().map(|undo| undo.at).chain(next).min();
        let Some(due) = due else { break };
        if !stage.wait_until(due) {
            break;
        }
        let (now, later): (Vec<_>, Vec<_>) = undo.into_iter().partition(|undo| undo.at <= due);
        undo = later;
        for Undo { vmid, control: what, .. } in now {
            unlocked(stage, vmid, &what);
            control(stage, runtime, &what)?;
        }
        if let Some(At { at, what: (vmid, what) }) = plan.next_if(|event| event.at <= due)
            && down(stage, runtime)? < stage.most_down
        {
            undo.extend(guest(stage, runtime, &mut kubectl, *at, *vmid, *what)?);
        }
    }
    for Undo { vmid, control: what, .. } in undo {
        unlocked(stage, vmid, &what);
        control(stage, runtime, &what)?;
    }
    Ok(())
}

/// How many guests are down that a reset may heal.
fn down(stage: &Stage, runtime: &Runtime) -> Result<usize> {
    match runtime.block_on(pve_sim::send(&stage.simulator, &Control::List))? {
        Reply::Vms(vms) => Ok(vms
            .iter()
            .filter(|vm| stage.healable.contains(&vm.vmid) && vm.guest != GuestState::Running)
            .count()),
        other => anyhow::bail!("the simulator answered {other:?}"),
    }
}

/// The lock counts as gone from before it is removed.
fn unlocked(stage: &Stage, vmid: u32, what: &Control) {
    if matches!(what, Control::Unlock { .. }) {
        stage.did(Did::Unlocked(vmid));
    }
}

fn guest(stage: &Stage, runtime: &Runtime, kubectl: &mut Command, at: Duration, vmid: u32, what: Guest) -> Result<Option<Undo>> {
    let hang = Control::Hang { vmid, livelock: false };
    let after = |millis: u64, control: Control| {
        let at = at + Duration::from_millis(millis);
        Some(Undo { at, vmid, control })
    };
    let doom = |heals: bool| {
        let boots = if heals { Unresponsive::Never } else { Unresponsive::Resets };
        control(stage, runtime, &Control::Unresponsive { vmid, boots })
    };
    Ok(match what {
        Guest::Hang(heals) => {
            doom(heals)?;
            control(stage, runtime, &hang)?;
            None
        }
        Guest::Crash(heals) => {
            doom(heals)?;
            control(stage, runtime, &Control::Crash { vmid })?;
            None
        }
        Guest::Stall(millis) => {
            control(stage, runtime, &hang)?;
            after(millis, Control::Thaw { vmid })
        }
        Guest::HangLocked(millis) => {
            control(stage, runtime, &hang)?;
            let lock = Lock::Backup;
            control(stage, runtime, &Control::Lock { vmid, lock })?;
            stage.did(Did::Locked(vmid));
            after(millis, Control::Unlock { vmid })
        }
        Guest::DeleteAndHang => {
            // Only what was certainly deleted counts as such; an API server that is away deletes nothing.
            if let Some(name) = stage.names.get(&vmid)
                && delete(kubectl, name)
            {
                stage.did(Did::Deleted(vmid));
                control(stage, runtime, &hang)?;
            }
            None
        }
        Guest::Stop(millis) => {
            control(stage, runtime, &Control::Stop { vmid })?;
            after(millis, Control::Start { vmid })
        }
    })
}

fn delete(template: &Command, name: &str) -> bool {
    let mut kubectl = Command::new(template.get_program());
    kubectl
        .args(template.get_args())
        .arg(name)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    for (key, value) in template.get_envs() {
        if let Some(value) = value {
            kubectl.env(key, value);
        }
    }
    kubectl.status().is_ok_and(|status| status.success())
}

/// Looks at the controller's size each second.
fn samples(stage: &Stage) {
    while !stage.is_over() {
        let pid = stage.pid.load(Ordering::Relaxed);
        if let Some(sample) = (pid != 0).then(|| sample(pid)).flatten() {
            stage.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        }
        thread::sleep(Duration::from_secs(1));
    }
}
