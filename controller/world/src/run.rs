//! Runs a world from its beginning to its end.

use crate::agents;
use crate::clock::Time;
use crate::declared::People;
use crate::plan::{Event, Plan};
use crate::process::Process;
use crate::proxmox::{Guest, Machine, Power};
use crate::sabotage::Sabotage;
use crate::weather::Weather;
use crate::world::World;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use uuid::Uuid;

/// For so long watches are told that the past is forgotten, so that all of them begin anew.
const FLUSH: Duration = Duration::from_millis(200);

/// Something that is due: planned, or what follows from it.
enum Due {
    Event(Event),
    Start(usize),
    Flushed,
    Count,
}

/// Lives through a plan. It must be called on a runtime of one thread whose time is paused.
pub async fn live(plan: Plan, sabotage: Option<Sabotage>) -> Arc<World> {
    // From here on the present is a tick of tokio's timers, which a runtime that has just been made is a few microseconds past.
    tokio::time::sleep(Duration::from_millis(1)).await;
    defib::jitter::seed(plan.seed);
    // The back-off of watches draws from it.
    fastrand::seed(plan.seed);
    let world = World::new(plan, sabotage);
    People::of(&world).declare().await;
    for controller in 0..world.plan.controllers() {
        Process::start(&world, controller);
    }
    let mut agents = JoinSet::new();
    for vm in 0..world.plan.vms.len() {
        agents.spawn(agents::run(world.clone(), vm));
    }
    let mut due: BTreeMap<Time, Vec<Due>> = BTreeMap::new();
    for (at, event) in &world.plan.events {
        due.entry(*at).or_default().push(Due::Event(event.clone()));
    }
    let end = world.plan.end;
    for minute in 1..=end.0 / 60_000 {
        due.entry(Time(minute * 60_000)).or_default().push(Due::Count);
    }
    due.entry(end).or_default();
    while let Some(at) = due.keys().next().copied().filter(|at| *at <= end) {
        tokio::select! {
            biased;
            () = world.died.notified() => revive(&world, &mut due),
            () = sleep_until(world.clock.instant(at)) => {
                for one in due.remove(&at).unwrap_or_default() {
                    match one {
                        Due::Event(event) => happen(&world, event, &mut due).await,
                        Due::Start(controller) => Process::start(&world, controller),
                        Due::Count => {
                            let looks: Vec<_> = world.processes().iter().enumerate().map(|(n, p)| (at, n, p.looks())).collect();
                            world.log().looks.extend(looks);
                        }
                        Due::Flushed => world.change_weather(|w| *w = Weather::default()),
                    }
                }
            }
        }
    }
    drop(agents);
    world
}

/// Ends what still runs, so that nothing of it is left behind.
pub fn end(world: &World) {
    let now = world.clock.now();
    world.api.set_faults(Arc::new(crate::api_server::NoFaults));
    for process in world.processes().iter_mut() {
        process.kill(now);
    }
    world.processes().clear();
}

/// Whoever died is started anew after a while.
fn revive(world: &Arc<World>, due: &mut BTreeMap<Time, Vec<Due>>) {
    for controller in 0..world.plan.controllers() {
        let dead = {
            let processes = world.processes();
            let newest = processes.iter().enumerate().rfind(|(_, p)| p.controller == controller);
            newest
                .filter(|(_, p)| p.ended.is_some())
                .map(|(index, p)| (index, p.ended.unwrap_or_default()))
        };
        let planned = due.values().flatten().any(|d| matches!(d, Due::Start(c) if *c == controller));
        if let Some((index, ended)) = dead
            && !planned
        {
            let at = ended.plus(world.stays_away(index)).max(world.clock.now());
            due.entry(at).or_default().push(Due::Start(controller));
        }
    }
}

fn newest(world: &World, controller: usize) -> Option<usize> {
    world
        .processes()
        .iter()
        .rposition(|p| p.controller == controller && p.ended.is_none())
}

async fn happen(world: &Arc<World>, event: Event, due: &mut BTreeMap<Time, Vec<Due>>) {
    let now = world.clock.now();
    let people = People::of(world);
    let (vm, text) = describe(world, &event);
    world.tell(vm, text);
    let machine = |vm: usize, change: &dyn Fn(&mut Machine)| {
        if let Some(machine) = world.pve().machines.get_mut(&world.plan.vms[vm].vmid) {
            machine.settle(now);
            machine.change(now, change);
        }
    };
    let runs = |m: &Machine| m.power == Power::Running;
    match event {
        Event::Hang(vm, stubborn) => machine(vm, &|m| {
            if runs(m) {
                (m.guest, m.stubborn) = (Guest::Hung, stubborn);
            }
        }),
        Event::Mute(vm) => machine(vm, &|m| {
            if m.guest == Guest::Works {
                m.guest = Guest::Mute;
            }
        }),
        Event::Unmute(vm) => {
            machine(vm, &|m| {
                if m.guest == Guest::Mute {
                    m.guest = Guest::Works;
                }
            });
            world.agents()[vm] = Default::default();
        }
        Event::Thrash(vm) => machine(vm, &|m| {
            if m.guest == Guest::Works {
                m.guest = Guest::Thrashes;
            }
        }),
        Event::Goodbye(vm) => world.agents()[vm].leaves = true,
        Event::GuestReboot(vm) => {
            if let Some(machine) = world.pve().machines.get_mut(&world.plan.vms[vm].vmid).filter(|m| runs(m)) {
                machine.stubborn = 0;
                machine.boot(now);
            }
        }
        Event::PowerOff(vm) => machine(vm, &|m| m.power = Power::Stopped),
        Event::PowerOn(vm) => {
            if let Some(machine) = world.pve().machines.get_mut(&world.plan.vms[vm].vmid).filter(|m| !runs(m)) {
                machine.started = now;
                machine.boot(now);
            }
        }
        Event::Freeze(vm, on) => machine(vm, &|m| match (on, m.power) {
            (true, Power::Running) => m.power = Power::Paused,
            (false, Power::Paused | Power::Prelaunch) => m.power = Power::Running,
            _ => {}
        }),
        Event::Lock(vm, lock) => machine(vm, &|m| m.lock = lock),
        Event::Ha(vm, state) => machine(vm, &|m| m.ha = state),
        Event::Monitor(vm, hangs) => machine(vm, &|m| m.monitor_hangs = hangs),
        Event::Reboot(vm, on) => machine(vm, &|m| m.reboot = on),
        Event::Move(vm) => machine(vm, &|m| m.node = if m.node == "pve1" { "pve2" } else { "pve1" }.into()),
        Event::Reuse(vm) => machine(vm, &|m| {
            m.uuid = Uuid::from_u128(0xffff_0000_0000_4000_8000_0000_0001_0000);
            m.guest = Guest::Mute;
        }),
        Event::Node(node, up) => {
            let mut cluster = world.pve();
            cluster.nodes.insert(node.into(), up);
            if up {
                // Its machines lost power with it.
                for machine in cluster.machines.values_mut().filter(|m| m.node == node && runs(m)) {
                    machine.started = now;
                    machine.boot(now);
                }
            }
        }
        Event::Cut(on) => world.change_weather(|w| w.cut = on),
        Event::PauseVm(vm, on) => people.pause_vm(vm, on).await,
        Event::PausePolicy(policy, on) => people.pause_policy(policy, on).await,
        Event::PauseCluster(on) => people.pause_cluster(on).await,
        Event::Observe(policy, on) => people.observe(policy, on).await,
        Event::Request(vm, action) => people.request(vm, action).await,
        Event::Delete(vm, gone) => people.delete(vm, gone).await,
        Event::Proxmox(trouble) => world.pve().trouble = trouble,
        Event::Api(trouble) => world.change_weather(|w| w.api = trouble),
        Event::Watch(trouble) => world.change_weather(|w| w.watch = trouble),
        Event::Compact => world.api.compact(),
        Event::Crash(controller) => {
            if let Some(process) = newest(world, controller) {
                world.die(process, "for no reason");
            }
        }
        Event::CrashAt(controller, writes, before) => world.change_weather(|w| w.crash = Some((controller, writes, before))),
        Event::Restart(controller) => {
            if let Some(process) = newest(world, controller) {
                world.processes()[process].stop(now);
                let at = now.plus(world.stays_away(process));
                due.entry(at).or_default().push(Due::Start(controller));
            }
        }
        Event::Skew(controller, wrong) => {
            if let Some(process) = newest(world, controller) {
                world.processes()[process].skew.store(wrong, Ordering::Relaxed);
            }
        }
        Event::Calm => calm(world, &people, due).await,
    }
}

/// All trouble is over, and nothing is declared against resets.
async fn calm(world: &Arc<World>, people: &People<'_>, due: &mut BTreeMap<Time, Vec<Due>>) {
    let now = world.clock.now();
    {
        let mut cluster = world.pve();
        cluster.trouble = None;
        for machine in cluster.machines.values_mut() {
            (machine.lock, machine.ha, machine.reboot, machine.monitor_hangs) = (None, None, true, false);
        }
    }
    for vm in 0..world.plan.vms.len() {
        people.pause_vm(vm, false).await;
    }
    for policy in 0..world.plan.policies.len() {
        people.pause_policy(policy, false).await;
        people.observe(policy, false).await;
    }
    people.pause_cluster(false).await;
    // What watches have missed, they miss no longer.
    world.api.compact();
    world.change_weather(|w| {
        *w = Weather {
            flush: true,
            ..Weather::default()
        };
    });
    due.entry(now.plus(FLUSH)).or_default().push(Due::Flushed);
}

/// What happens, in words.
fn describe(world: &World, event: &Event) -> (Option<usize>, String) {
    let on = |on: &bool, yes: &str, no: &str| if *on { yes.to_owned() } else { no.to_owned() };
    let some = |what: &Option<&str>, name: &str| what.map_or_else(|| format!("no {name} any more"), |what| format!("{name} {what}"));
    match event {
        Event::Hang(vm, 0) => (Some(*vm), "the guest hangs".into()),
        Event::Hang(vm, n) => (Some(*vm), format!("the guest hangs, and will after {n} resets")),
        Event::Mute(vm) => (Some(*vm), "Defib's agent in it dies; the guest works".into()),
        Event::Unmute(vm) => (Some(*vm), "its agent is started".into()),
        Event::Thrash(vm) => (Some(*vm), "the guest swaps, and nothing in it answers".into()),
        Event::Goodbye(vm) => (Some(*vm), "its agent is stopped in good order".into()),
        Event::GuestReboot(vm) => (Some(*vm), "the guest reboots by itself".into()),
        Event::PowerOff(vm) => (Some(*vm), "somebody stops it in Proxmox".into()),
        Event::PowerOn(vm) => (Some(*vm), "somebody starts it in Proxmox".into()),
        Event::Freeze(vm, yes) => (
            Some(*vm),
            on(yes, "somebody pauses it in Proxmox", "somebody resumes it in Proxmox"),
        ),
        Event::Lock(vm, lock) => (Some(*vm), some(lock, "lock")),
        Event::Ha(vm, state) => (Some(*vm), some(state, "HA state")),
        Event::Monitor(vm, yes) => (Some(*vm), on(yes, "QEMU's monitor hangs", "QEMU's monitor answers again")),
        Event::Reboot(vm, yes) => (Some(*vm), on(yes, "reboot: 0 is taken back", "reboot: 0 is set")),
        Event::Move(vm) => (Some(*vm), "it moves to the other node".into()),
        Event::Reuse(vm) => (Some(*vm), "another machine has its VMID".into()),
        Event::Node(node, up) => (None, format!("node {node} is {}", on(up, "up", "down"))),
        Event::Cut(yes) => (None, on(yes, "no report gets through", "reports get through again")),
        Event::PauseVm(vm, yes) => (Some(*vm), on(yes, "somebody pauses the ManagedVM", "its pause is taken back")),
        Event::PausePolicy(n, yes) => (
            None,
            format!(
                "policy {} {}",
                world.plan.policies[*n].name,
                on(yes, "is paused", "is not paused any more")
            ),
        ),
        Event::PauseCluster(yes) => (
            None,
            on(yes, "the ProxmoxCluster is paused", "the ProxmoxCluster is not paused any more"),
        ),
        Event::Observe(n, yes) => (
            None,
            format!(
                "policy {} is set to {}",
                world.plan.policies[*n].name,
                on(yes, "Observe", "Enforce")
            ),
        ),
        Event::Request(vm, action) => (Some(*vm), format!("somebody asks for {action:?}")),
        Event::Delete(vm, yes) => (Some(*vm), on(yes, "its ManagedVM is deleted", "its ManagedVM is made again")),
        Event::Proxmox(trouble) => (None, format!("Proxmox: {}", trouble.map_or("well".into(), |t| format!("{t:?}")))),
        Event::Api(trouble) => (None, format!("API server: {}", trouble.map_or("well".into(), |t| format!("{t:?}")))),
        Event::Watch(trouble) => (None, format!("watches: {}", trouble.map_or("well".into(), |t| format!("{t:?}")))),
        Event::Compact => (None, "the API server forgets the past".into()),
        Event::Crash(controller) => (None, format!("controller {controller} dies")),
        Event::CrashAt(controller, writes, before) => (
            None,
            format!(
                "controller {controller} will die {} a write, {writes} writes from now",
                on(before, "before", "after")
            ),
        ),
        Event::Restart(controller) => (None, format!("controller {controller} is asked to end")),
        Event::Skew(controller, wrong) => (None, format!("the clock of controller {controller} is wrong by {wrong} ms")),
        Event::Calm => (None, "all trouble is over".into()),
    }
}
