//! The start that is owed to a VM which Defib stopped, or had stopped (rule 8). It is made as often as it takes: a start of a VM that runs does nothing.

use crate::heartbeat::same_machine;
use crate::journal::{INTENT_EXPIRES, SEARCH_FOR};
use crate::time::{Now, to_millis};
use defib_api::{StartOwed, VMReset};
use jiff::Timestamp;
use std::time::Duration;
use uuid::Uuid;

/// A VM that runs for so long after Proxmox last answered us was not stopped by what it was doing then: Proxmox HA acts 10 to 20 s after its answer, and a QEMU
/// that hangs is killed within half a minute.
const RUNS_FOR: Duration = Duration::from_secs(60);
/// How often a VM that is not on yet is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// And one that is on, and may still go off.
const STILL_ON: Duration = Duration::from_secs(5);
/// From one start to the next, at first and at most. Proxmox HA starts a VM within 20 s, and each try is a line in Proxmox's task list.
const START_AGAIN: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(300));
/// A start that is owed for so long is told to a person: something keeps the VM from starting.
pub const OVERDUE: Duration = Duration::from_secs(300);
/// Characters of Proxmox's words that the schema lets the record hold.
const ANSWER: usize = 256;

/// What Proxmox says of a VM that is owed a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It could not be asked.
    Unreachable(String),
    /// There is no such VM any more.
    Gone,
    /// It is there.
    There {
        /// Its SMBIOS UUID.
        uuid: Option<Uuid>,
        /// It is on: it has a QEMU process.
        is_on: bool,
        /// Lock in its configuration.
        lock: Option<String>,
    },
}

/// What to do about a start that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payment {
    /// Look again after this.
    Wait(Duration),
    /// Ask Proxmox to start the VM.
    Start,
    /// It is paid, or owed to nobody.
    Settled {
        /// One word of constant spelling.
        reason: &'static str,
        /// In a sentence.
        message: String,
    },
}

/// When Proxmox answered the stop: when its task was seen to have ended or its search was given up, which is in the record. `orphaned`: nobody follows the task any more,
/// as the journal is gone with its ManagedVM; then, when a lost request must have arrived.
pub fn stop_answered(reset: &VMReset, orphaned: bool, now: Now) -> Option<Timestamp> {
    let status = reset.status.as_ref()?;
    if status.task_end_time.is_some() || !orphaned {
        return status.task_end_time;
    }
    let sent = status.sent_time.or(status.intent_time)?;
    let lost = SEARCH_FOR + INTENT_EXPIRES;
    (now.age(sent) >= lost).then(|| sent.checked_add(lost).unwrap_or(sent))
}

/// Decides on a start that is owed, of a VM whose stop was answered at `answered`.
pub fn pay(owed: &StartOwed, answered: Option<Timestamp>, seen: &Seen, now: Now) -> Payment {
    let settled = |reason, message: String| Payment::Settled { reason, message };
    let (uuid, is_on, lock) = match seen {
        Seen::Unreachable(_) => return Payment::Wait(LOOK_AGAIN),
        Seen::Gone => {
            return settled(
                "VMNotFound",
                format!("VM {} does not exist any more: no start is owed to it", owed.vmid),
            );
        }
        Seen::There { uuid, is_on, lock } => (*uuid, *is_on, lock),
    };
    let recorded: Option<Uuid> = owed.identity.as_deref().and_then(|text| text.parse().ok());
    if let (Some(recorded), Some(present)) = (recorded, uuid)
        && !same_machine(recorded, present)
    {
        let message = format!(
            "VMID {} now belongs to another machine ({present}, it was {recorded}): no start is owed to that",
            owed.vmid
        );
        return settled("IdentityChanged", message);
    }
    let Some(answered) = answered else {
        return Payment::Wait(LOOK_AGAIN);
    };
    if is_on {
        let last = owed.asked_time.map_or(answered, |asked| asked.max(answered));
        let runs = now.age(last);
        return if runs < RUNS_FOR {
            Payment::Wait((RUNS_FOR - runs).min(STILL_ON))
        } else {
            settled(
                "Running",
                format!("the VM runs, {} s after Proxmox's last answer", RUNS_FOR.as_secs()),
            )
        };
    }
    if lock.is_some() {
        return Payment::Wait(LOOK_AGAIN);
    }
    let (first, most) = START_AGAIN;
    let patience = first.saturating_mul(1 << owed.attempts.saturating_sub(1).min(5)).min(most);
    match owed.asked_time {
        Some(asked) if now.age(asked) < patience => Payment::Wait(LOOK_AGAIN),
        _ => Payment::Start,
    }
}

/// The debt after Proxmox was asked to start the VM.
#[must_use]
pub fn asked(owed: &StartOwed, answer: &str, now: Now) -> StartOwed {
    StartOwed {
        attempts: owed.attempts.saturating_add(1),
        asked_time: Some(to_millis(now.wall)),
        answer: Some(cut(answer)),
        ..owed.clone()
    }
}

/// The debt after a person was told what keeps the VM from starting.
#[must_use]
pub fn told_overdue(owed: &StartOwed, why: &str, now: Now) -> StartOwed {
    StartOwed {
        overdue_time: Some(to_millis(now.wall)),
        answer: Some(cut(why)),
        ..owed.clone()
    }
}

fn cut(text: &str) -> String {
    text.chars().take(ANSWER).collect()
}
