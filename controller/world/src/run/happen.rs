//! What happens.

use super::{Due, StandStill};
use crate::agents;
use crate::clock::Time;
use crate::declared::People;
use crate::plan::{Event, Speech};
use crate::proxmox::{Guest, Machine, Power};
use crate::weather::Weather;
use crate::world::World;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use uuid::Uuid;

/// For so long watches are told that the past is forgotten, so that all of them begin anew.
const FLUSH: Duration = Duration::from_millis(200);

fn newest(world: &World, controller: usize) -> Option<usize> {
    world
        .processes()
        .iter()
        .rposition(|p| p.controller == controller && p.ended.is_none())
}

/// It happens.
pub(super) async fn happen(world: &Arc<World>, event: Event, due: &mut BTreeMap<Time, Vec<Due>>, stand_still: Option<StandStill>) {
    let now = world.clock.now();
    let people = People::of(world);
    let (vm, text) = super::describe::describe(world, &event);
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
        Event::Qemu(vm, power) => machine(vm, &|m| m.power = power),
        Event::FileLock(vm, on) => machine(vm, &|m| m.file_locked = on),
        Event::GuestAgent(vm, on) => machine(vm, &|m| m.guest_agent_runs = on),
        Event::Vanish(vm) => {
            world.pve().machines.remove(&world.plan.vms[vm].vmid);
        }
        Event::Unseen(vm, on) => machine(vm, &|m| m.unseen = on),
        Event::HidesUuid(vm, on) => machine(vm, &|m| m.shows_uuid = !on),
        Event::CutOff(vm, on) => world.change_speech(vm, |s| s.gets_through = !on),
        Event::Speaks(vm, speech) => world.change_speech(vm, |s| {
            *s = Speech {
                gets_through: s.gets_through,
                ..speech
            };
        }),
        Event::Report(vm) => agents::once(world, vm).await,
        Event::Maintenance(node, on) => {
            let mut cluster = world.pve();
            if on {
                cluster.in_maintenance.insert(node.into());
            } else {
                cluster.in_maintenance.remove(node);
            }
        }
        Event::Quorum(on) => world.pve().quorate = on,
        Event::ListedOffline(node, on) => {
            let mut cluster = world.pve();
            if on {
                cluster.listed_offline.insert(node.into());
            } else {
                cluster.listed_offline.remove(node);
            }
        }
        Event::RunsIn(vm) => world.runs_in(vm),
        Event::Declare(object) => people.declare_object(&object).await,
        Event::Remove(resource, name) => people.remove(resource, &name).await,
        Event::MakeReset(object) => people.make(&object).await,
        Event::Deaf(on) => world.change_weather(|w| w.deaf = on),
        Event::Shed => {
            if let Some(process) = newest(world, 0) {
                world.processes()[process].ctx.witness.shed("too many requests");
            }
        }
        Event::LeaseTaken(on) => people.take_lease(on).await,
        Event::StandStill(long) => {
            if let Some(stand_still) = stand_still {
                stand_still(long).await;
            }
        }
        Event::CrashAtPost(controller, before) => world.change_weather(|w| w.crash_at_post = Some((controller, before))),
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
