//! `powerState: Running`: a VM that Proxmox reports stopped is started, through gates and under a cap of its own. A start of a VM that runs does nothing, so it needs
//! no journal; what is counted is written before it is sent.

use crate::decide::{Inventory, Observed};
use crate::fleet::budget;
use crate::gate::{self, Blocked, HARMLESS_TO_START, Look};
use crate::journal::capped;
use crate::time::{Now, to_seconds};
use defib_api::{PowerState, Trigger};
use jiff::Timestamp;
use std::time::Duration;

/// How long a VM is off before it is started. Who restarts it, or backs it up in mode `stop`, has it on again or locked by then.
const OFF_FOR: Duration = Duration::from_secs(60);
/// From one start to the next: Proxmox HA and slow storage take less.
const START_AGAIN: Duration = Duration::from_secs(60);
/// `recentStarts` holds so many; maxResets, by which they are capped, is at most 10.
const RECENT: usize = 10;

/// What is to be done about the power of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Power {
    /// Nothing: it is on, or something else is under way.
    On,
    /// It is off, and left so.
    Unmanaged,
    /// It is to be on, and something keeps it from being started.
    Blocked(Blocked),
    /// It is to be started, as far as is known without a look.
    LookCloser,
    /// Start it.
    Start,
}

/// Since when Proxmox says what it says of a VM's power; none where it was never seen to change.
pub fn power_since(o: &Observed<'_>, now: Now) -> Option<Timestamp> {
    let old = o.vm.status.as_ref();
    match (&o.inventory, old.and_then(|s| s.power.as_deref())) {
        (Inventory::Row { status, .. }, Some(before)) if before != *status => Some(to_seconds(now.wall)),
        _ => old.and_then(|s| s.power_since),
    }
}

/// Decides on the power of a VM.
pub fn power(o: &Observed<'_>, now: Now) -> Power {
    let is_off = matches!(o.inventory, Inventory::Row { status, .. } if status == "stopped");
    let status = o.vm.status.as_ref();
    if !is_off || status.is_some_and(|s| s.current_reset.is_some()) {
        return Power::On;
    }
    if o.vm.spec.power_state != Some(PowerState::Running) {
        return Power::Unmanaged;
    }
    if let Some(blocked) = gate::mode(o)
        .or_else(|| gate::declared(o, Trigger::Automatic, now))
        .or_else(|| waits(o, now))
    {
        return Power::Blocked(blocked);
    }
    let Some(closer) = o.closer else { return Power::LookCloser };
    let blocked = match &closer.look {
        Err(failed) => Some(Blocked::new(failed.reason, failed.message.clone())),
        Ok(look) => proxmox(o, look),
    };
    match blocked.or_else(|| budget(&closer.fleet, &o.effective.limits(), o.limits)) {
        Some(blocked) => Power::Blocked(blocked),
        None => Power::Start,
    }
}

/// Gates on time and number.
fn waits(o: &Observed<'_>, now: Now) -> Option<Blocked> {
    let since = o.off_since.unwrap_or(now.mono).max(o.hold_lifted);
    let off = now.mono.since(since);
    if off < OFF_FOR {
        let why = format!("it is started when it has been off for {} s, as Defib sees it", OFF_FOR.as_secs());
        return Some(Blocked::new("JustStopped", why).until(OFF_FOR - off));
    }
    let starts = o.vm.status.as_ref().map_or(&[][..], |s| s.recent_starts.as_slice());
    let newest = starts.last().map_or(Duration::MAX, |t| now.age(*t));
    if newest < START_AGAIN {
        let why = format!("Proxmox was asked to start it less than {} s ago", START_AGAIN.as_secs());
        return Some(Blocked::new("StartSent", why).until(START_AGAIN - newest));
    }
    let cap = capped(starts.iter().copied(), o.effective, now)?;
    Some(
        Blocked::new(
            "StartsExhausted",
            format!(
                "it was started {} times in {} s, and maxResets, {}, caps that too; the next time when that of {} leaves the window, or when resetPolicy.forgiveBefore is set",
                cap.counting,
                o.effective.window.as_secs(),
                o.effective.max_resets,
                cap.last_to_leave
            ),
        )
        .until(cap.opens_after),
    )
}

/// Gates on what Proxmox says.
fn proxmox(o: &Observed<'_>, look: &Look) -> Option<Blocked> {
    if look.qmp_status != "stopped" {
        return Some(Blocked::new("AlreadyOn", format!("Proxmox says that it is {}", look.qmp_status)));
    }
    if let Some(lock) = &look.lock {
        return Some(Blocked::new(
            "Locked",
            format!("Proxmox holds a lock on the VM ({lock}); the start waits for it"),
        ));
    }
    if let Some(ha) = look.ha_state.as_deref().filter(|ha| !HARMLESS_TO_START.contains(ha)) {
        let why = format!("Proxmox HA manages the VM (state {ha}), and decides whether it runs");
        return Some(Blocked::new("HAManaged", why));
    }
    gate::identity(o, look)
        .or_else(|| gate::node_offline(look))
        .or_else(|| gate::surroundings(o, look))
}

/// `recentStarts` with a start that is sent now.
pub fn started(recent: &[Timestamp], now: Now) -> Vec<Timestamp> {
    let mut starts = recent.to_vec();
    starts.push(crate::time::to_millis(now.wall));
    let surplus = starts.len().saturating_sub(RECENT);
    starts.drain(..surplus);
    starts
}
