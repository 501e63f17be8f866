//! S1 to S5 and S12: when no reset may be sent.

use super::Found;
use crate::clock::Time;
use crate::evidence::{Evidence, Sent, text};
use crate::proxmox::Power;
use crate::record::Heard;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A look at Proxmox and at what is declared may be this old when a POST leaves: two reads of 15 s at the most, and the 10 s that an intent lives.
const OLD_LOOK: Duration = Duration::from_secs(40);

fn automatic(e: &Evidence) -> impl Iterator<Item = &Sent> {
    e.posts.iter().filter(|s| s.is_automatic())
}

/// S1.
pub fn witnessed_silence(e: &Evidence) -> Found {
    let mut found = Found::new();
    for s in automatic(e) {
        let (at, timeout) = (s.post.sent, e.timeout(s.vm));
        if is_over_a_threshold(e, s) {
            continue;
        }
        if let Some(heard) = e.heard_before(s.vm, at)
            && at.since(heard.at) < timeout
        {
            found.push((
                at,
                Some(s.vm),
                format!("reset {:?} after a report, with a time-out of {timeout:?}", at.since(heard.at)),
            ));
        }
        let listened = at.since(e.processes[s.post.process].started);
        if listened < timeout {
            found.push((at, Some(s.vm), format!("reset by a process that is {listened:?} old")));
        }
    }
    found
}

/// Whether every report over the duration of a threshold that resets was over it: then the VM need not be silent.
fn is_over_a_threshold(e: &Evidence, s: &Sent) -> bool {
    let policy = e.policy(s.vm);
    let exceeded = |threshold: &Value| {
        let percent = threshold["percent"].as_u64().unwrap_or(u64::MAX);
        let duration = Duration::from_secs(threshold["durationSeconds"].as_u64().unwrap_or(u64::MAX >> 10));
        let long = |h: &&Heard| h.vm == s.vm && h.at < s.post.sent && h.at.plus(duration) >= s.post.sent;
        let over = |h: &Heard| u64::from(if threshold["metric"] == "CPU" { h.usage.0 } else { h.usage.1 }) > percent;
        let mut heard = e.log.heard.iter().filter(long).peekable();
        text(threshold, "action") == "Reset" && heard.peek().is_some() && heard.all(over)
    };
    let thresholds = |spec: &Value| spec["thresholds"].as_array().is_some_and(|all| all.iter().any(exceeded));
    thresholds(&policy.spec) || thresholds(&e.plan.vms[s.vm].spec)
}

/// S2.
pub fn cool_down(e: &Evidence) -> Found {
    let mut found = Found::new();
    for (index, first) in e.posts.iter().enumerate().filter(|(_, s)| s.counts()) {
        let next = e.posts[index + 1..].iter().find(|s| s.vm == first.vm && s.counts());
        let policy = e.policy(first.vm);
        let least = Duration::from_secs(u64::from(policy.recovery.min(policy.timeout)));
        if let Some(next) = next.filter(|s| s.is_automatic())
            && next.post.sent.since(first.done()) < least
        {
            let gap = next.post.sent.since(first.done());
            found.push((
                next.post.sent,
                Some(first.vm),
                format!("reset again {gap:?} after the last one, sent at {}", first.post.sent),
            ));
        }
    }
    found
}

/// S3.
pub fn attempts(e: &Evidence) -> Found {
    let mut found = Found::new();
    for vm in 0..e.plan.vms.len() {
        let policy = e.policy(vm);
        let mut episodes: BTreeMap<&str, u32> = BTreeMap::new();
        let mut entered: BTreeMap<&str, Vec<Time>> = BTreeMap::new();
        for s in automatic(e).filter(|s| s.vm == vm && s.counts()) {
            let episode = s.name().rsplit_once('-').map_or("", |(episode, _)| episode);
            let count = episodes.entry(episode).or_default();
            *count += 1;
            if *count > policy.all_attempts() {
                found.push((
                    s.post.sent,
                    Some(vm),
                    format!("attempt {count} of {} in one episode", policy.all_attempts()),
                ));
            }
            let of_this = entered.entry(&s.uid).or_default();
            of_this.push(s.entered);
            if let Some(from) = forgiven_before(e, s) {
                of_this.retain(|at| *at >= from);
            }
            let window = Duration::from_secs(u64::from(policy.window));
            let earlier = of_this.len().checked_sub(policy.max_resets as usize + 1).map(|n| of_this[n]);
            // Times are written by clocks that may be wrong; those are judged by another rule.
            if let Some(earlier) = earlier.filter(|_| !e.clocks_were_wrong(s.post.sent))
                && s.entered.since(earlier) < window
            {
                found.push((
                    s.post.sent,
                    Some(vm),
                    format!(
                        "{} resets within {:?}, {} allowed",
                        policy.max_resets + 1,
                        s.entered.since(earlier),
                        policy.max_resets
                    ),
                ));
            }
        }
    }
    found
}

/// What a person has forgiven by the time of a reset.
fn forgiven_before(e: &Evidence, s: &Sent) -> Option<Time> {
    let at = |object: &Value| crate::clock::WorldClock::world_time(text(&object["spec"]["resetPolicy"], "forgiveBefore"));
    let vm = e.object_at("managedvms", &e.plan.vms[s.vm].name, s.entered);
    let policy = e.object_at("healthpolicies", &e.policy(s.vm).name, s.entered);
    let times = [vm, policy].into_iter().flatten().filter_map(|o| at(o));
    times.filter(|t| *t <= s.entered).max()
}

/// S4.
pub fn budgets(e: &Evidence) -> Found {
    let mut found = Found::new();
    for s in automatic(e).filter(|s| s.counts()) {
        let at = s.post.sent;
        let policy = e.policy(s.vm);
        let under_way = |other: &&Sent| {
            let stands = other.counts() && other.post.sent <= at && other.over.is_none_or(|over| at < over);
            // A person's request does not ask for room, and may come at the same moment.
            stands && (other.is_automatic() || at.since(other.entered) > Duration::from_secs(15))
        };
        let mut vms: Vec<usize> = e.posts.iter().filter(under_way).map(|o| o.vm).collect();
        vms.sort_unstable();
        vms.dedup();
        let same = vms.iter().filter(|vm| e.plan.vms[**vm].policy == e.plan.vms[s.vm].policy).count();
        let (most, most_of_policy) = (e.plan.max_in_flight as usize, policy.max_in_flight as usize);
        if vms.len() > most || same > most_of_policy {
            found.push((
                at,
                Some(s.vm),
                format!(
                    "{} resets under way, at most {most}; {same} of its policy, at most {most_of_policy}",
                    vms.len()
                ),
            ));
        }
        let decided = s.entered.minus(Duration::from_secs(1));
        let mut silent: Vec<usize> = (0..e.plan.vms.len()).filter(|vm| silent(e, *vm, decided, at)).collect();
        // Of several ManagedVMs of one machine, one counts.
        silent.sort_by_key(|vm| (e.plan.vms[*vm].vmid, *vm != s.vm));
        silent.dedup_by_key(|vm| e.plan.vms[*vm].vmid);
        let of_policy = |vm: &&usize| e.plan.vms[**vm].policy == e.plan.vms[s.vm].policy;
        let population = e.plan.vms.iter().filter(|vm| vm.policy == e.plan.vms[s.vm].policy).count();
        let allowed = |population: usize, percent: u32| (population * percent as usize).div_ceil(100).max(1);
        let (in_policy, in_all) = (silent.iter().filter(of_policy).count(), silent.len());
        let most_of_policy = policy
            .most_unhealthy
            .map_or_else(|| allowed(population, policy.max_unhealthy), |count| count as usize);
        let all = u32::try_from(e.plan.vms.len()).unwrap_or(u32::MAX);
        let most = e.plan.start.max_unhealthy.of(all).unwrap_or(1) as usize;
        // A known weakness: after a clock was set back, times that were published lie ahead, and a silent VM counts as heard of until they are past.
        let known = e.clocks_were_wrong(decided);
        if !known && (in_policy > most_of_policy || in_all > most) {
            found.push((
                at,
                Some(s.vm),
                format!("{in_all} VMs silent, at most {most}; {in_policy} of its policy, at most {most_of_policy}"),
            ));
        }
    }
    found
}

/// Whether a machine was silent for certain at a moment and stayed so until another, and counts as such.
fn silent(e: &Evidence, vm: usize, at: Time, until: Time) -> bool {
    let Some(heard) = e.heard_before(vm, until).filter(|h| !h.goodbye) else {
        return false;
    };
    let name = &e.plan.vms[vm].name;
    let age = at.since(heard.at);
    let long = Duration::from_secs(u64::from(e.policy(vm).window));
    if age <= e.timeout(vm) || age >= long || is_held(e, vm, at, at) {
        return false;
    }
    e.object_at("managedvms", name, at)
        .is_some_and(|o| text(&o["status"], "power") != "stopped" && o["status"]["heartbeat"]["bootID"].is_string())
}

fn paused(object: &Value, at: Time) -> bool {
    let stands = |pause: &Value| crate::clock::WorldClock::world_time(text(pause, "expiresAt")).is_none_or(|end| end > at);
    object["spec"]["pauses"].as_array().is_some_and(|pauses| pauses.iter().any(stands))
}

/// Whether a pause stood all the time.
fn is_held(e: &Evidence, vm: usize, from: Time, to: Time) -> bool {
    let paused = |object: &Value| paused(object, to);
    e.all_the_time("managedvms", &e.plan.vms[vm].name, from, to, paused)
        || e.all_the_time("healthpolicies", &e.policy(vm).name, from, to, paused)
        || e.all_the_time("proxmoxclusters", crate::declared::CLUSTER, from, to, paused)
}

/// S5.
pub fn declared(e: &Evidence) -> Found {
    let mut found = Found::new();
    for s in &e.posts {
        let at = s.post.sent;
        let long_ago = at.minus(OLD_LOOK);
        let mut say = |text: String| found.push((at, Some(s.vm), text));
        if let Some((power, since)) = s.post.power
            && (power == Power::Stopped || (power != Power::Running && s.is_automatic()))
            && since < long_ago
        {
            say(format!("it is {} since {since}", power.word()));
        }
        let other = s.post.uuid.is_some_and(|uuid| uuid.as_u128() & 0xffff != u128::from(s.post.vmid));
        if other && s.post.uuid_since < long_ago {
            say("another machine has its VMID".into());
        }
        if s.declared.as_ref().is_some_and(|o| !o["metadata"]["deletionTimestamp"].is_null()) {
            say("its ManagedVM is being deleted".into());
        }
        if !s.is_automatic() {
            continue;
        }
        // The intent is written over exactly what was decided on.
        if s.declared.as_ref().is_some_and(|o| paused(o, at)) {
            say("its ManagedVM is paused".into());
        }
        if is_held(e, s.vm, long_ago, at) {
            say("it is paused".into());
        }
        let observe = |o: &Value| o["spec"]["resetPolicy"]["mode"] == "Observe";
        let name = &e.plan.vms[s.vm].name;
        let own = e
            .object_at("managedvms", name, at)
            .is_some_and(|o| o["spec"]["resetPolicy"]["mode"].is_string());
        let by_policy = !own && e.all_the_time("healthpolicies", &e.policy(s.vm).name, long_ago, at, observe);
        if by_policy || e.all_the_time("managedvms", name, long_ago, at, observe) || e.plan.start.observe_only {
            say("it is only observed".into());
        }
        if e.heard_before(s.vm, at).is_some_and(|h| h.goodbye) {
            say("its agent said goodbye".into());
        }
    }
    found
}

/// S12. The process remembers boots that it was told of itself, since its ManagedVM was made; a world is shorter than the hour.
pub fn boot_loops(e: &Evidence) -> Found {
    let mut found = Found::new();
    for s in automatic(e) {
        let of_this =
            |w: &&crate::evidence::Write| w.vm == Some(s.vm) && w.after.as_ref().is_some_and(|o| text(&o["metadata"], "uid") == s.uid);
        let Some(made) = e.writes.iter().find(of_this).map(|w| w.at) else {
            continue;
        };
        let of_process = e.log.heard.iter().filter(|h| h.vm == s.vm && h.process == s.post.process);
        let counts_from = made.max(forgiven_before(e, s).unwrap_or_default());
        let mut boots: Vec<u32> = of_process
            .filter(|h| h.at > counts_from && h.at < s.entered)
            .map(|h| h.boot)
            .collect();
        boots.dedup();
        // Each reset, whoever wanted it, is one boot at the most.
        let resets = e
            .posts
            .iter()
            .filter(|p| p.vm == s.vm && p.counts() && p.post.sent < s.entered)
            .count();
        let own = boots.len().saturating_sub(1 + resets);
        if own > 3 {
            found.push((s.post.sent, Some(s.vm), format!("reset after {own} boots that no reset caused")));
        }
    }
    found
}
