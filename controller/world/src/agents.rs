//! The agents in the guests.

use crate::chance::draw;
use crate::clock::Time;
use crate::plan::{Body, Key, Sender, Speech, Theme};
use crate::process::send;
use crate::sabotage::Sabotage;
use crate::world::World;
use http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, sleep_until};
use uuid::Uuid;

/// How often an agent that cannot report looks again.
const AGAIN: Duration = Duration::from_secs(1);

/// A receiver that is deaf on purpose has heard everybody once: nobody else could be reset.
const DEAF_FROM: Time = Time(40_000);

/// What an agent was told.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentState {
    /// It says goodbye with its next report.
    pub leaves: bool,
    /// It has said goodbye.
    pub gone: bool,
    /// It ran when the guest was in this boot: it is started at each boot.
    boot: u32,
}

/// Reports for a machine as long as the world lasts.
pub async fn run(world: Arc<World>, vm: usize) {
    let mut next = Time::default().plus(world.plan.vms[vm].first_report);
    let mut period = Duration::from_secs(u64::from(world.plan.policies[world.plan.vms[vm].policy].report));
    loop {
        sleep_until(world.clock.instant(next)).await;
        let now = world.clock.now();
        let Some((boot, report)) = report(&world, vm, now) else {
            next = now.plus(AGAIN);
            continue;
        };
        sleep(Duration::from_millis(1 + draw(world.seed, ("report", vm, now)) % 4)).await;
        match deliver(&world, vm, boot, report).await {
            Some(told) => {
                period = told.unwrap_or(period);
                next = next.plus(period).max(now.plus(AGAIN));
            }
            None => next = now.plus(AGAIN),
        }
    }
}

/// Reports once, now, if it can.
pub async fn once(world: &Arc<World>, vm: usize) {
    if let Some((boot, report)) = report(world, vm, world.clock.now()) {
        deliver(world, vm, boot, report).await;
    }
}

/// What it reports now, if it can, and in which boot.
fn report(world: &World, vm: usize, now: Time) -> Option<(u32, Value)> {
    let plan = &world.plan.vms[vm];
    let mut cluster = world.pve();
    let up = cluster.machines.get(&plan.vmid).is_some_and(|m| cluster.is_up(&m.node));
    let machine = cluster.machines.get_mut(&plan.vmid)?;
    // Another machine of this number has no agent of ours.
    let own = machine.uuid.as_u128() & 0xffff == u128::from(plan.vmid);
    machine.settle(now);
    let speech = world.speech(vm);
    if !own || !up || !speech.installed || !machine.reports() {
        return None;
    }
    let mut agents = world.agents();
    let agent = &mut agents[vm];
    if agent.boot != machine.boots {
        *agent = AgentState {
            boot: machine.boots,
            ..AgentState::default()
        };
    }
    if agent.gone {
        return None;
    }
    if agent.leaves {
        agent.gone = true;
    }
    let blind = world.sabotage == Some(Sabotage::KnowsOneBoot);
    let booted = if blind { Time::default() } else { machine.booted };
    let uptime = now.since(booted).as_secs_f64() + speech.uptime as f64;
    let mut report = json!({
        "hostname": speech.hostname.as_deref().unwrap_or(&plan.name),
        "machineUUID": sender(speech.machine, machine.uuid),
        "cpuPercent": speech.cpu,
        "memoryUsedBytes": 40_000_000u64 * u64::from(speech.memory),
        "memoryTotalBytes": 4_000_000_000u64,
        "disks": [{"mount": "/", "usedBytes": speech.disk, "totalBytes": 100}],
        "uptimeSeconds": uptime.max(0.0),
        "bootID": if blind { "the-one".to_owned() } else { machine.boot_id() },
        "state": if agent.gone { "Stopping" } else { "Running" },
        "supervised": speech.supervised,
        "agentVersion": "1.0.0",
    });
    if speech.clock != 0 {
        report["sentAt"] = json!((world.clock.wall(now) + SignedDuration::from_secs(speech.clock)).to_string());
    }
    if speech.body == Body::Broken {
        report["cpuPercent"] = json!(250);
    }
    Some((machine.boots, report))
}

fn sender(who: Sender, own: Uuid) -> Option<String> {
    match who {
        Sender::Own => Some(own.to_string()),
        Sender::Other => Some(Uuid::from_u128(own.as_u128() ^ 0xffff_0000).to_string()),
        Sender::Swapped => Some(Uuid::from_bytes_le(*own.as_bytes()).to_string()),
        Sender::None => None,
    }
}

fn key(world: &World, vm: usize, speech: &Speech) -> String {
    match &speech.key {
        Key::Right => world.key_of(vm, 1),
        Key::Generation(generation) => world.key_of(vm, *generation),
        Key::Of(name) => {
            let other = world.plan.vms.iter().position(|vm| vm.name == *name);
            world.key_of(other.unwrap_or(vm), 1)
        }
        Key::Wrong => {
            let mut key = world.key_of(vm, 1);
            let last = key.pop();
            key.push(if last == Some('0') { '1' } else { '0' });
            key
        }
    }
}

/// Delivers a report to whoever takes it. Answers what the agent was told about its next one; none where it was not taken.
async fn deliver(world: &Arc<World>, vm: usize, boot: u32, report: Value) -> Option<Option<Duration>> {
    let speech = world.speech(vm);
    if world.weather().cut || !speech.gets_through {
        return None;
    }
    let (process, router) = {
        let processes = world.processes();
        // The Service leads to the one that is ready; with two installations, each agent knows but one.
        let of_ours = |p: &&(usize, &crate::process::Process)| world.plan.theme != Theme::Rivals || p.1.controller == 0;
        let living: Vec<_> = processes.iter().enumerate().filter(|(_, p)| p.listens()).collect();
        let ready = living.iter().find(|p| p.1.is_serving() && of_ours(p));
        let (index, process) = ready.or_else(|| living.iter().find(|p| of_ours(p)))?;
        (*index, process.router())
    };
    let goodbye = report["state"] == "Stopping";
    if world.sabotage == Some(Sabotage::DeafReceiver) && world.clock.now() > DEAF_FROM {
        world.heard(vm, process, goodbye, (speech.cpu, speech.memory), boot);
        return Some(None);
    }
    let answer = send(router, &key(world, vm, &speech), report.to_string()).await;
    let usage = (speech.cpu, speech.memory);
    // A refused body with the right key is life all the same.
    if answer.status() == StatusCode::UNPROCESSABLE_ENTITY && speech.key == Key::Right {
        world.heard(vm, process, goodbye, usage, boot);
    }
    if answer.status() != StatusCode::OK {
        return None;
    }
    let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.ok()?;
    let answer: Value = serde_json::from_slice(&body).ok()?;
    // A report that is older than what is known is answered well, and moves nothing.
    if answer["accepted"] != 0 {
        world.heard(vm, process, goodbye, usage, boot);
    }
    Some(answer["nextReportSeconds"].as_u64().map(Duration::from_secs))
}
