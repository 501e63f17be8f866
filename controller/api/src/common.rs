//! Fields that more than one kind has.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reference to another object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameRef {
    /// Name of the object, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How often the agent reports, and how long its silence is borne.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.timeoutSeconds) || !has(self.reportSeconds) || self.timeoutSeconds >= 4 * self.reportSeconds").message("timeoutSeconds must be at least 4 times reportSeconds, so that a lost report or two is not taken for silence")
)]
pub struct HeartbeatSettings {
    /// Seconds between two reports of the agent. The answer to each report tells the agent this number. Built-in: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub report_seconds: Option<u32>,
    /// A VM whose last heartbeat is older than this, while Defib was watching all the time, is silent. At least 4 times reportSeconds. Built-in: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4, max = 86400))]
    pub timeout_seconds: Option<u32>,
    /// How long after a boot a VM may be quiet before its silence counts, for guests that reboot again while they update themselves. Built-in: 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub startup_grace_seconds: Option<u32>,
}

/// What a threshold looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum Metric {
    /// Busy share of all CPUs, in percent.
    CPU,
    /// Memory that is not available to programs, in percent of the whole.
    Memory,
    /// The fullest disk, in percent of its size.
    Disk,
}

/// What follows when a threshold is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum ThresholdAction {
    /// The condition WithinThresholds becomes False, with an event.
    Alert,
    /// The same, and the VM is reset, through the same gates as a silent one and counted like one. Not for Disk. High usage is seldom cured by a reset: choose a long durationSeconds.
    Reset,
}

/// A limit on one metric.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.action != 'Reset' || self.metric != 'Disk'").message("a reset does not empty a disk: action Reset is for CPU and Memory")
)]
pub struct Threshold {
    /// What is measured.
    pub metric: Metric,
    /// What follows.
    pub action: ThresholdAction,
    /// The metric must stay at or below this many percent. Once it was exceeded for durationSeconds, it must fall 5 points below it (half of it, where that is less) to be well again.
    #[schemars(range(min = 1, max = 100))]
    pub percent: u32,
    /// Exceeded for this long before anything follows.
    #[schemars(range(min = 1, max = 86400))]
    pub duration_seconds: u32,
}

/// Whether Defib may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum Mode {
    /// A silent VM is reset when every gate lets it pass.
    Enforce,
    /// Watched and shown, never reset by Defib on its own. When every gate would let a reset pass, a VMReset with the outcome WouldReset says so, once for each silence.
    Observe,
}

/// What is done to a VM in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum StepAction {
    /// The guest is asked to reboot, through its QEMU guest agent. Passed over where that does not answer.
    GuestReboot,
    /// The reset button: the guest starts anew inside the same QEMU process. Passed over where `reboot: 0` in Proxmox would make it a stop.
    Reset,
    /// Power off and on: QEMU's process ends, and another one starts. For what a reset does not cure, such as a QEMU that hangs itself.
    PowerCycle,
}

impl StepAction {
    /// The word that the API spells it with.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GuestReboot => "GuestReboot",
            Self::Reset => "Reset",
            Self::PowerCycle => "PowerCycle",
        }
    }

    /// Whether it ends QEMU's process: the VM is owed a start from before the request leaves until it runs again.
    pub fn owes_start(self) -> bool {
        !matches!(self, Self::Reset)
    }
}

/// One rung of the ladder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// What is done to the VM.
    pub action: StepAction,
    /// How often this step is tried in one episode before the next one.
    #[schemars(range(min = 1, max = 10))]
    pub max_attempts: u32,
    /// How long the VM may take to report from a new boot before the attempt counts as not recovered.
    #[schemars(range(min = 5, max = 86400))]
    pub recovery_deadline_seconds: u32,
}

/// When, how and how often a silent VM is reset. Each field that is left out comes from the HealthPolicy, then from the built-in value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResetPolicy {
    /// Whether Defib may reset. Where neither the VM nor its policy says: Observe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What is tried, in this order, until the VM reports from a new boot. Taken as a whole, never merged. Built-in: Reset, 2 attempts, then PowerCycle, 1 attempt, 600 s each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub steps: Option<Vec<Step>>,
    /// Most automatic resets of this VM in windowSeconds, across recoveries and restarts of Defib. Built-in: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub max_resets: Option<u32>,
    /// The sliding window of maxResets. Built-in: 86400, a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 2592000))]
    pub window_seconds: Option<u32>,
    /// Heartbeats of the new boot must keep coming for this long before the VM counts as recovered; failing earlier is the same episode. Built-in: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub stabilization_seconds: Option<u32>,
    /// Resets before this time no longer count towards maxResets (how a person lifts an exhausted VM), nor boots before it towards a boot loop.
    #[serde(default, deserialize_with = "crate::time::optional", skip_serializing_if = "Option::is_none")]
    pub forgive_before: Option<Timestamp>,
    /// What is looked at, beside silence, before a silent VM is reset. Each field merges by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corroborate: Option<Corroborate>,
}

/// What is looked at, beside silence, before a silent VM is reset: only Defib's agent may have died in a guest that works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Corroborate {
    /// A silent VM whose guest has read from disk, written to disk or sent to the network within so many seconds, as Proxmox counts it, is not reset yet.
    /// Built-in: 120, or half of timeoutSeconds where that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub io_quiet_seconds: Option<u32>,
    /// Whether the QEMU guest agent is asked, where the VM has one in Proxmox. One that answers proves that the guest lives. Built-in: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_agent: Option<GuestAgentCheck>,
    /// Longest that the guest's I/O, or reports with a wrong key, hold a reset back: a guest that swaps itself to death does not stop reading. 0: not at all. Built-in: 900.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 86400))]
    pub max_veto_seconds: Option<u32>,
}

/// Whether the QEMU guest agent is asked before a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum GuestAgentCheck {
    /// Where Proxmox has one for the VM. While it answers, the VM is not reset. Needs the privilege VM.GuestAgent.Audit (VM.Monitor in Proxmox VE 8).
    Auto,
    /// Never.
    Ignore,
}

/// Somebody's wish that nothing is reset for now. Several may stand side by side; each is lifted by its owner or by its expiry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Who asked for it: a team, a tool, a person.
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
    /// Why, for whoever wonders at night.
    #[schemars(length(min = 1, max = 256))]
    pub reason: String,
    /// When it ends by itself. Left out: when it is removed.
    #[serde(default, deserialize_with = "crate::time::optional", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}
