//! HealthPolicy: the settings that many VMs share.

use crate::{Condition, HeartbeatSettings, Pause, ResetPolicy, Threshold};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The settings that many VMs share. A ManagedVM that names no policy uses the one named `default` of its namespace, if there is one.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "defib.dev",
    version = "v1alpha1",
    kind = "HealthPolicy",
    plural = "healthpolicies",
    shortname = "hp",
    category = "defib",
    namespaced,
    status = "HealthPolicyStatus",
    derive = "PartialEq",
    doc = "Thresholds, heartbeat settings, reset policy and budget that many ManagedVMs share.",
    printcolumn(
        name = "MODE",
        type_ = "string",
        json_path = ".spec.resetPolicy.mode",
        description = "Enforce or Observe"
    ),
    printcolumn(
        name = "TIMEOUT",
        type_ = "integer",
        json_path = ".spec.heartbeat.timeoutSeconds",
        description = "Seconds of silence before a reset"
    ),
    printcolumn(
        name = "VMS",
        type_ = "integer",
        json_path = ".status.managedVMs",
        description = "ManagedVMs that use this policy"
    ),
    printcolumn(
        name = "HEALTHY",
        type_ = "integer",
        json_path = ".status.healthyVMs",
        description = "Of these, how many are healthy"
    ),
    printcolumn(
        name = "IN FLIGHT",
        type_ = "integer",
        json_path = ".status.inFlight",
        description = "Resets under way"
    ),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the policy is valid"
    ),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HealthPolicySpec {
    /// How often agents report, and how long their silence is borne.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatSettings>,
    /// Limits on CPU, memory and disk. Merged with the VM's by metric and action; the VM's win.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 6))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["metric".into(), "action".into()]))]
    pub thresholds: Vec<Threshold>,
    /// When, how and how often a silent VM is reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_policy: Option<ResetPolicy>,
    /// While any of these stands, no VM of this policy is reset automatically.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["owner".into()]))]
    pub pauses: Vec<Pause>,
    /// Times that come again and again, in which no VM of this policy is reset automatically: somebody works on them then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub maintenance_windows: Vec<MaintenanceWindow>,
    /// How much of the policy's fleet may be down or in reset before Defib holds still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How many ended VMResets are kept for each VM; older ones are deleted. Built-in: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub reset_history_limit: Option<u32>,
}

/// A time that comes again and again. Overlapping windows are one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceWindow {
    /// When it begins, as in cron: minute, hour, day of month, month, day of week, such as `30 2 * * SUN`.
    #[schemars(length(min = 9, max = 128))]
    pub schedule: String,
    /// How long it lasts.
    #[schemars(range(min = 5, max = 604800))]
    pub duration_seconds: u32,
    /// Time zone of the schedule, such as `Europe/Berlin`. Built-in: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
}

/// How much of a fleet may be down at once before Defib stops resetting: many silent VMs mean a shared cause, which a reset does not cure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// A count, or percent of the armed VMs (rounded up, never below 1). With more VMs unhealthy than this, none is reset. Built-in: 20%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 && self <= 100000 : self.matches('^(100|[1-9][0-9]?)%$')").message("must be a count from 1 on or a percentage from 1% to 100%"))]
    pub max_unhealthy: Option<IntOrPercent>,
    /// Most resets under way at once, verification included. Built-in: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_in_flight: Option<u32>,
    /// How long nothing is reset after a storm, which is when three VMs or a tenth of the policy, of its ProxmoxCluster, of a node or of all fell silent within
    /// one time-out; then all silence is counted anew. Built-in: 180.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub storm_cooldown_seconds: Option<u32>,
}

/// A count (`3`) or a percentage (`"20%"`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum IntOrPercent {
    /// So many.
    Count(u32),
    /// `"N%"` of the population.
    Percent(String),
}

impl IntOrPercent {
    /// How many of `population` this allows: percent is rounded up and never below 1, so that one VM of a small fleet can always be helped.
    /// `None` when the text is not a percentage from 1% to 100%.
    pub fn of(&self, population: u32) -> Option<u32> {
        match self {
            Self::Count(n) => Some(*n),
            Self::Percent(text) => {
                let percent: u64 = text.strip_suffix('%')?.parse().ok().filter(|p| (1..=100).contains(p))?;
                let allowed = (u64::from(population) * percent).div_ceil(100).max(1);
                u32::try_from(allowed).ok()
            }
        }
    }
}

impl JsonSchema for IntOrPercent {
    fn schema_name() -> Cow<'static, str> {
        "IntOrPercent".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

/// What Defib says of a policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthPolicyStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// ManagedVMs that use this policy.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "managedVMs")]
    pub managed_vms: Option<u32>,
    /// Of these, how many are armed and healthy.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "healthyVMs")]
    pub healthy_vms: Option<u32>,
    /// Resets under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// How many more resets the budget allows at this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_allowed: Option<u32>,
    /// Ready, ResetAllowed, StormActive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
