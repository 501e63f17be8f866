//! Rules 2, 4 and 10: whom a reset must not hit.

use super::Finding;
use super::story::{Reset, Story};
use crate::evidence::{Did, before};
use crate::fleet::Role;
use jiff::Timestamp;
use pve_sim::GuestState;

/// From a look at Proxmox to the decision that rests on it. What changes after the look is for Proxmox to refuse.
const LOOK: f64 = 5.0;

fn each(story: &Story<'_>, mut finding: Finding, judge: impl Fn(&Reset<'_>) -> Option<String>) -> Finding {
    for reset in &story.resets {
        finding.case(judge(reset).map(|why| format!("{}: {why}", reset.shown())));
    }
    finding
}

/// No VM was reset that was not armed.
pub fn armed(story: &Story<'_>) -> Finding {
    let finding = Finding::new("2", "no reset of a VM that is not armed (no agent, by hand, wrong machine)");
    each(story, finding, |reset| {
        let unarmed = !reset.vm.role.may_be_reset() && reset.vm.role != Role::Paused;
        unarmed.then(|| format!("it is {:?}", reset.vm.role))
    })
}

/// No VM was reset that is paused.
pub fn paused(story: &Story<'_>) -> Finding {
    let finding = Finding::new("4", "no reset of a VM that is paused");
    each(story, finding, |reset| {
        (reset.vm.role == Role::Paused).then(|| "it is paused".to_owned())
    })
}

/// No VM was reset that was seen to be off.
pub fn stopped(story: &Story<'_>) -> Finding {
    let finding = Finding::new("4", "no reset of a VM that was off when Proxmox was looked at");
    each(story, finding, |reset| {
        let seen = before(reset.decided(), LOOK);
        let off = story
            .guest_at(reset.vmid, reset.post.time)
            .filter(|event| event.after == GuestState::Off);
        off.filter(|event| event.time < seen)
            .map(|event| format!("it was off since {}", event.time))
    })
}

/// No VM was reset that was seen to be locked.
pub fn locked(story: &Story<'_>) -> Finding {
    let finding = Finding::new("4", "no reset of a VM that was locked when Proxmox was looked at");
    each(story, finding, |reset| {
        let seen = before(reset.decided(), LOOK);
        let since = locked_at(story, reset.vmid, reset.post.time)?;
        (since < seen).then(|| format!("it was locked since {since}"))
    })
}

fn locked_at(story: &Story<'_>, vmid: u32, at: Timestamp) -> Option<Timestamp> {
    let past = story.evidence.deeds.iter().rev().filter(|deed| deed.time <= at);
    let mut locks = past.filter(|deed| deed.what == Did::Locked(vmid) || deed.what == Did::Unlocked(vmid));
    locks.next().filter(|deed| deed.what == Did::Locked(vmid)).map(|deed| deed.time)
}

/// No VM was reset whose ManagedVM was gone.
pub fn deleted(story: &Story<'_>) -> Finding {
    let finding = Finding::new("10", "no reset of a VM whose ManagedVM was deleted before it was decided");
    each(story, finding, |reset| {
        let gone = story.deleted(reset.vmid).filter(|gone| *gone < reset.decided());
        gone.map(|gone| format!("it was deleted at {gone}"))
    })
}
