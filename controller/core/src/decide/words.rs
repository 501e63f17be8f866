//! What is said of a VM: its six conditions, each a word and a sentence that does not change with the clock.

use super::{Inventory, Next, Observed};
use crate::boots::looping;
use crate::conditions::{Draft, Is, kind};
use crate::gate::{self, Blocked, Closer};
use crate::journal::{Step, stabilization};
use crate::life::{Life, Unarmed, Vital, identity};
use crate::observer::Trouble;
use crate::power::{Power, power_since};
use crate::time::{Now, seconds, to_seconds};

/// The six conditions.
pub(super) fn conditions(
    o: &Observed<'_>,
    vital: &Vital<'_>,
    life: Life,
    next: &Next,
    blocked: Option<&Blocked>,
    power: &Power,
    now: Now,
) -> Vec<Draft> {
    let fresh = heartbeat_fresh(o, vital, life, now);
    let within = within_thresholds(o, now);
    let allowed = reset_allowed(o, vital, life, next, blocked, now);
    let resetting = resetting(o, next);
    let adopted = adopted(o);
    let off = stopped(o, power, now);
    let ready = ready(o, life, &fresh, &within, &allowed, &resetting, &adopted, off);
    let ready = boot_loop(o, ready, now);
    vec![ready, fresh, within, allowed, resetting, adopted]
}

fn heartbeat_fresh(o: &Observed<'_>, vital: &Vital<'_>, life: Life, now: Now) -> Draft {
    let draft = |is, reason, message: String| Draft::new(kind::HEARTBEAT_FRESH, is, reason, message);
    let rejected = o.heartbeat.rejected.as_ref().filter(|r| now.mono.since(r.at) < o.effective.timeout);
    match life {
        Life::Unarmed(why) => match rejected {
            Some(r) => draft(
                Is::Unknown,
                "Rejected",
                format!("the agent's key is right, but its reports are refused: {}", r.detail),
            ),
            None => draft(Is::Unknown, why.reason(), why.message()),
        },
        Life::Fresh { heard: true, .. } => match rejected {
            Some(r) => draft(
                Is::True,
                "Rejected",
                format!("the VM lives, but its reports are refused: {}", r.detail),
            ),
            None => draft(
                Is::True,
                "Fresh",
                format!("heartbeats come; {} s of silence are borne", o.effective.timeout.as_secs()),
            ),
        },
        Life::Fresh { heard: false, .. } => draft(
            Is::Unknown,
            "Listening",
            format!(
                "no heartbeat yet since Defib listens, for less than {} s",
                o.effective.timeout.as_secs()
            ),
        ),
        Life::Grace { .. } => draft(Is::False, "StartupGrace", "no heartbeat; the guest booted a moment ago".into()),
        Life::Silent { .. } => {
            let last = vital
                .heartbeat
                .last_life
                .map(|at| now.wall_of(at))
                .or_else(|| vital.status.and_then(|s| s.heartbeat.as_ref()).and_then(|h| h.last_received_time));
            let last = last.map(|t| to_seconds(t).to_string());
            draft(
                Is::False,
                "Silent",
                format!(
                    "no heartbeat since {} ; at most {} s of silence are borne",
                    last.as_deref().unwrap_or("Defib listens"),
                    o.effective.timeout.as_secs()
                )
                .replace(" ;", ";"),
            )
        }
    }
}

fn within_thresholds(o: &Observed<'_>, now: Now) -> Draft {
    if o.effective.thresholds.is_empty() {
        return Draft::new(kind::WITHIN_THRESHOLDS, Is::True, "NoThresholds", "no thresholds are declared");
    }
    if o.heartbeat.report.is_none() {
        return Draft::new(kind::WITHIN_THRESHOLDS, Is::Unknown, "NoReport", "no report since Defib listens");
    }
    let exceeded: Vec<String> = o
        .heartbeat
        .over_since
        .iter()
        .filter(|(t, at)| now.mono.since(*at) >= seconds(t.duration_seconds))
        .map(|(t, _)| format!("{:?} above {} % for {} s", t.metric, t.percent, t.duration_seconds))
        .collect();
    if exceeded.is_empty() {
        Draft::new(
            kind::WITHIN_THRESHOLDS,
            Is::True,
            "WithinThresholds",
            "usage is within the thresholds",
        )
    } else {
        Draft::new(kind::WITHIN_THRESHOLDS, Is::False, "ThresholdExceeded", exceeded.join("; "))
    }
}

fn reset_allowed(o: &Observed<'_>, vital: &Vital<'_>, life: Life, next: &Next, blocked: Option<&Blocked>, now: Now) -> Draft {
    let draft = |is, reason, message: String| Draft::new(kind::RESET_ALLOWED, is, reason, message);
    if matches!(next, Next::Continue(_)) {
        return draft(Is::False, "ResetUnderWay", "a reset is under way".into());
    }
    let exhausted = || {
        // Worth saying before the VM falls silent, as a person must lift it.
        let closer = Closer {
            look: Err(gate::LookFailed {
                reason: "",
                message: String::new(),
            }),
            fleet: crate::fleet::Fleet::default(),
            io: None,
            guest_agent: None,
        };
        gate::budgets(o, &closer, now)
    };
    match (life, blocked) {
        (Life::Fresh { .. }, Some(b)) if b.reason == "NotSilent" => {
            // Of our troubles only one that lasts is worth a write to each VM.
            let lasts = o.observer.trouble.as_ref().is_some_and(Trouble::lasts);
            match gate::observer(o)
                .filter(|b| lasts || b.reason == "ManagedByAnother")
                .or_else(exhausted)
            {
                Some(b) => draft(Is::False, b.reason, b.message),
                None => draft(
                    Is::True,
                    "Armed",
                    format!(
                        "the VM is reset when it is silent for {} s and every gate lets it pass",
                        vital.effective.timeout.as_secs()
                    ),
                ),
            }
        }
        (_, Some(b)) => draft(Is::False, b.reason, b.message.clone()),
        (_, None) => draft(Is::True, "AllGatesPass", "every gate lets a reset pass".into()),
    }
}

fn resetting(o: &Observed<'_>, next: &Next) -> Draft {
    let draft = |is, reason, message: String| Draft::new(kind::RESETTING, is, reason, message);
    let Some(current) = o.vm.status.as_ref().and_then(|s| s.current_reset.as_ref()) else {
        return draft(Is::False, "NoReset", "no reset is under way".into());
    };
    let reset = format!("VMReset {}, attempt {}", current.name, current.attempt);
    match next {
        Next::Continue(Step::Leave { .. }) => draft(Is::True, "HeldByAnother", format!("{reset}: {} carries it out", current.holder)),
        Next::Continue(Step::Search { .. }) => draft(
            Is::True,
            "Searching",
            format!("{reset}: it is not known whether the request reached Proxmox; its task is searched"),
        ),
        Next::Continue(Step::Poll { .. }) => draft(Is::True, "TaskRunning", format!("{reset}: the task of Proxmox runs")),
        Next::Continue(Step::Verify { stabilizing: false, .. }) => draft(
            Is::True,
            "Verifying",
            format!(
                "{reset}: a heartbeat of a new boot is awaited, for {} s at most",
                current.recovery_deadline_seconds
            ),
        ),
        Next::Continue(Step::Verify { stabilizing: true, .. }) => draft(
            Is::True,
            "Stabilizing",
            format!(
                "{reset}: the VM reports from a new boot; it counts as recovered after {} s",
                stabilization(current, o.effective).as_secs()
            ),
        ),
        _ => draft(Is::True, "Resetting", reset),
    }
}

fn adopted(o: &Observed<'_>) -> Draft {
    let draft = |is, reason, message: String| Draft::new(kind::ADOPTED, is, reason, message);
    let vmid = o.vm.spec.proxmox.vmid;
    let cluster = &o.vm.spec.proxmox.cluster_ref.name;
    let recorded = identity(o.vm.status.as_ref()).or(o.uuid_in_proxmox);
    match o.inventory {
        Inventory::NoCluster => {
            return draft(
                Is::False,
                "ClusterNotFound",
                format!("ProxmoxCluster {cluster:?} does not exist in this namespace"),
            );
        }
        Inventory::Absent => {
            return draft(
                Is::False,
                "VMNotFound",
                format!("Proxmox shows no VM {vmid}: it does not exist, or the token lacks VM.Audit on /vms/{vmid}"),
            );
        }
        Inventory::Unread { message } if recorded.is_none() => return draft(Is::Unknown, "ProxmoxUnreachable", message.clone()),
        Inventory::Unread { .. } | Inventory::Row { .. } => {}
    }
    if let (Some(recorded), Some(present)) = (recorded, o.uuid_in_proxmox)
        && recorded != present
    {
        return draft(
            Is::False,
            "IdentityChanged",
            format!("VMID {vmid} now belongs to machine {present}, recorded was {recorded}"),
        );
    }
    if let Some(other) = o.duplicate_of {
        return draft(
            Is::False,
            "DuplicateMachine",
            format!("ManagedVM {other} is the same machine and is older; it decides"),
        );
    }
    match recorded {
        Some(uuid) => draft(
            Is::True,
            "Adopted",
            format!("VM {vmid} of ProxmoxCluster {cluster}, machine {uuid}"),
        ),
        None if o.effective.identity == defib_api::IdentityCheck::Trust => draft(
            Is::True,
            "Adopted",
            format!("VM {vmid} of ProxmoxCluster {cluster}; its key alone is trusted"),
        ),
        None => draft(
            Is::Unknown,
            "IdentityUnknown",
            format!("Proxmox has not told the SMBIOS UUID of VM {vmid}"),
        ),
    }
}

/// Of a VM that is off: what becomes of that.
fn stopped(o: &Observed<'_>, power: &Power, now: Now) -> Option<String> {
    let why = match power {
        Power::On => return None,
        Power::Unmanaged => "it is not started, because powerState is Unmanaged".into(),
        Power::Blocked(b) => format!("powerState is Running, and it is not started yet: {} ({})", b.message, b.reason),
        Power::LookCloser | Power::Start => "powerState is Running, and it is started now".into(),
    };
    let since = power_since(o, now).map_or_else(String::new, |at| format!(" since {}", to_seconds(at)));
    Some(format!("Proxmox says that the VM is stopped{since}; {why}"))
}

#[expect(clippy::too_many_arguments, reason = "each is one of the other conditions")]
fn ready(
    o: &Observed<'_>,
    life: Life,
    fresh: &Draft,
    within: &Draft,
    allowed: &Draft,
    resetting: &Draft,
    adopted: &Draft,
    off: Option<String>,
) -> Draft {
    let from = |is, d: &Draft| Draft::new(kind::READY, is, d.reason, d.message.clone());
    let as_state = |is, reason, d: &Draft| Draft::new(kind::READY, is, reason, d.message.clone());
    if o.vm.metadata.deletion_timestamp.is_some() {
        return Draft::new(
            kind::READY,
            Is::False,
            "Deleting",
            "this ManagedVM is being deleted; its VM is left alone",
        );
    }
    if resetting.is == Is::True {
        let reason = match resetting.reason {
            "Verifying" | "Stabilizing" => "Recovering",
            _ => "Resetting",
        };
        return as_state(Is::False, reason, resetting);
    }
    if let Some(problem) = gate::policy_problem(o) {
        return Draft::new(kind::READY, Is::False, problem.reason, problem.message);
    }
    if adopted.is == Is::False {
        return from(Is::False, adopted);
    }
    let exhausted = matches!(allowed.reason, "ResetsExhausted" | "StepsExhausted");
    // What was heard a moment ago says more than a list that may be as old.
    if let Some(message) = off.filter(|_| !matches!(life, Life::Fresh { .. })) {
        return Draft::new(kind::READY, Is::False, "Stopped", message);
    }
    match life {
        Life::Silent { .. } if exhausted => from(Is::False, allowed),
        Life::Silent { .. } | Life::Grace { .. } => from(Is::False, fresh),
        Life::Unarmed(Unarmed::WrongMachine(_)) => from(Is::False, fresh),
        Life::Unarmed(_) | Life::Fresh { heard: false, .. } => from(Is::Unknown, fresh),
        Life::Fresh { .. } if matches!(allowed.reason, "Paused" | "MaintenanceWindow") => from(Is::True, allowed),
        Life::Fresh { .. } if within.is == Is::False => from(Is::True, within),
        Life::Fresh { .. } if fresh.reason == "Rejected" => from(Is::True, fresh),
        Life::Fresh { .. } => Draft::new(kind::READY, Is::True, "Healthy", "heartbeats come"),
    }
}

/// What `Ready` says of a VM between two of its boots. A loop outranks these; not what says more (it is silent, stopped, exhausted, being reset), nor a pause: whoever
/// paused the VM may be the one who reboots it.
const BETWEEN_BOOTS: [&str; 6] = ["Healthy", "ThresholdExceeded", "Rejected", "Listening", "StartupGrace", "Stopping"];

fn boot_loop(o: &Observed<'_>, ready: Draft, now: Now) -> Draft {
    match looping(o, now).filter(|_| BETWEEN_BOOTS.contains(&ready.reason)) {
        Some(b) => Draft::new(kind::READY, Is::False, b.reason, b.message),
        None => ready,
    }
}
