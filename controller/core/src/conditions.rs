//! Conditions: what is said of an object, kept as Kubernetes keeps it.

use defib_api::Condition;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The six conditions of a ManagedVM, and those of the other kinds.
pub mod kind {
    /// Summary.
    pub const READY: &str = "Ready";
    /// Whether heartbeats come.
    pub const HEARTBEAT_FRESH: &str = "HeartbeatFresh";
    /// Whether usage stays within the thresholds.
    pub const WITHIN_THRESHOLDS: &str = "WithinThresholds";
    /// Whether Defib could reset; the reason is the first gate that blocks.
    pub const RESET_ALLOWED: &str = "ResetAllowed";
    /// Whether a reset is under way.
    pub const RESETTING: &str = "Resetting";
    /// Whether Proxmox knows the VM, with an unchanged identity.
    pub const ADOPTED: &str = "Adopted";
    /// Of a HealthPolicy: whether many of its VMs fell silent together.
    pub const STORM_ACTIVE: &str = "StormActive";
    /// Of a VMReset: whether it has ended.
    pub const COMPLETE: &str = "Complete";
    /// Of a ProxmoxCluster: whether its certificate is checked.
    pub const CERTIFICATE_VERIFIED: &str = "CertificateVerified";
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// True.
    True,
    /// False.
    False,
    /// Unknown.
    Unknown,
}

impl Is {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// A condition before it has a time. Messages carry no ages: a message that changes with the clock would be a write with every look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Which condition.
    pub type_: &'static str,
    /// Its status.
    pub is: Is,
    /// One word of constant spelling.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl Draft {
    /// A condition.
    pub fn new(type_: &'static str, is: Is, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            type_,
            is,
            reason,
            message: message.into(),
        }
    }
}

/// The whole list to be written: the times of unchanged statuses stay. A merge patch replaces lists, so the list is always written whole.
pub fn merge(old: &[Condition], drafts: &[Draft], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    drafts
        .iter()
        .map(|d| {
            let known = old.iter().find(|c| c.type_ == d.type_);
            let last_transition_time = match known {
                Some(c) if c.status == d.is.as_str() => c.last_transition_time.clone(),
                // The API keeps whole seconds.
                _ => Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
            };
            Condition {
                type_: d.type_.into(),
                status: d.is.as_str().into(),
                reason: d.reason.into(),
                message: d.message.clone(),
                observed_generation: generation,
                last_transition_time,
            }
        })
        .collect()
}

/// Finds a condition.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}
