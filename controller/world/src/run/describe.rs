//! What happens, in words.

use crate::plan::{Body, Event, Key, Sender, Speech};
use crate::world::World;

/// What happens, in words.
pub(super) fn describe(world: &World, event: &Event) -> (Option<usize>, String) {
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
        Event::Qemu(vm, power) => (Some(*vm), format!("QEMU's state is {}", power.word())),
        Event::FileLock(vm, yes) => (
            Some(*vm),
            on(yes, "another task holds the lock on its file", "its file is not locked any more"),
        ),
        Event::GuestAgent(vm, yes) => (
            Some(*vm),
            on(yes, "its QEMU guest agent is started", "its QEMU guest agent is stopped"),
        ),
        Event::Vanish(vm) => (Some(*vm), "it is destroyed in Proxmox".into()),
        Event::Unseen(vm, yes) => (
            Some(*vm),
            on(yes, "the token may not see it any more", "the token may see it again"),
        ),
        Event::HidesUuid(vm, yes) => (
            Some(*vm),
            on(
                yes,
                "its SMBIOS UUID is taken out of its options",
                "its SMBIOS UUID is in its options again",
            ),
        ),
        Event::CutOff(vm, yes) => (
            Some(*vm),
            on(yes, "none of its reports gets through", "its reports get through again"),
        ),
        Event::Speaks(vm, speech) => (Some(*vm), speaks(&world.speech(*vm), speech)),
        Event::Report(vm) => (Some(*vm), "its agent reports just now".into()),
        Event::Maintenance(node, yes) => (None, format!("node {node} is {}", on(yes, "in maintenance", "out of maintenance"))),
        Event::Quorum(yes) => (
            None,
            on(yes, "the Proxmox cluster has quorum again", "the Proxmox cluster loses quorum"),
        ),
        Event::ListedOffline(node, yes) => (
            None,
            format!("node {node} is listed as {}", on(yes, "offline, though it answers", "online again")),
        ),
        Event::RunsIn(Some(vm)) => (Some(*vm), "Defib will run in this VM".into()),
        Event::RunsIn(None) => (None, "Defib will run in no VM of this cluster".into()),
        Event::Declare(object) | Event::MakeReset(object) => (world.index_of(object), object.told.clone()),
        Event::Remove(resource, name) => (None, format!("{resource} {name} is deleted")),
        Event::Deaf(yes) => (
            None,
            on(yes, "Defib cannot reach its own listener", "Defib reaches its own listener again"),
        ),
        Event::Shed => (None, "the receiver turns a report away: too many requests".into()),
        Event::LeaseTaken(yes) => (None, on(yes, "somebody else takes the Lease", "the Lease is given back")),
        Event::StandStill(long) => (
            None,
            format!("the machine that Defib runs on stands still for {} s", long.as_secs()),
        ),
        Event::CrashAtPost(controller, before) => (
            None,
            format!("controller {controller} will die {} its next POST", on(before, "before", "after")),
        ),
    }
}

/// What is new in what an agent says.
fn speaks(before: &Speech, now: &Speech) -> String {
    let mut said = Vec::new();
    let mut say = |differs: bool, text: String| {
        if differs {
            said.push(text);
        }
    };
    say(
        before.installed != now.installed,
        if now.installed { "is installed" } else { "is removed" }.into(),
    );
    say(
        before.key != now.key,
        match &now.key {
            Key::Right => "has the right key".into(),
            Key::Wrong => "has a wrong key".into(),
            Key::Generation(n) => format!("has the key of generation {n}"),
            Key::Of(other) => format!("has the key of {other}"),
        },
    );
    say(
        before.machine != now.machine,
        match now.machine {
            Sender::Own => "reports the UUID of its machine".into(),
            Sender::Other => "reports the UUID of another machine".into(),
            Sender::None => "reports no UUID".into(),
            Sender::Swapped => "reports the UUID of its machine in the other byte order".into(),
        },
    );
    say(
        before.supervised != now.supervised,
        if now.supervised {
            "runs as a service"
        } else {
            "is started by hand"
        }
        .into(),
    );
    say(
        before.body != now.body,
        match now.body {
            Body::Whole => "sends reports that are well".into(),
            Body::Broken => "sends reports with a field that is wrong".into(),
        },
    );
    say(before.cpu != now.cpu, format!("reports CPU {} %", now.cpu));
    say(before.memory != now.memory, format!("reports memory {} %", now.memory));
    say(before.disk != now.disk, format!("reports disk {} %", now.disk));
    say(before.clock != now.clock, format!("has a clock that is wrong by {} s", now.clock));
    say(
        before.uptime != now.uptime,
        format!("reports an uptime that is wrong by {} s", now.uptime),
    );
    say(
        before.hostname != now.hostname,
        format!("calls itself {:?}", now.hostname.as_deref().unwrap_or("as ever")),
    );
    format!("its agent {}", said.join(", "))
}
