//! From built-in values, HealthPolicy and ManagedVM to the one policy that applies. Later steps never look at the raw specs.

use crate::fleet::Limits;
use crate::time::seconds;
use defib_api::{
    Budget, Corroborate, GuestAgentCheck, HealthPolicySpec, HeartbeatSettings, IdentityCheck, IntOrPercent, ManagedVMSpec, Mode, Pause,
    ResetPolicy, Step, StepAction, Threshold,
};
use jiff::Timestamp;
use std::time::Duration;

/// The one table of built-in values. The documentation of the fields quotes it.
pub mod built_in {
    use super::{Step, StepAction};

    /// A report each half minute: what the agents of peers do, and 33 requests a second from 1,000 VMs.
    pub const REPORT_SECONDS: u32 = 30;
    /// Ten lost reports in a row. A backup that freezes file systems, or a host under load, silences an agent for minutes.
    pub const TIMEOUT_SECONDS: u32 = 300;
    /// A guest that updates itself at boot reboots again within ten minutes.
    pub const STARTUP_GRACE_SECONDS: u32 = 600;
    /// Three in a day: what a reset can cure, it cures with the first ones.
    pub const MAX_RESETS: u32 = 3;
    /// A day.
    pub const WINDOW_SECONDS: u32 = 86_400;
    /// Two reports at the built-in period: one could be the last gasp of a boot loop.
    pub const STABILIZATION_SECONDS: u32 = 60;
    /// Above a fifth of the fleet, the cause is shared.
    pub const MAX_UNHEALTHY: &str = "20%";
    /// One at a time: a wrong decision then costs one VM.
    pub const MAX_IN_FLIGHT: u32 = 1;
    /// What depends on a switch, a storage or a node that came back comes back in three minutes.
    pub const STORM_COOLDOWN_SECONDS: u32 = 180;
    /// VMResets kept for each VM.
    pub const RESET_HISTORY_LIMIT: u32 = 10;
    /// First generation of an agent's key.
    pub const KEY_GENERATION: u32 = 1;
    /// What vSphere HA looks back over. A guest that works writes to a log in two minutes.
    pub const IO_QUIET_SECONDS: u32 = 120;
    /// Longest that a clue which is no proof of life (guest I/O, a wrong key) holds a reset back in one silence: a guest that thrashes reads for ever, and anyone
    /// can send a wrong key. A file system check after a crash is over in a quarter of an hour.
    pub const MAX_VETO_SECONDS: u32 = 900;

    /// A guest that checks its file systems or rolls an update back boots for minutes.
    pub const RECOVERY_DEADLINE_SECONDS: u32 = 600;

    /// What is tried: the reset button, twice; then power off and on, as the reset of a QEMU that hangs itself does nothing.
    pub fn steps() -> Vec<Step> {
        let step = |action, max_attempts| Step {
            action,
            max_attempts,
            recovery_deadline_seconds: RECOVERY_DEADLINE_SECONDS,
        };
        vec![step(StepAction::Reset, 2), step(StepAction::PowerCycle, 1)]
    }
}

/// The HealthPolicy of a VM, as far as it was found.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// None is named and there is none called `default`.
    None,
    /// This one applies.
    Policy {
        /// Its name.
        name: &'a str,
        /// What it says.
        spec: &'a HealthPolicySpec,
    },
    /// One is named and does not exist.
    Missing(&'a str),
}

/// What applies to one VM after merging.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// Name of the HealthPolicy, where one applies.
    pub policy: Option<String>,
    /// Period of the reports.
    pub report: Duration,
    /// Longest silence that is borne.
    pub timeout: Duration,
    /// How long after a boot silence does not count.
    pub startup_grace: Duration,
    /// By metric and action, the VM's over the policy's.
    pub thresholds: Vec<Threshold>,
    /// Whether Defib may act.
    pub mode: Mode,
    /// What is tried, in order. Never empty.
    pub steps: Vec<Step>,
    /// Most automatic resets in the window.
    pub max_resets: u32,
    /// The sliding window.
    pub window: Duration,
    /// Fresh for this long = recovered.
    pub stabilization: Duration,
    /// Resets before it do not count.
    pub forgive_before: Option<Timestamp>,
    /// A guest that moved data within so long is not reset yet.
    pub io_quiet: Duration,
    /// Whether the QEMU guest agent is asked.
    pub guest_agent: GuestAgentCheck,
    /// Longest that a clue which is no proof of life holds a reset back.
    pub max_veto: Duration,
    /// Budget of the policy's fleet: most unhealthy VMs.
    pub max_unhealthy: IntOrPercent,
    /// Budget of the policy's fleet: most resets under way.
    pub max_in_flight: u32,
    /// How long nothing is reset after a storm.
    pub storm_cooldown: Duration,
    /// Ended VMResets that are kept.
    pub reset_history_limit: u32,
    /// How the machine behind a heartbeat is checked.
    pub identity: IdentityCheck,
    /// Why nothing may be reset under these settings.
    pub problem: Option<PolicyProblem>,
}

impl Effective {
    /// The budget of the policy's fleet.
    pub fn limits(&self) -> Limits {
        Limits {
            max_in_flight: self.max_in_flight,
            max_unhealthy: self.max_unhealthy.clone(),
        }
    }
}

/// Why a policy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyProblem {
    /// The policy that the VM names does not exist.
    #[error("HealthPolicy {0:?}, which spec.policyRef names, does not exist in this namespace; create it or change policyRef")]
    NotFound(String),
    /// The merged settings contradict each other.
    #[error("{0}")]
    Invalid(String),
}

impl PolicyProblem {
    /// Reason of conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "PolicyNotFound",
            Self::Invalid(_) => "InvalidPolicy",
        }
    }
}

/// A merged value and where it comes from.
#[derive(Clone)]
struct Sourced<T> {
    value: T,
    source: String,
}

fn pick<T>(vm: Option<T>, policy: Option<T>, policy_name: Option<&str>, built_in: T) -> Sourced<T> {
    match (vm, policy, policy_name) {
        (Some(value), _, _) => Sourced {
            value,
            source: "the ManagedVM".into(),
        },
        (None, Some(value), Some(name)) => Sourced {
            value,
            source: format!("HealthPolicy {name:?}"),
        },
        _ => Sourced {
            value: built_in,
            source: "the built-in value".into(),
        },
    }
}

/// Merges built-in values, policy and VM, in this order: scalars singly, `steps` as a whole, `thresholds` by metric and action. The result is validated again, as
/// two valid halves can contradict each other; with a problem nothing is reset, and the values serve for watching only.
pub fn effective(vm: &ManagedVMSpec, found: Found<'_>) -> Effective {
    let (name, policy) = match found {
        Found::Policy { name, spec } => (Some(name), spec.clone()),
        Found::None | Found::Missing(_) => (None, HealthPolicySpec::default()),
    };
    let own: HeartbeatSettings = vm.heartbeat.clone().unwrap_or_default();
    let shared = policy.heartbeat.clone().unwrap_or_default();
    let report = pick(own.report_seconds, shared.report_seconds, name, built_in::REPORT_SECONDS);
    let timeout = pick(own.timeout_seconds, shared.timeout_seconds, name, built_in::TIMEOUT_SECONDS);
    let grace = pick(
        own.startup_grace_seconds,
        shared.startup_grace_seconds,
        name,
        built_in::STARTUP_GRACE_SECONDS,
    );

    let own: ResetPolicy = vm.reset_policy.clone().unwrap_or_default();
    let shared = policy.reset_policy.clone().unwrap_or_default();
    let Limits {
        max_unhealthy,
        max_in_flight,
    } = limits(&policy);
    let steps = own.steps.or(shared.steps).unwrap_or_else(built_in::steps);
    let own_look: Corroborate = own.corroborate.unwrap_or_default();
    let shared_look: Corroborate = shared.corroborate.unwrap_or_default();
    // Proxmox's counters are up to 10 s old when they are read: with a short time-out, two minutes of quiet would come long after it.
    let io_quiet = built_in::IO_QUIET_SECONDS.min((timeout.value / 2).max(1));

    let mut thresholds = policy.thresholds.clone();
    thresholds.retain(|t| !vm.thresholds.iter().any(|own| (own.metric, own.action) == (t.metric, t.action)));
    thresholds.extend(vm.thresholds.iter().cloned());
    thresholds.sort_by_key(|t| (t.metric, t.action));

    let problem = if let Found::Missing(name) = found {
        Some(PolicyProblem::NotFound(name.to_owned()))
    } else if u64::from(timeout.value) < 4 * u64::from(report.value) {
        Some(PolicyProblem::Invalid(format!(
            "timeoutSeconds {} (from {}) must be at least 4 times reportSeconds {} (from {}); change one of them",
            timeout.value, timeout.source, report.value, report.source
        )))
    } else if max_unhealthy.of(1).is_none() {
        Some(PolicyProblem::Invalid(format!(
            "budget.maxUnhealthy of HealthPolicy {:?} is neither a count nor a percentage from 1% to 100%",
            name.unwrap_or_default()
        )))
    } else if steps.is_empty() {
        Some(PolicyProblem::Invalid(
            "resetPolicy.steps is empty; leave it out for the built-in steps".into(),
        ))
    } else {
        None
    };

    Effective {
        policy: name.map(str::to_owned),
        report: seconds(report.value),
        timeout: seconds(timeout.value),
        startup_grace: seconds(grace.value),
        thresholds,
        mode: own.mode.or(shared.mode).unwrap_or(Mode::Observe),
        steps: if steps.is_empty() { built_in::steps() } else { steps },
        max_resets: own.max_resets.or(shared.max_resets).unwrap_or(built_in::MAX_RESETS),
        window: seconds(own.window_seconds.or(shared.window_seconds).unwrap_or(built_in::WINDOW_SECONDS)),
        stabilization: seconds(
            own.stabilization_seconds
                .or(shared.stabilization_seconds)
                .unwrap_or(built_in::STABILIZATION_SECONDS),
        ),
        forgive_before: own.forgive_before.max(shared.forgive_before),
        io_quiet: seconds(own_look.io_quiet_seconds.or(shared_look.io_quiet_seconds).unwrap_or(io_quiet)),
        guest_agent: own_look.guest_agent.or(shared_look.guest_agent).unwrap_or(GuestAgentCheck::Auto),
        max_veto: seconds(
            own_look
                .max_veto_seconds
                .or(shared_look.max_veto_seconds)
                .unwrap_or(built_in::MAX_VETO_SECONDS),
        ),
        max_unhealthy,
        max_in_flight,
        storm_cooldown: storm_cooldown(&policy),
        reset_history_limit: policy.reset_history_limit.unwrap_or(built_in::RESET_HISTORY_LIMIT),
        identity: vm.identity.unwrap_or(IdentityCheck::Verify),
        problem,
    }
}

/// The budget of a HealthPolicy's fleet.
pub fn limits(spec: &HealthPolicySpec) -> Limits {
    let budget: Budget = spec.budget.clone().unwrap_or_default();
    Limits {
        max_in_flight: budget.max_in_flight.unwrap_or(built_in::MAX_IN_FLIGHT),
        max_unhealthy: budget
            .max_unhealthy
            .unwrap_or_else(|| IntOrPercent::Percent(built_in::MAX_UNHEALTHY.into())),
    }
}

fn storm_cooldown(spec: &HealthPolicySpec) -> Duration {
    let declared = spec.budget.as_ref().and_then(|b| b.storm_cooldown_seconds);
    seconds(declared.unwrap_or(built_in::STORM_COOLDOWN_SECONDS))
}

/// What is wrong with a HealthPolicy by itself: the settings of a VM that adds nothing to it.
pub fn policy_problem(name: &str, spec: &HealthPolicySpec) -> Option<PolicyProblem> {
    let bare = ManagedVMSpec::new("", 0);
    effective(&bare, Found::Policy { name, spec }).problem
}

/// The pause among these that stands now; of several, the one that stands longest.
pub fn standing_pause<'a>(pauses: impl IntoIterator<Item = &'a Pause>, now: Timestamp) -> Option<&'a Pause> {
    pauses
        .into_iter()
        .filter(|p| p.expires_at.is_none_or(|end| end > now))
        .max_by_key(|p| p.expires_at.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests;
