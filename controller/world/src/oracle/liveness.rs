//! L1 to L6: that it gets done.

use super::Found;
use crate::clock::Time;
use crate::evidence::{Evidence, condition, text};
use crate::plan::Theme;
use crate::proxmox::{Effect, Guest, Power};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Looks at a VM in a minute. In trouble each failure is followed by another look, later and later; a conflict within a quarter of a second.
const LOOKS: u64 = 150;
/// And when nothing is wrong.
const CALM_LOOKS: u64 = 40;
/// From the end of a time-out to the POST: Proxmox's list is up to 10 s old and read every 5 s, the guest agent takes 3 s, and it is looked again every few seconds.
const SLACK: Duration = Duration::from_secs(45);
/// From the end of a stop until the VM runs again: its task is seen within seconds, and after a start that failed another one is due within five minutes.
const STARTED: Duration = Duration::from_secs(60);

/// Whether a machine reports, as far as it is known itself.
fn lives(e: &Evidence, vm: usize) -> bool {
    let Some(machine) = e.machines.get(&e.plan.vms[vm].vmid) else {
        return false;
    };
    let heard = e.heard_before(vm, e.end).filter(|h| !h.goodbye);
    machine.power == Power::Running && machine.guest == Guest::Works && heard.is_some_and(|h| e.end.since(h.at) < e.timeout(vm) / 2)
}

/// L1.
pub fn settles(e: &Evidence) -> Found {
    let mut found = Found::new();
    for (vm, plan) in e.plan.vms.iter().enumerate() {
        let mut say = |text: String| found.push((e.end, Some(vm), text));
        let Some(object) = e.object_at("managedvms", &plan.name, e.end) else {
            say("its ManagedVM is gone".into());
            continue;
        };
        let status = &object["status"];
        // What is under way is judged by L4.
        if status["currentReset"].is_object() {
            continue;
        }
        let Some(machine) = e.machines.get(&plan.vmid) else { continue };
        let fresh = condition(object, "HeartbeatFresh");
        let is_fresh = fresh.is_some_and(|c| text(c, "status") == "True");
        let silent = e
            .heard_before(vm, e.end)
            .is_none_or(|h| e.end.since(h.at) > e.timeout(vm) + Duration::from_secs(30));
        // Two installations both write it, each as it hears, and only one of them is reported to.
        if lives(e, vm) && !is_fresh && e.plan.theme != Theme::Rivals {
            say(format!(
                "it reports, and HeartbeatFresh says {}",
                fresh.map_or("nothing", |c| text(c, "reason"))
            ));
        }
        // For clocks see S4.
        if silent && is_fresh && !e.clocks_were_wrong(e.end) {
            say("it is silent, and HeartbeatFresh is True".into());
        }
        // After the end of a reset the next look may take some seconds: a guest agent that hangs is asked.
        let just_ended = e.journals[vm]
            .last()
            .is_some_and(|entry| e.end.since(entry.at) < Duration::from_secs(10));
        if !just_ended && condition(object, "Resetting").is_none_or(|c| text(c, "status") == "True") {
            say("no reset is under way, and Resetting does not say so".into());
        }
        if status["observedGeneration"] != object["metadata"]["generation"] {
            say("observedGeneration is old".into());
        }
        if text(status, "node") != machine.node || text(status, "power") != machine.power.word() {
            say(format!(
                "it is {} on {}, the status says {} on {}",
                machine.power.word(),
                machine.node,
                text(status, "power"),
                text(status, "node")
            ));
        }
    }
    found
}

/// L2.
pub fn no_hot_loop(e: &Evidence) -> Found {
    let mut found = Found::new();
    let mut last: BTreeMap<usize, u64> = BTreeMap::new();
    for (at, process, looks) in &e.log.looks {
        let before = last.insert(*process, *looks).unwrap_or_default();
        let calm = at.minus(Duration::from_secs(180)) > e.plan.calm;
        // Two installations wake each other with what they write.
        let writers = if e.plan.theme == Theme::Rivals { 2 } else { 1 };
        let most = if calm { CALM_LOOKS } else { LOOKS } * e.plan.vms.len() as u64 * writers;
        if looks - before > most {
            found.push((
                *at,
                None,
                format!("{} looks at {} VMs in a minute", looks - before, e.plan.vms.len()),
            ));
        }
    }
    found
}

/// L3. The probe is reset if all was well with it, and nothing else is wrong.
pub fn resets(e: &Evidence) -> Found {
    let mut found = Found::new();
    let probe_at = e.plan.probe;
    if e.end < probe_at.plus(e.timeout(0) + SLACK + Duration::from_secs(60)) {
        return found;
    }
    let object = |vm: usize| e.object_at("managedvms", &e.plan.vms[vm].name, probe_at);
    let others_live = (1..e.plan.vms.len()).all(|vm| {
        let quiet = object(vm).is_some_and(|o| o["status"]["episode"].is_null() && o["status"]["currentReset"].is_null());
        quiet && lives(e, vm)
    });
    let Some(probe) = object(0) else { return found };
    let well = condition(probe, "Ready").is_some_and(|c| text(c, "status") == "True") && probe["status"]["episode"].is_null();
    let resets = probe["status"]["recentResets"].as_array().map_or(0, Vec::len);
    let capped = resets >= e.policy(0).max_resets as usize;
    if !others_live || !well || capped || e.heard_before(0, probe_at).is_none_or(|h| probe_at.since(h.at) > e.timeout(0) / 2) {
        return found;
    }
    let most = e.timeout(0) + SLACK;
    let sent = e.posts.iter().find(|s| s.vm == 0 && s.post.sent > probe_at);
    match sent {
        None => found.push((e.end, Some(0), format!("it hung at {probe_at} and was not reset"))),
        Some(s) if s.post.sent.since(probe_at) > most => {
            found.push((
                s.post.sent,
                Some(0),
                format!("it hung at {probe_at} and was reset after {:?}", s.post.sent.since(probe_at)),
            ));
        }
        Some(_) if !lives(e, 0) => found.push((e.end, Some(0), "it was reset and did not come back".into())),
        Some(_) => {}
    }
    found
}

/// L4.
pub fn nothing_stuck(e: &Evidence) -> Found {
    let mut found = Found::new();
    for (vm, journal) in e.journals.iter().enumerate() {
        let Some(current) = journal.last().and_then(|entry| entry.current.as_ref()) else {
            continue;
        };
        let name = text(current, "name");
        let entered = journal
            .iter()
            .rev()
            .take_while(|entry| entry.current.as_ref().is_some_and(|c| text(c, "name") == name))
            .last();
        if let Some(entry) = entered.filter(|entry| entry.at < e.plan.calm) {
            found.push((e.end, Some(vm), format!("reset {name} is under way since {}", entry.at)));
        }
    }
    let mut resets: BTreeMap<&str, (Time, Option<&Value>)> = BTreeMap::new();
    for w in e.writes.iter().filter(|w| w.resource == "vmresets") {
        let after = w.after.as_deref();
        resets.entry(&w.name).and_modify(|known| known.1 = after).or_insert((w.at, after));
    }
    for (name, (made, object)) in resets {
        let Some(object) = object else { continue };
        let running = e.journals.iter().any(|j| {
            j.last()
                .is_some_and(|entry| entry.current.as_ref().is_some_and(|c| text(c, "name") == name))
        });
        if text(&object["status"], "state") != "Finished" && !running && e.end.since(made) > Duration::from_secs(120) {
            let state = text(&object["status"], "state");
            found.push((
                e.end,
                None,
                format!("VMReset {name}, made at {made}, is {state:?} and nobody carries it on"),
            ));
        }
    }
    found
}

/// L5. Who stopped it last tells the time since when it is off.
pub fn started_again(e: &Evidence) -> Found {
    let stops = e.posts.iter().filter(|s| s.post.effect == Effect::Stopped);
    let off = stops.filter(|s| {
        let machine = &e.machines[&s.post.vmid];
        let by_this = machine.power == Power::Stopped && machine.power_since >= s.post.sent && machine.power_since <= s.done();
        by_this && e.end.since(s.done()) > STARTED
    });
    off.map(|s| {
        (
            e.end,
            Some(s.vm),
            format!("reset {} stopped it at {}, and it is still off", s.name(), s.post.sent),
        )
    })
    .collect()
}

/// From a stop until the VM is started: it must be off for a minute, a list of Proxmox is up to 20 s old, and another start may have been sent a minute ago.
const TO_RUN: Duration = Duration::from_secs(200);

/// L6.
pub fn runs(e: &Evidence) -> Found {
    let mut found = Found::new();
    for (vm, plan) in e.plan.vms.iter().enumerate().filter(|(_, vm)| vm.is_to_run) {
        let machine = &e.machines[&plan.vmid];
        let since = machine.power_since.max(e.plan.calm);
        let Some(object) = e.object_at("managedvms", &plan.name, e.end) else {
            continue;
        };
        let starts = object["status"]["recentStarts"].as_array().map_or(0, Vec::len);
        // The cap is as large as that of the resets; what else holds it is over with the trouble.
        let held = starts >= e.policy(vm).max_resets as usize || machine.ha.is_some() || machine.lock.is_some();
        if machine.power == Power::Stopped && !held && e.end.since(since) > TO_RUN {
            found.push((e.end, Some(vm), format!("it is to run, and off since {}", machine.power_since)));
        }
    }
    found
}
