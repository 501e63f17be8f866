//! The VMs of a soak, and the policies that they are watched by.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use xtask::lab::{FleetVm, NAMESPACE};

/// Why a VM is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Its guest hangs and crashes now and then, and a reset heals it.
    Ordinary,
    /// Once it hangs, no reset heals it.
    Doomed,
    /// It hangs, and is paused: it must not be reset.
    Paused,
    /// It hangs, and its agent was started by hand: it is not armed.
    Unsupervised,
    /// It hangs, and nothing in it ever reported: it is not armed.
    Agentless,
    /// It hangs, and its agent has read the UUID of another machine: it is not armed.
    WrongMachine,
}

impl Role {
    /// Whether Defib may reset it at all.
    pub fn may_be_reset(self) -> bool {
        matches!(self, Self::Ordinary | Self::Doomed)
    }
}

/// What a policy allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Period of the reports in seconds.
    pub report: u32,
    /// Longest silence that is borne, in seconds.
    pub timeout: u32,
    /// Attempts in one episode.
    pub attempts: u32,
    /// Automatic resets in the window.
    pub max_resets: u32,
    /// The window in seconds.
    pub window: u32,
    /// Resets under way among its VMs.
    pub max_in_flight: u32,
    /// Share of its VMs that may be unhealthy, in percent.
    pub max_unhealthy: u32,
}

/// Most resets under way in all of Defib.
pub const MAX_IN_FLIGHT: u32 = 24;
/// Most unhealthy VMs in all of Defib, in percent. A node that loses its power takes a third of them with it.
pub const MAX_UNHEALTHY: u32 = 20;

/// Policy of the VMs that most happens to. Its time-out fits between the start of a controller and its end 20 s later, after which silence is counted anew
/// (rule 1): four periods of 2 s, the fewest that a policy may have.
pub const FAST: &str = "fast";
/// Policy of the rest: the period of real life. Its VMs are reset only in the part of a run without kills.
pub const SLOW: &str = "slow";

/// The limits of both policies.
pub fn limits() -> BTreeMap<String, Limits> {
    let fast = Limits {
        report: 2,
        timeout: 8,
        attempts: 2,
        max_resets: 5,
        window: 600,
        max_in_flight: 16,
        max_unhealthy: 50,
    };
    let slow = Limits {
        report: 30,
        timeout: 120,
        max_in_flight: 8,
        max_unhealthy: 20,
        ..fast
    };
    [(FAST.to_owned(), fast), (SLOW.to_owned(), slow)].into()
}

/// The policies as manifests.
pub fn policies() -> String {
    let object = |(name, limits): (String, Limits)| {
        json!({
            "apiVersion": "defib.dev/v1alpha1", "kind": "HealthPolicy",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": {
                "heartbeat": { "reportSeconds": limits.report, "timeoutSeconds": limits.timeout, "startupGraceSeconds": 5 },
                "resetPolicy": {
                    "mode": "Enforce",
                    // A guest boots in a second and reports a second later.
                    "steps": [{ "action": "Reset", "maxAttempts": limits.attempts, "recoveryDeadlineSeconds": 10 }],
                    "maxResets": limits.max_resets, "windowSeconds": limits.window, "stabilizationSeconds": 2,
                },
                "budget": { "maxUnhealthy": format!("{}%", limits.max_unhealthy), "maxInFlight": limits.max_in_flight, "stormCooldownSeconds": 10 },
                // All that a run makes are kept: they are evidence.
                "resetHistoryLimit": 100,
            },
        })
        .to_string()
    };
    limits().into_iter().map(object).collect::<Vec<_>>().join("\n---\n")
}

/// One VM.
#[derive(Clone, Debug)]
pub struct Vm {
    /// As the lab takes it.
    pub lab: FleetVm,
    /// Why it is there.
    pub role: Role,
    /// Its policy.
    pub policy: &'static str,
}

/// So many VMs: a fifth with the fast policy, and of those some of each role.
pub fn fleet(count: u32) -> Vec<Vm> {
    let fast = (count / 5).max(20).min(count);
    // Enough of each to be hit, few enough that their silence is no outage.
    let few = (fast / 20).max(1);
    swarm::lab::fleet(count)
        .into_iter()
        .zip(0u32..)
        .map(|(vm, index)| {
            let role = match index / few {
                0 => Role::Doomed,
                1 => Role::Paused,
                2 => Role::Unsupervised,
                3 => Role::Agentless,
                4 => Role::WrongMachine,
                _ => Role::Ordinary,
            };
            let policy = if index < fast { FAST } else { SLOW };
            with_role(vm, role, policy)
        })
        .collect()
}

fn with_role(mut vm: FleetVm, role: Role, policy: &'static str) -> Vm {
    let mut spec: Value = json!({ "policyRef": { "name": policy } });
    if role == Role::Paused {
        spec["pauses"] = json!([{ "owner": "soak", "reason": "must not be reset" }]);
    }
    vm.spec = spec;
    if vm.vmid.is_multiple_of(2) {
        // It answers while the guest lives, and takes 3 s to be found silent when it hangs.
        vm.guest["guestAgent"] = "running".into();
    }
    vm.supervised = role != Role::Unsupervised;
    Vm { lab: vm, role, policy }
}

/// Most VMs that are down at the same time by hangs and crashes: a fifth of those with the fast policy, of which half may be unhealthy.
pub fn most_down(vms: usize) -> usize {
    vms / 25
}

/// How long a VM of the fast policy takes from its hang to being healthy again, at best: time-out, reset, boot, stabilization and a report after it.
pub const FAST_RECOVERY: Duration = Duration::from_secs(18);
