//! What must hold of a story.

use crate::Lived;
use crate::ear::Heard;
use crate::plan::{Specs, Story, applies};
use crate::settled::{differences, specs_are_back, state, without_resets};
use defib_api::{MaintenanceWindow, Mode, Pause};
use defib_core::policy::Effective;
use defib_core::window::{Windows, windows};
use defib_world::clock::{BEGINNING, Time};
use defib_world::evidence::{Evidence, Sent, condition, text};
use defib_world::oracle::judge;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Reconciles of one object in a minute, while nothing hangs and else. With the shortest time-out (4 s) a VM is looked at each 4 s, or each second while it is silent
/// behind a gate; and at each of the twelve changes that a minute may have. A loop without a pause has hundreds.
const RECONCILES: (u64, u64) = (30, 90);
/// Writes of one object's status in a minute that no heartbeat makes: one for each change, and the steps of a reset.
const WRITES: (u64, u64) = (15, 30);
/// A heartbeat that came at the end of a minute may be written in the next.
const LATE_BEATS: u64 = 1;
/// A look at what is declared may be this old when a POST leaves.
const OLD_LOOK: Duration = Duration::from_secs(40);
/// Oracles whose numbers are those of the first specs. Where nothing hangs no POST is sent, and they are judged too.
const BY_FIRST_SPECS: [&str; 4] = ["S1", "S2", "S3", "S4"];

/// The most that was seen, to choose bounds by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Most {
    pub reconciles: u64,
    pub writes: u64,
}

impl Most {
    /// The more of both.
    pub fn or(self, other: Self) -> Self {
        Self {
            reconciles: self.reconciles.max(other.reconciles),
            writes: self.writes.max(other.writes),
        }
    }
}

/// All that is wrong with what came of a story.
pub fn problems(story: &Story, lived: &Lived) -> (Vec<String>, Most) {
    let (e, start) = (&lived.evidence, lived.start);
    let mut found: Vec<String> = lived.panics.iter().map(|panic| format!("panic: {panic}")).collect();
    found.extend(lived.heard.logged.iter().map(|(at, text)| format!("{} {text}", time(start, *at))));
    let calm = story.hung.is_none();
    let by_oracles = judge(e)
        .into_iter()
        .filter(|v| calm || (!BY_FIRST_SPECS.contains(&v.oracle) && v.oracle != "S5"));
    found.extend(by_oracles.map(|violation| violation.to_string()));
    found.extend(resets(story, e));
    found.extend(end(story, e));
    let mut most = Most::default();
    let of = |bounds: (u64, u64)| if calm { bounds.0 } else { bounds.1 };
    found.extend(loops(&lived.heard, start, of(RECONCILES), &mut most));
    found.extend(writes(e, of(WRITES), &mut most));
    (found, most)
}

fn time(start: tokio::time::Instant, at: tokio::time::Instant) -> Time {
    Time(at.saturating_duration_since(start).as_millis() as u64)
}

/// The end is as it was before anything was changed.
fn end(story: &Story, e: &Evidence) -> Vec<String> {
    let mut found = specs_are_back(&story.first, e);
    let (mut before, mut after) = (state(e, story.settled), state(e, e.end));
    for (key, object) in &after {
        if !object["metadata"]["finalizers"].is_null() {
            found.push(format!("{key} has a finalizer: {}", object["metadata"]["finalizers"]));
        }
        if key.starts_with("vmresets/") && object["status"]["state"] != "Finished" {
            found.push(format!("{key} is {} at the end", object["status"]["state"]));
        }
    }
    if let Some((vm, _)) = story.hung {
        let name = &story.plan.vms[vm].name;
        without_resets(&mut before, name);
        without_resets(&mut after, name);
        if let Some(expected) = exhausted(story, e, vm) {
            // What a person must lift is said, rightly.
            let said = condition(e.object_at("managedvms", name, e.end).unwrap(), "ResetAllowed").map_or("", |c| text(c, "reason"));
            if said != expected {
                found.push(format!("{name}: its cap is reached, and ResetAllowed says {said}"));
            }
            for state in [&mut before, &mut after] {
                state.get_mut(&format!("kubectl get managedvms {name}")).unwrap()["REASON"] = Value::Null;
                let object = state.get_mut(&format!("managedvms/{name}")).unwrap();
                object["status"]["conditions"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|c| c["type"] != "ResetAllowed");
            }
        }
    }
    found.extend(differences(&before, &after));
    found
}

/// Whether so many resets lie in the window of the first specs that no more are allowed.
fn exhausted(story: &Story, e: &Evidence, vm: usize) -> Option<&'static str> {
    let name = &story.plan.vms[vm].name;
    let first = applies(&story.first, story.first[&("managedvms", name.clone())].as_ref().unwrap());
    let object = e.object_at("managedvms", name, e.end)?;
    let recent = object["status"]["recentResets"].as_array().map_or(0, Vec::len);
    (recent >= first.max_resets as usize).then_some("ResetsExhausted")
}

/// What is declared at moments from `from` to `to`, as it applies to a VM: at each change, as a decision may rest on any.
fn applied(e: &Evidence, vm: usize, from: Time, to: Time) -> Vec<(Effective, Value, Value)> {
    let mut moments: Vec<Time> = e.writes.iter().map(|w| w.at).filter(|at| *at > from && *at <= to).collect();
    moments.insert(0, from);
    let name = &e.plan.vms[vm].name;
    let at = |at: Time| {
        let own = e.object_at("managedvms", name, at)?["spec"].clone();
        let policy = own["policyRef"]["name"].as_str().unwrap_or("default").to_owned();
        let of_policy = e.object_at("healthpolicies", &policy, at).map(|o| o["spec"].clone());
        let specs = Specs::from([(("healthpolicies", policy), of_policy.clone())]);
        Some((applies(&specs, &own), own, of_policy.unwrap_or_default()))
    };
    moments.into_iter().filter_map(at).collect()
}

/// Whether a spec, of a VM or of a policy, holds resets back at a moment by a pause or a window.
fn holds(spec: &Value, at: Time) -> bool {
    let wall = BEGINNING + jiff::SignedDuration::from_millis(at.0 as i64);
    let pauses: Vec<Pause> = serde_json::from_value(spec["pauses"].clone()).unwrap_or_default();
    let declared: Vec<MaintenanceWindow> = serde_json::from_value(spec["maintenanceWindows"].clone()).unwrap_or_default();
    pauses.iter().any(|pause| pause.expires_at.is_none_or(|end| end > wall)) || !matches!(windows(&declared, wall), Windows::Closed { .. })
}

/// No VM is reset that is well, nor one that what is declared protects.
fn resets(story: &Story, e: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    let mut entered: BTreeMap<usize, Vec<Time>> = BTreeMap::new();
    for post in &e.follow_ups {
        if !e.posts.iter().any(|s| s.post.vmid == post.vmid) {
            found.push(format!(
                "{}: a {} that no reset was before, to {}",
                post.sent, post.action, post.vmid
            ));
        }
    }
    for s in e.posts.iter().filter(|s| s.counts()) {
        let (at, vm) = (s.post.sent, s.vm);
        let mut say = |text: String| found.push(format!("{at}: {} is reset, {text}", e.plan.vms[vm].name));
        let Some((_, hung)) = story.hung.filter(|(hung, from)| *hung == vm && *from <= at) else {
            say("which is well".into());
            continue;
        };
        let declared = applied(e, vm, s.entered.minus(OLD_LOOK), at);
        let last = e.heard_before(vm, at).map_or(Time::default(), |h| h.at);
        // What it was told last counts, as the agent knows nothing else.
        let told = e
            .object_at("managedvms", &e.plan.vms[vm].name, s.entered)
            .and_then(|o| o["status"]["heartbeat"]["reportSeconds"].as_u64());
        let least = declared.iter().map(|(d, ..)| d.timeout).min().unwrap_or_default();
        let least = least.max(Duration::from_secs(4 * told.unwrap_or(0)));
        if at.since(last) < least {
            say(format!("{:?} after a report, which is less than {least:?}", at.since(last)));
        }
        if last > hung
            && e.posts
                .iter()
                .all(|other| other.vm != vm || !other.counts() || other.post.sent >= last)
        {
            say("though it reports".into());
        }
        if declared.iter().all(|(d, ..)| d.mode == Mode::Observe) {
            say("and is only observed".into());
        }
        if declared.iter().all(|(_, own, policy)| holds(own, at) || holds(policy, at)) {
            say("in a pause or a window".into());
        }
        if declared.iter().all(|(d, ..)| d.problem.is_some()) {
            say("by a policy that is not valid".into());
        }
        let earlier = entered.entry(vm).or_default();
        earlier.push(s.entered);
        let within = |d: &Effective| {
            let from = s.entered.minus(d.window);
            earlier.iter().filter(|at| **at > from || from == Time::default()).count()
        };
        if declared
            .iter()
            .all(|(d, ..)| within(d) > d.max_resets as usize && d.forgive_before.is_none())
        {
            say("more often than it may".into());
        }
        let under_way = |other: &&Sent| other.counts() && other.post.sent <= at && other.over.is_none_or(|over| over > at);
        let mut vms: Vec<usize> = e.posts.iter().filter(under_way).map(|o| o.vm).collect();
        vms.sort_unstable();
        vms.dedup();
        let policy_of = |vm: usize| applied(e, vm, at, at).first().and_then(|(d, ..)| d.policy.clone());
        let of_policy = vms.iter().filter(|other| policy_of(**other) == policy_of(vm)).count();
        let most = declared.iter().map(|(d, ..)| d.max_in_flight).max().unwrap_or_default();
        if vms.len() > e.plan.max_in_flight as usize || of_policy > most as usize {
            say(format!(
                "while {} are under way, {of_policy} of its policy, which allows {most}",
                vms.len()
            ));
        }
    }
    found
}

/// No object is looked at all the time.
fn loops(heard: &Heard, start: tokio::time::Instant, bound: u64, most: &mut Most) -> Vec<String> {
    let mut counts: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for (at, object) in &heard.reconciles {
        *counts.entry((object.as_str(), time(start, *at).0 / 60_000)).or_default() += 1;
    }
    most.reconciles = counts.values().copied().max().unwrap_or_default();
    let many = counts.into_iter().filter(|(_, count)| *count > bound);
    many.map(|((object, minute), count)| format!("{object} is looked at {count} times in minute {minute}"))
        .collect()
}

/// No status is written all the time.
fn writes(e: &Evidence, bound: u64, most: &mut Most) -> Vec<String> {
    let minute = |at: Time| at.0 / 60_000;
    let mut counts: BTreeMap<(&str, &str, u64), u64> = BTreeMap::new();
    let mut beats: BTreeMap<(usize, u64), u64> = BTreeMap::new();
    for w in e.writes.iter().filter(|w| w.process.is_some()) {
        let is_beat = w.before.as_ref().zip(w.after.as_ref()).is_some_and(|(before, after)| {
            let of = |object: &Value| (object["status"]["heartbeat"].clone(), object["status"]["usage"].clone());
            of(before) != of(after)
        });
        match w.vm.filter(|_| is_beat) {
            Some(vm) => *beats.entry((vm, minute(w.at))).or_default() += 1,
            None => *counts.entry((&w.resource, &w.name, minute(w.at))).or_default() += 1,
        }
    }
    most.writes = counts.values().copied().max().unwrap_or_default();
    let many = counts.into_iter().filter(|(_, count)| *count > bound);
    let mut found: Vec<String> = many
        .map(|((resource, name, minute), count)| format!("{resource}/{name} is written {count} times in minute {minute}"))
        .collect();
    let mut heard: BTreeMap<(usize, u64), u64> = BTreeMap::new();
    for h in &e.log.heard {
        *heard.entry((h.vm, minute(h.at))).or_default() += 1;
    }
    for ((vm, minute), count) in beats {
        let reports = heard.get(&(vm, minute)).copied().unwrap_or_default();
        if count > reports + LATE_BEATS {
            found.push(format!(
                "{count} heartbeats of vm-{vm} are written in minute {minute}, in which {reports} came"
            ));
        }
    }
    found
}
