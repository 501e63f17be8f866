//! How everything stands at the end.

use super::Finding;
use super::story::Story;
use crate::evidence::{Did, Evidence};
use crate::fleet::Role;

/// Honest words for a VM that no reset healed.
const GIVEN_UP: [&str; 2] = ["StepsExhausted", "ResetsExhausted"];

/// Those that fell silent together, and of which nothing proves that they hang, wait for a person.
pub const IN_A_STORM: &str = "StormActive";

/// A VM that power cuts and stalls have booted too often within the hour.
pub const IN_A_LOOP: &str = "BootLoop";

/// Each VM is healthy, or honestly not.
pub fn states(evidence: &Evidence) -> Finding {
    let mut finding = Finding::new("end", "each VM is Healthy, or its state says honestly why not");
    for vm in &evidence.end.vms {
        let Some(role) = evidence.vms.get(&vm.vmid).map(|known| known.role) else {
            continue;
        };
        let runs = evidence.end.running.contains(&vm.vmid);
        let state = vm.state.as_str();
        let right = match role {
            Role::Ordinary | Role::Doomed if runs => state == "Healthy" || state == IN_A_LOOP,
            Role::Ordinary | Role::Doomed => GIVEN_UP.contains(&state) || [IN_A_STORM, IN_A_LOOP].contains(&vm.held.as_str()),
            _ => runs || state != "Healthy",
        };
        if right && !runs && role.may_be_reset() && !GIVEN_UP.contains(&state) {
            finding.notes.push(match vm.held.as_str() {
                IN_A_LOOP => format!("VM {} is silent, and had booted again and again", vm.vmid),
                _ => format!("VM {} waits in a storm", vm.vmid),
            });
        }
        finding.case((!right).then(|| {
            let guest = if runs { "runs" } else { "does not run" };
            format!("VM {} ({role:?}) is {state}, and its guest {guest}", vm.vmid)
        }));
    }
    finding
}

/// No journal is stuck.
pub fn journals(evidence: &Evidence) -> Finding {
    let mut finding = Finding::new("end", "no reset is under way any more");
    for vm in &evidence.end.vms {
        finding.case(vm.current.as_ref().map(|name| format!("VM {}: {name} is in its journal", vm.vmid)));
    }
    finding
}

/// Each record tells how it ended.
pub fn records(evidence: &Evidence) -> Finding {
    let mut finding = Finding::new("end", "each VMReset has an outcome");
    for reset in &evidence.end.resets {
        finding.case(reset.outcome.is_none().then(|| format!("{} has none", reset.name)));
    }
    finding
}

/// The controller never panicked.
pub fn panics(evidence: &Evidence) -> Finding {
    let mut finding = Finding::new("log", "the controller never panicked");
    finding.checked = 1;
    finding.violations.clone_from(&evidence.panics);
    finding
}

/// The run was worth its time: there were resets, also between kills.
pub fn happened(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("run", "there were resets, also between two kills of the controller");
    let resets: Vec<_> = story.resets.iter().filter(|reset| reset.happened).collect();
    finding.checked = resets.len();
    if resets.is_empty() {
        finding.violations.push("nothing was reset".into());
    }
    let kills: Vec<_> = story
        .evidence
        .deeds
        .iter()
        .filter(|deed| deed.what == Did::Killed)
        .map(|deed| deed.time)
        .collect();
    if let Some(last) = kills.last()
        && !resets.iter().any(|reset| reset.post.time < *last)
    {
        finding.violations.push("nothing was reset before the last kill".into());
    }
    finding
}
