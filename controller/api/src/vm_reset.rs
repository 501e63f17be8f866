//! VMReset: the public record of one reset, and the way a person asks for one.

use crate::{Condition, NameRef, StepAction, Trigger};
use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One reset of one VM: the record of an automatic one, or somebody's request for one. Nothing ever runs from a VMReset alone.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "defib.dev",
    version = "v1alpha1",
    kind = "VMReset",
    plural = "vmresets",
    shortname = "vmr",
    category = "defib",
    namespaced,
    status = "VMResetStatus",
    derive = "PartialEq",
    doc = "One reset of one VM: the record of an automatic one, or a request for one.",
    validation = Rule::new("self.spec == oldSelf.spec").message("a VMReset cannot be changed; create another one"),
    printcolumn(name = "VM", type_ = "string", json_path = ".spec.vmRef.name"),
    printcolumn(name = "TRIGGER", type_ = "string", json_path = ".spec.trigger"),
    printcolumn(name = "ACTION", type_ = "string", json_path = ".status.action"),
    printcolumn(name = "STATE", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "OUTCOME", type_ = "string", json_path = ".status.outcome"),
    printcolumn(name = "ATTEMPT", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "NODE", type_ = "string", json_path = ".status.node", priority = 1),
    printcolumn(name = "REASON", type_ = "string", json_path = ".spec.reason", priority = 1),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VMResetSpec {
    /// The ManagedVM, in this namespace.
    pub vm_ref: NameRef,
    /// What is to be done.
    pub action: ResetAction,
    /// Why, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub reason: Option<String>,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub requested_by: Option<String>,
    /// Manual for a request. An Automatic one is the record of one of Defib's own resets; made by hand, it does nothing.
    pub trigger: Trigger,
    /// The request expires at this time, at most 15 minutes ahead, so that an object that comes back from a backup or from Git resets nothing.
    #[serde(deserialize_with = "crate::time::time")]
    pub not_after: Timestamp,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum ResetAction {
    /// The first step of the VM's policy that is possible.
    Auto,
    /// The guest is asked to reboot, through its QEMU guest agent, which must answer.
    GuestReboot,
    /// The reset button.
    Reset,
    /// Power off and on.
    PowerCycle,
}

impl ResetAction {
    /// The action that is asked for; none where the policy decides.
    pub fn step_action(self) -> Option<StepAction> {
        match self {
            Self::Auto => None,
            Self::GuestReboot => Some(StepAction::GuestReboot),
            Self::Reset => Some(StepAction::Reset),
            Self::PowerCycle => Some(StepAction::PowerCycle),
        }
    }
}

impl From<StepAction> for ResetAction {
    fn from(action: StepAction) -> Self {
        match action {
            StepAction::GuestReboot => Self::GuestReboot,
            StepAction::Reset => Self::Reset,
            StepAction::PowerCycle => Self::PowerCycle,
        }
    }
}

/// What became of a reset.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VMResetStatus {
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ResetState>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The same in a sentence; while it waits, what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// What was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<StepAction>,
    /// Number of the step in the VM's policy, from 1. 0: a person asked for an action that is none of its steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// Number of the attempt in its episode, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Node on which the VM was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub node: Option<String>,
    /// The task of Proxmox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub upid: Option<String>,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_time: Option<Timestamp>,
    /// When the request was sent to Proxmox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_time: Option<Timestamp>,
    /// When the task of Proxmox was seen to have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_end_time: Option<Timestamp>,
    /// When the VM was proved to be back, or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// What was seen before anything was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Boot id of the newest heartbeat before the reset.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "bootIDBefore")]
    #[schemars(length(max = 64))]
    pub boot_id_before: Option<String>,
    /// Boot id that proved the recovery.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "bootIDAfter")]
    #[schemars(length(max = 64))]
    pub boot_id_after: Option<String>,
    /// Proxmox's own words, cut to length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub answer: Option<String>,
    /// The start that the VM is owed, as Defib stopped it or had it stopped; left out when it is owed none. The finalizer `defib.dev/start-owed` keeps this object until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_owed: Option<StartOwed>,
    /// Complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A start that Defib owes a VM: all that is needed to make it, also when the ManagedVM is gone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartOwed {
    /// Since when: before the stop was sent.
    pub since: Timestamp,
    /// The ProxmoxCluster, in this namespace.
    pub cluster_ref: NameRef,
    /// Number of the VM in it.
    pub vmid: u32,
    /// Its SMBIOS UUID: another machine with that number is owed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub identity: Option<String>,
    /// How often Proxmox was asked to start it.
    pub attempts: u32,
    /// When Proxmox was last asked to start it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_time: Option<Timestamp>,
    /// What Proxmox said to that, or why it could not be asked; cut to length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub answer: Option<String>,
    /// When an event said that it is owed for over five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue_time: Option<Timestamp>,
}

/// Where a reset stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum ResetState {
    /// Asked for; something still has to let it pass.
    Pending,
    /// Decided and in the journal; the request goes to Proxmox.
    Running,
    /// The task has ended; the VM has to prove that it is back.
    Verifying,
    /// Ended, see outcome.
    Finished,
}

/// How a reset ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum Outcome {
    /// The VM reported from a new boot and stayed fresh.
    Recovered,
    /// It did not within the deadline.
    NotRecovered,
    /// Proxmox refused or failed.
    Failed,
    /// It was not run before notAfter.
    Expired,
    /// Another reset of the same VM came first.
    Superseded,
    /// Nothing was done, as the mode is Observe: with Enforce the VM would have been reset at this moment.
    WouldReset,
    /// Nobody knows whether it ran, and the VM did not report from a new boot.
    Unknown,
}

impl Outcome {
    /// The word that the API spells it with; also reason of conditions and label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recovered => "Recovered",
            Self::NotRecovered => "NotRecovered",
            Self::Failed => "Failed",
            Self::Expired => "Expired",
            Self::Superseded => "Superseded",
            Self::WouldReset => "WouldReset",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a QEMU guest agent does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum GuestAgentState {
    /// It answers: the guest lives.
    Answers,
    /// The VM has one in Proxmox, and it does not answer. It may be hung with the guest, or not installed in it.
    Silent,
    /// The VM has none in Proxmox.
    NotConfigured,
    /// Proxmox does not say, for want of a privilege perhaps.
    Unknown,
}

/// What was seen of the VM before anything was done to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Seconds of silence that Defib witnessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_seconds: Option<u32>,
    /// When the newest heartbeat was received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_received_time: Option<Timestamp>,
    /// State of the VM in QEMU, as Proxmox tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub qmp_status: Option<String>,
    /// Seconds since the QEMU process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu_uptime_seconds: Option<u64>,
    /// Seconds since Proxmox's counters last showed that the guest read, wrote or sent anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_quiet_seconds: Option<u32>,
    /// What the QEMU guest agent did when it was asked. Left out: it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_agent: Option<GuestAgentState>,
    /// State of the VM in Proxmox HA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ha_state: Option<String>,
    /// Newest usage that was reported: percent of all CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// Newest usage that was reported: percent of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<u32>,
    /// Of how many armed VMs how many were unhealthy, in all of Defib.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub fleet: Option<String>,
}
