//! ManagedVM: one virtual machine that Defib watches.

use crate::{Condition, HeartbeatSettings, NameRef, Pause, ResetPolicy, StepAction, Threshold};
use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One virtual machine of a Proxmox VE cluster that Defib watches and, when its heartbeat stops, resets.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "defib.dev",
    version = "v1alpha1",
    kind = "ManagedVM",
    plural = "managedvms",
    shortname = "mvm",
    shortname = "vm",
    shortname = "vms",
    category = "defib",
    namespaced,
    status = "ManagedVMStatus",
    derive = "PartialEq",
    doc = "A virtual machine of Proxmox VE that Defib watches, and resets when its heartbeat stops.",
    selectable = ".status.currentReset.name",
    validation = Rule::new("self.metadata.name.size() <= 63").message("the name must have at most 63 characters: the names of its VMResets are made from it"),
    printcolumn(name = "STATE", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "How the VM is, in one word"),
    printcolumn(name = "CPU", type_ = "integer", json_path = ".status.usage.cpuPercent", description = "Percent of all CPUs"),
    printcolumn(name = "MEM", type_ = "integer", json_path = ".status.usage.memoryPercent", description = "Percent of memory"),
    printcolumn(name = "DISK", type_ = "integer", json_path = ".status.usage.diskPercent", description = "Percent of the fullest disk"),
    printcolumn(name = "UP", type_ = "date", json_path = ".status.heartbeat.bootTime", description = "Time since the guest booted"),
    printcolumn(name = "LAST SEEN", type_ = "date", json_path = ".status.heartbeat.lastReceivedTime", description = "Time since the last heartbeat that was published"),
    printcolumn(name = "RESETS", type_ = "integer", json_path = ".status.resetsInWindow", description = "Automatic resets in the window of the policy"),
    printcolumn(name = "NODE", type_ = "string", json_path = ".status.node", description = "Proxmox node on which the VM is now"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "VMID", type_ = "integer", json_path = ".spec.proxmox.vmid", priority = 1),
    printcolumn(name = "POLICY", type_ = "string", json_path = ".spec.policyRef.name", priority = 1),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"ResetAllowed\")].reason", description = "First gate that keeps Defib from resetting", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct ManagedVMSpec {
    /// Which VM of which cluster. It cannot be changed: another VM is another ManagedVM. The node is discovered, as VMs migrate.
    #[x_kube(validation = Rule::new("self == oldSelf").message("which VM this is cannot be changed; delete this ManagedVM and create another one"))]
    pub proxmox: ProxmoxVmRef,
    /// The HealthPolicy that applies. Left out: the one named `default` of this namespace, if there is one. Named but missing: the VM is watched and never reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<NameRef>,
    /// Whether Defib starts the VM when Proxmox reports it stopped. Built-in: Unmanaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_state: Option<PowerState>,
    /// How it is checked that a heartbeat comes from this VM. Built-in: Verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityCheck>,
    /// Settings of the agent in the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentSettings>,
    /// How often the agent reports, and how long its silence is borne. Each field left out comes from the HealthPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatSettings>,
    /// Limits on CPU, memory and disk. Merged with the policy's by metric and action; these win.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["metric".into(), "action".into()]))]
    pub thresholds: Vec<Threshold>,
    /// When, how and how often this VM is reset when it falls silent. Each field left out comes from the HealthPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_policy: Option<ResetPolicy>,
    /// While any of these stands, this VM is not reset automatically.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["owner".into()]))]
    pub pauses: Vec<Pause>,
}

impl ManagedVMSpec {
    /// A VM that declares nothing but which one it is.
    pub fn new(cluster: impl Into<String>, vmid: u32) -> Self {
        Self {
            proxmox: ProxmoxVmRef {
                cluster_ref: NameRef { name: cluster.into() },
                vmid,
            },
            policy_ref: None,
            power_state: None,
            identity: None,
            agent: None,
            heartbeat: None,
            thresholds: Vec::new(),
            reset_policy: None,
            pauses: Vec::new(),
        }
    }
}

/// A VM by its cluster and VMID.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxmoxVmRef {
    /// The ProxmoxCluster, in this namespace.
    pub cluster_ref: NameRef,
    /// The VMID in Proxmox, such as 101.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub vmid: u32,
}

/// Whether Defib sees to it that a VM is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum PowerState {
    /// A VM that is stopped is left so. (One that a reset of Defib's stopped is started again all the same.)
    Unmanaged,
    /// A VM that has been stopped for a minute is started, where nothing speaks against it: mode Enforce, no pause or window, no lock, not managed by Proxmox HA. At most
    /// maxResets times in windowSeconds, counted apart from resets. Who wants it off pauses it or sets Unmanaged.
    Running,
}

/// How the machine behind a heartbeat is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum IdentityCheck {
    /// The SMBIOS UUID in the heartbeat must be the one that Proxmox has for this VM.
    Verify,
    /// The key alone is believed, for guests that cannot read their UUID. A guest cloned together with its key is then taken for the original.
    Trust,
}

/// Settings of the agent in the VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSettings {
    /// Counts up to rotate the key of this VM's agent; this and the previous generation are accepted. Built-in: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub key_generation: Option<u32>,
}

/// What Defib knows of a VM. Two writers: `heartbeat` and `usage` come from the publisher, all else from the decider.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ManagedVMStatus {
    /// The generation of the spec that the decider has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, HeartbeatFresh, WithinThresholds, ResetAllowed, Resetting, Adopted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Proxmox node on which the VM is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub node: Option<String>,
    /// What Proxmox says of the VM's power: running, stopped, paused, ... or unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub power: Option<String>,
    /// When Defib saw it change to that; absent where it never saw it change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_since: Option<Timestamp>,
    /// SMBIOS UUID of the VM in Proxmox, recorded at adoption. Nothing destructive is done to a VM that has another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 36))]
    pub identity: Option<String>,
    /// When Defib started it because powerState is Running, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub recent_starts: Vec<Timestamp>,
    /// Newest heartbeat that was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatStatus>,
    /// Newest usage that was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
    /// The silence that is being cured, over all its attempts. Gone when the VM has recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub episode: Option<Episode>,
    /// The journal: the one reset that is under way. Written before anything is sent to Proxmox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_reset: Option<CurrentReset>,
    /// Automatic resets, newest last. maxResets is counted from these alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub recent_resets: Vec<RecentReset>,
    /// How many of recentResets lie in the window of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_in_window: Option<u32>,
}

/// The newest heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatStatus {
    /// When Defib received it, by Defib's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_received_time: Option<Timestamp>,
    /// Id that the guest's kernel made at its boot.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "bootID")]
    #[schemars(length(max = 64))]
    pub boot_id: Option<String>,
    /// When the guest booted: received time less its uptime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_time: Option<Timestamp>,
    /// SMBIOS UUID that the guest read.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "machineUUID")]
    #[schemars(length(max = 36))]
    pub machine_uuid: Option<String>,
    /// What the agent says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<AgentState>,
    /// Whether a service manager keeps the agent running. One started by hand is shown and never arms the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervised: Option<bool>,
    /// Seconds after which the agent was told to report again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report_seconds: Option<u32>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
}

/// What an agent says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum AgentState {
    /// The next report follows in reportSeconds.
    Running,
    /// The agent stops in good order: its silence means nothing until it reports again.
    Stopping,
}

/// How much of the VM is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageStatus {
    /// Percent of all CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// Percent of memory that is not available to programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_percent: Option<u32>,
    /// Memory of the guest in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_total_bytes: Option<u64>,
    /// Percent of the fullest disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_percent: Option<u32>,
    /// The fullest disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub disks: Vec<DiskUsage>,
}

/// One disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskUsage {
    /// Mount point or drive letter, cut to length.
    #[schemars(length(max = 64))]
    pub mount: String,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Size in bytes.
    pub total_bytes: u64,
}

/// One silence and all attempts to end it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Episode {
    /// Part of the names of its VMResets.
    #[schemars(length(max = 16))]
    pub id: String,
    /// When its first attempt was decided.
    pub start_time: Timestamp,
    /// Number of the newest attempt that counted, over all steps; those of a step that was passed over are counted too. 0: it was only observed.
    pub attempts: u32,
    /// When its newest attempt ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end_time: Option<Timestamp>,
}

/// The journal of the reset that is under way: all that another process needs to carry it to its end.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CurrentReset {
    /// Name of the VMReset.
    #[schemars(length(max = 253))]
    pub name: String,
    /// UID of the VMReset of a manual reset: one of the same name that was created anew is another request.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "requestUID")]
    #[schemars(length(max = 64))]
    pub request_uid: Option<String>,
    /// The process that carries it out.
    #[schemars(length(max = 253))]
    pub holder: String,
    /// Who wanted it.
    pub trigger: Trigger,
    /// What is done.
    pub action: StepAction,
    /// Number of the step in the VM's policy, from 1. 0: a person asked for an action that is none of its steps.
    pub step: u32,
    /// Number of the attempt in this episode, from 1.
    pub attempt: u32,
    /// How long the VM may take to report from a new boot, counted from the end of the task.
    pub recovery_deadline_seconds: u32,
    /// How long it must then stay fresh.
    pub stabilization_seconds: u32,
    /// When it was decided. Nothing is sent that was decided over 10 s ago.
    pub intent_time: Timestamp,
    /// Node on which the VM was.
    #[schemars(length(max = 63))]
    pub node: String,
    /// Boot id of the newest heartbeat before. Recovery is proved by another one.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "bootIDBefore")]
    #[schemars(length(max = 64))]
    pub boot_id_before: Option<String>,
    /// When the request was sent to Proxmox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_time: Option<Timestamp>,
    /// The task of Proxmox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub upid: Option<String>,
    /// When the task was seen to have ended, or its search was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_end_time: Option<Timestamp>,
    /// What became of the request to Proxmox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_result: Option<TaskResult>,
    /// Proxmox's own words, cut to length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub answer: Option<String>,
}

/// Who wanted a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum Trigger {
    /// A person or a tool, by a VMReset.
    Manual,
    /// Defib, after witnessed silence.
    Automatic,
}

/// What became of the request to Proxmox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum TaskResult {
    /// The task ended well, which proves nothing about the guest yet.
    OK,
    /// The task failed.
    Failed,
    /// Nobody knows whether it ran. It is never repeated blindly.
    Unknown,
    /// QEMU did not answer, and may still do it when it goes on. The next attempt is of the next step.
    Unresponsive,
}

/// One automatic reset, for the count of maxResets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecentReset {
    /// Name of the VMReset.
    #[schemars(length(max = 253))]
    pub name: String,
    /// When it was decided.
    pub time: Timestamp,
}
