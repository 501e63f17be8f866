//! How much of the fleet is down, at three widths, and whether that leaves room for a reset.

use crate::gate::Blocked;
use crate::life::{Life, Vital, life};
use crate::storm::Lost;
use crate::time::Now;
use defib_api::{IntOrPercent, ManagedVM};

/// How one VM counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not armed, paused, stopped or said goodbye: it is not part of the population.
    Apart,
    /// Heard of, and not late.
    Healthy,
    /// Silent, late, in grace, not yet heard, or a reset is under way.
    Unhealthy,
}

/// Counts of one width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// VMs that are part of the population.
    pub population: u32,
    /// Of these, how many are not healthy.
    pub unhealthy: u32,
    /// Resets under way.
    pub in_flight: u32,
}

impl Count {
    /// Adds one VM.
    pub fn add(&mut self, standing: Standing, in_flight: bool) {
        let unhealthy = in_flight || standing == Standing::Unhealthy;
        if standing != Standing::Apart || in_flight {
            self.population = self.population.saturating_add(1);
        }
        self.unhealthy = self.unhealthy.saturating_add(u32::from(unhealthy));
        self.in_flight = self.in_flight.saturating_add(u32::from(in_flight));
    }
}

/// Counts of the three widths at which budgets are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// VMs of the same HealthPolicy (or without any, in the same namespace).
    pub policy: Count,
    /// VMs of the same ProxmoxCluster.
    pub cluster: Count,
    /// All of Defib.
    pub all: Count,
}

/// Limits that hold for each ProxmoxCluster and for all of Defib.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most resets under way.
    pub max_in_flight: u32,
    /// Most unhealthy VMs.
    pub max_unhealthy: IntOrPercent,
}

/// How a VM counts. `paused` is whether any pause of VM, policy or cluster stands, or a maintenance window is open.
pub fn standing(vm: &ManagedVM, vital: &Vital<'_>, paused: bool, now: Now) -> Standing {
    let stopped = vm.status.as_ref().and_then(|s| s.power.as_deref()) == Some("stopped");
    if paused || stopped || vm.metadata.deletion_timestamp.is_some() {
        return Standing::Apart;
    }
    match life(vital, now) {
        Life::Unarmed(_) => Standing::Apart,
        Life::Fresh { heard: true, .. } if !vital.late(now) => Standing::Healthy,
        Life::Fresh { .. } | Life::Grace { .. } => Standing::Unhealthy,
        Life::Silent { .. } if given_up_long_ago(vm, vital, now) => Standing::Apart,
        Life::Silent { .. } => Standing::Unhealthy,
    }
}

/// What a VM that is part of the population counts as in a storm: one whose reports are missing since we could hear them. What was missing before is not known to
/// have happened together: after a restart of ours, nobody was heard yet.
pub fn lost(vital: &Vital<'_>, now: Now) -> Option<Lost> {
    if !vital.late(now) || now.mono.since(vital.listening) <= vital.late_after() {
        return None;
    }
    Some(Lost {
        heard: vital.heard(now)?,
        timeout: vital.patience(),
    })
}

/// A VM whose last attempt ended over a window ago, and that is still silent, must not eat the budget of the others for ever.
fn given_up_long_ago(vm: &ManagedVM, vital: &Vital<'_>, now: Now) -> bool {
    vm.status
        .as_ref()
        .and_then(|s| s.episode.as_ref())
        .and_then(|e| e.last_end_time)
        .is_some_and(|end| now.age(end) >= vital.effective.window)
}

/// The budgets at three widths: the first that leaves no room for one more reset.
pub fn budget(fleet: &Fleet, policy: &Limits, all: &Limits) -> Option<Blocked> {
    [
        ("this policy", fleet.policy, policy),
        ("this ProxmoxCluster", fleet.cluster, all),
        ("all of Defib", fleet.all, all),
    ]
    .into_iter()
    .find_map(|(width, count, limits)| room(width, count, limits))
}

fn room(width: &str, count: Count, limits: &Limits) -> Option<Blocked> {
    if count.in_flight >= limits.max_in_flight {
        return Some(Blocked::new(
            "MaxInFlight",
            format!(
                "{} resets are under way in {width}, at most {} allowed",
                count.in_flight, limits.max_in_flight
            ),
        ));
    }
    let allowed = limits.max_unhealthy.of(count.population).unwrap_or(1);
    (count.unhealthy > allowed).then(|| {
        Blocked::new(
            "MaxUnhealthy",
            format!(
                "{} of {} armed VMs of {width} are unhealthy, at most {allowed} allowed: so many at once have a shared cause",
                count.unhealthy, count.population
            ),
        )
    })
}

/// Whether intents that are really in the journals, counted live at the three widths and including our own, exceed what is allowed.
pub fn over_committed(live: [u32; 3], policy: &Limits, all: &Limits) -> bool {
    let [in_policy, in_cluster, everywhere] = live;
    in_policy > policy.max_in_flight || in_cluster > all.max_in_flight || everywhere > all.max_in_flight
}
