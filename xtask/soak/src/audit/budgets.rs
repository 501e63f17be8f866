//! Rule 4: how often, and how many at once.

use super::Finding;
use super::story::{Reset, Story};
use crate::evidence::{Written, seconds};
use jiff::Timestamp;
use pve_sim::GuestState;
use std::collections::BTreeMap;

/// Episode and attempt, from the name of a VMReset: VM, episode, attempt.
fn parts(name: &str) -> Option<(&str, u32)> {
    let (rest, attempt) = name.rsplit_once('-')?;
    Some((rest, attempt.parse().ok()?))
}

/// No episode had more resets than the steps of the policy have attempts.
pub fn attempts(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("4", "no more resets in one episode than its policy has attempts");
    let mut episodes: BTreeMap<&str, Vec<&Reset<'_>>> = BTreeMap::new();
    for reset in story.resets.iter().filter(|reset| reset.happened) {
        if let Some((episode, _)) = reset.intent.as_ref().and_then(|intent| parts(&intent.name)) {
            episodes.entry(episode).or_default().push(reset);
        }
    }
    for (episode, resets) in episodes {
        let most = resets.first().map_or(0, |reset| reset.limits.attempts as usize);
        let over = resets.len() > most;
        finding.case(over.then(|| format!("episode {episode}: {} resets, {most} allowed", resets.len())));
    }
    finding
}

/// No VM was reset more often in a window than its policy allows.
pub fn cap(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("4", "no more resets of a VM in its window than maxResets");
    let mut of_vm: BTreeMap<u32, Vec<&Reset<'_>>> = BTreeMap::new();
    for reset in story.resets.iter().filter(|reset| reset.happened) {
        of_vm.entry(reset.vmid).or_default().push(reset);
    }
    for (vmid, resets) in of_vm {
        let over = resets.iter().enumerate().find_map(|(index, last)| {
            let from = resets.get(index.checked_sub(last.limits.max_resets as usize)?)?;
            // The window is counted from decision to decision.
            let within = seconds(from.decided(), last.decided());
            (within < f64::from(last.limits.window)).then_some((last, within))
        });
        finding.case(over.map(|(last, within)| {
            let most = last.limits.max_resets;
            format!(
                "VM {vmid}: {} resets within {within:.0} s, {most} allowed; the last was {}",
                most + 1,
                last.shown()
            )
        }));
    }
    finding
}

/// Never were more resets under way than allowed.
pub fn in_flight(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("4", "never more resets under way than maxInFlight, in a policy and in all");
    // What Proxmox provably refused was never under way.
    let under_way: Vec<(&Reset<'_>, Timestamp)> = story
        .resets
        .iter()
        .filter(|reset| reset.happened || reset.ambiguous())
        .map(|reset| (reset, end_of(story, reset)))
        .collect();
    for (reset, _) in &under_way {
        let at = reset.post.time;
        let then = |other: &&(&Reset<'_>, Timestamp)| other.0.post.time <= at && at < other.1;
        let all = under_way.iter().filter(then).count();
        let same = under_way
            .iter()
            .filter(then)
            .filter(|(other, _)| other.vm.policy == reset.vm.policy)
            .count();
        let (most, most_of_policy) = (story.evidence.max_in_flight as usize, reset.limits.max_in_flight as usize);
        let over = all > most || same > most_of_policy;
        finding.case(over.then(|| {
            let policy = &reset.vm.policy;
            format!(
                "{}: {all} under way (at most {most}), {same} of policy {policy} (at most {most_of_policy})",
                reset.shown()
            )
        }));
    }
    finding
}

/// When a reset was over: the earliest time that any log allows, as the budget counts until then.
fn end_of(story: &Story<'_>, reset: &Reset<'_>) -> Timestamp {
    let name = reset.intent.as_ref().map(|intent| intent.name.as_str());
    let after = story.evidence.writes.iter().filter(|write| write.received > reset.post.time);
    let written = after
        .filter(|write| match &write.what {
            Written::Journal { vm, current } => *vm == reset.vm.name && current.as_ref().map(|c| c.name.as_str()) != name,
            Written::Deleted(gone) | Written::Finished(gone) => Some(gone.as_str()) == name,
            Written::Created(_) => false,
        })
        .map(|write| write.received)
        .min();
    let record = name.and_then(|name| story.records.get(name));
    let recorded = record.and_then(|record| record.end_time).filter(|end| *end > reset.post.time);
    let deleted = story.deleted(reset.vmid).filter(|gone| *gone > reset.post.time);
    [written, recorded, deleted].into_iter().flatten().min().unwrap_or(Timestamp::MAX)
}

/// What was silent for certain a second before a decision was known when it was made.
const KNOWN: f64 = 1.0;

/// No reset was decided while more VMs were silent than maxUnhealthy.
pub fn unhealthy(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("4", "no reset while more VMs were silent than maxUnhealthy, in a policy and in all");
    for reset in &story.resets {
        let at = reset.decided();
        let (mut policy, mut all) = ((0u32, 0u32), (0u32, 0u32));
        for (vmid, vm) in story.evidence.vms.iter().filter(|(_, vm)| vm.role.may_be_reset()) {
            let silent = u32::from(silent(story, *vmid, at));
            all = (all.0 + silent, all.1 + 1);
            if vm.policy == reset.vm.policy {
                policy = (policy.0 + silent, policy.1 + 1);
            }
        }
        // Percent of the population round up; who is left out of it makes it smaller, never larger.
        let allowed = |population: u32, percent: u32| (population * percent).div_ceil(100).max(1);
        let of_policy = allowed(policy.1, reset.limits.max_unhealthy);
        let of_all = allowed(all.1, story.evidence.max_unhealthy);
        let over = policy.0 > of_policy || all.0 > of_all;
        finding.case(over.then(|| {
            let (in_policy, in_all) = (policy.0, all.0);
            format!(
                "{}: {in_all} silent (at most {of_all}), {in_policy} of its policy (at most {of_policy})",
                reset.shown()
            )
        }));
    }
    finding
}

/// Whether a VM was silent for certain, and counted as such.
fn silent(story: &Story<'_>, vmid: u32, at: Timestamp) -> bool {
    let Some(vm) = story.evidence.vms.get(&vmid) else { return false };
    let Some(limits) = story.evidence.policies.get(&vm.policy) else {
        return false;
    };
    if story.deleted(vmid).is_some_and(|gone| gone <= at) {
        return false;
    }
    // Who was switched off does not count; who lost power with its node does, as Proxmox goes on to show it as running.
    let guest = story.guest_at(vmid, at);
    if guest.is_some_and(|event| event.after == GuestState::Off && event.cause != "node") {
        return false;
    }
    let heard = story.evidence.heard.get(&vmid).map_or(&[][..], Vec::as_slice);
    let until = heard.partition_point(|report| report.sent <= at);
    let Some(last) = until.checked_sub(1).and_then(|last| heard.get(last)) else {
        return false;
    };
    let age = seconds(last.answered, at);
    // Those given up a window ago do not count any more.
    f64::from(limits.timeout) + KNOWN < age && age < f64::from(limits.window)
}
