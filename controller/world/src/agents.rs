//! The agents in the guests.

use crate::chance::draw;
use crate::clock::Time;
use crate::plan::Theme;
use crate::process::send;
use crate::sabotage::Sabotage;
use crate::world::World;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, sleep_until};

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
    let key = world.key_of(vm);
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
        match deliver(&world, vm, &key, boot, report).await {
            Some(told) => {
                period = told.unwrap_or(period);
                next = next.plus(period).max(now.plus(AGAIN));
            }
            None => next = now.plus(AGAIN),
        }
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
    if !own || !up || !machine.reports() {
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
    let report = json!({
        "hostname": plan.name,
        "machineUUID": machine.uuid.to_string(),
        "cpuPercent": 12.5,
        "memoryUsedBytes": 1_000_000_000u64,
        "memoryTotalBytes": 4_000_000_000u64,
        "disks": [{"mount": "/", "usedBytes": 10, "totalBytes": 100}],
        "uptimeSeconds": now.since(if blind { Time::default() } else { machine.booted }).as_secs_f64(),
        "bootID": if blind { "the-one".to_owned() } else { machine.boot_id() },
        "state": if agent.gone { "Stopping" } else { "Running" },
        "supervised": true,
        "agentVersion": "1.0.0",
    });
    Some((machine.boots, report))
}

/// Delivers a report to whoever takes it. Answers what the agent was told about its next one; none where it was not taken.
async fn deliver(world: &Arc<World>, vm: usize, key: &str, boot: u32, report: Value) -> Option<Option<Duration>> {
    if world.weather().cut {
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
        world.heard(vm, process, goodbye, boot);
        return Some(None);
    }
    let answer = send(router, key, report.to_string()).await;
    if answer.status() != StatusCode::OK {
        return None;
    }
    world.heard(vm, process, goodbye, boot);
    let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.ok()?;
    let answer: Value = serde_json::from_slice(&body).ok()?;
    Some(answer["nextReportSeconds"].as_u64().map(Duration::from_secs))
}
