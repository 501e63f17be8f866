//! Whether a VM is armed, and whether it is silent (rules 1 and 2).

use crate::heartbeat::{Heartbeat, same_machine};
use crate::policy::Effective;
use crate::time::{Mono, Now};
use defib_api::{AgentState, IdentityCheck, ManagedVMStatus, Metric, Threshold, ThresholdAction};
use std::time::Duration;
use uuid::Uuid;

/// What is known of one VM's heartbeat, from memory and from what was published before this process started.
#[derive(Clone, Copy, Debug)]
pub struct Vital<'a> {
    /// What applies to the VM.
    pub effective: &'a Effective,
    /// Published status.
    pub status: Option<&'a ManagedVMStatus>,
    /// The ledger's entry.
    pub heartbeat: &'a Heartbeat,
    /// Since when silence of this VM has been witnessed: the observer's start, or the end of its last hold.
    pub since: Mono,
    /// Since when the observer has been able to hear heartbeats, whatever hold stood.
    pub listening: Mono,
}

/// So many of the periods that the agent was told must be missed, whatever the time-out says: the same number that a policy is held to.
const MISSED: u32 = 4;

impl Vital<'_> {
    /// The longest silence that is borne: the time-out, or longer where the agent was told a longer period before the policy changed.
    pub fn patience(&self) -> Duration {
        let published = self.status.and_then(|s| s.heartbeat.as_ref()).and_then(|h| h.report_seconds);
        let promised = self.heartbeat.promised_seconds.or(published).unwrap_or(0);
        self.effective.timeout.max(crate::time::seconds(promised.saturating_mul(MISSED)))
    }

    /// Whether reports are missing already, long before the time-out. A living agent is late by a tenth of its period at most; two that are missing in a row
    /// make 2.2 periods. A time-out is at least four: so when the first VM of a shared outage is due, all others (heard at most 1.1 periods later) are late,
    /// and the budget sees the outage as a whole instead of its first victim.
    pub fn late(&self, now: Now) -> bool {
        let published = self.status.and_then(|s| s.heartbeat.as_ref());
        let quiet = match (self.heartbeat.last_life, published.and_then(|h| h.last_received_time)) {
            (Some(heard), Some(stored)) => now.mono.since(heard).min(now.age(stored)),
            (Some(heard), None) => now.mono.since(heard),
            (None, Some(stored)) => now.age(stored),
            (None, None) => return true,
        };
        quiet > self.late_after()
    }

    /// After so long without a report, a VM is late.
    pub fn late_after(&self) -> Duration {
        let published = self.status.and_then(|s| s.heartbeat.as_ref());
        let promised = self
            .heartbeat
            .promised_seconds
            .or(published.and_then(|h| h.report_seconds))
            .unwrap_or(0);
        let period = self.effective.report.max(crate::time::seconds(promised));
        period.saturating_mul(5) / 2
    }

    /// When the VM was heard of last, by the wall clock.
    pub fn heard(&self, now: Now) -> Option<jiff::Timestamp> {
        let published = self.status.and_then(|s| s.heartbeat.as_ref()).and_then(|h| h.last_received_time);
        published.max(self.heartbeat.last_life.map(|at| now.wall_of(at)))
    }
}

/// How a VM is, judged by its heartbeat alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Its silence means nothing.
    Unarmed(Unarmed),
    /// Heard of within the time-out, or not yet watched for that long.
    Fresh {
        /// When it will count as silent.
        due: Mono,
        /// A heartbeat came within the time-out, as opposed to: we have only just begun to listen.
        heard: bool,
    },
    /// Over the time-out, but the guest booted a moment ago.
    Grace {
        /// When it will count as silent.
        due: Mono,
    },
    /// Armed, and silent for longer than it may.
    Silent {
        /// Since when the silence was witnessed.
        since: Mono,
        /// When it became longer than is borne.
        due: Mono,
    },
}

/// Why silence means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unarmed {
    /// No heartbeat was ever received.
    NeverReported,
    /// Heartbeats come, but Proxmox has not told yet which machine this is.
    IdentityUnknown,
    /// Heartbeats come without an SMBIOS UUID.
    NoMachineUuid,
    /// Heartbeats come from another machine.
    WrongMachine(Uuid),
    /// The agent was started by hand.
    Unsupervised,
    /// The agent stopped in good order.
    Stopping,
}

impl Unarmed {
    /// Reason of conditions.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NeverReported => "NeverReported",
            Self::IdentityUnknown => "IdentityUnknown",
            Self::NoMachineUuid => "NoMachineUUID",
            Self::WrongMachine(_) => "WrongMachine",
            Self::Unsupervised => "Unsupervised",
            Self::Stopping => "Stopping",
        }
    }

    /// What it means and what would change it.
    pub fn message(self) -> String {
        match self {
            Self::NeverReported => "no heartbeat of this machine was ever received; install the agent in the VM".into(),
            Self::IdentityUnknown => "heartbeats come, but Proxmox has not told the SMBIOS UUID of this VM yet".into(),
            Self::NoMachineUuid => "heartbeats come without an SMBIOS UUID, so nothing proves which machine sends them; if the guest cannot read it, set spec.identity to Trust".into(),
            Self::WrongMachine(uuid) => format!("heartbeats come from machine {uuid}, which is not the one that Proxmox has under this VMID; was the guest cloned with its key?"),
            Self::Unsupervised => "the agent was started by hand; install it as a service to arm this VM".into(),
            Self::Stopping => "the agent said goodbye in good order; the next heartbeat arms the VM again".into(),
        }
    }
}

/// Judges a VM's heartbeat.
pub fn life(v: &Vital<'_>, now: Now) -> Life {
    if let Some(why) = unarmed(v) {
        return Life::Unarmed(why);
    }
    let published = v.status.and_then(|s| s.heartbeat.as_ref());
    let published = published.and_then(|h| h.last_received_time);
    let newest = v.heartbeat.last_life.max(published.map(|t| now.mono_of(t)));
    let last = newest.unwrap_or_default().max(v.since);
    let timed_out = last.plus(v.patience());
    let due = timed_out.max(grace_end(v, now).unwrap_or_default());
    if now.mono < timed_out {
        // What was published is judged by the wall clock: on the monotonic one, nothing is older than the process.
        let heard = v.heartbeat.last_life.is_some_and(|at| now.mono.since(at) < v.patience())
            || published.is_some_and(|t| now.age(t) < v.patience());
        Life::Fresh { due, heard }
    } else if now.mono < due {
        Life::Grace { due }
    } else {
        Life::Silent { since: last, due }
    }
}

/// The threshold with action Reset that is exceeded, by a VM that is heard of. Its duration counts only while we could hear all reports, as silence does: one that
/// was lost might have ended it.
pub fn over<'a>(v: &Vital<'a>, life: Life, now: Now) -> Option<&'a Threshold> {
    if !matches!(life, Life::Fresh { heard: true, .. }) || v.late(now) {
        return None;
    }
    let exceeded = |(threshold, at): &&(Threshold, Mono)| {
        threshold.action == ThresholdAction::Reset
            && threshold.metric != Metric::Disk
            && v.effective.thresholds.contains(threshold)
            && now.mono.since((*at).max(v.since)) >= crate::time::seconds(threshold.duration_seconds)
    };
    v.heartbeat.over_since.iter().find(exceeded).map(|(threshold, _)| threshold)
}

/// Whether the present boot is still in its start-up grace, and for how long.
pub fn in_grace(v: &Vital<'_>, now: Now) -> Option<Duration> {
    grace_end(v, now).map(|end| end.since(now.mono)).filter(|left| !left.is_zero())
}

fn unarmed(v: &Vital<'_>) -> Option<Unarmed> {
    let published = v.status.and_then(|s| s.heartbeat.as_ref());
    let (machine, state, supervised) = if let Some((_, report)) = &v.heartbeat.report {
        (report.machine_uuid, Some(report.state), report.supervised)
    } else if let Some(h) = published.filter(|h| h.boot_id.is_some()) {
        (
            h.machine_uuid.as_deref().and_then(|t| t.parse().ok()),
            h.state,
            h.supervised.unwrap_or(false),
        )
    } else {
        return Some(match v.heartbeat.wrong_machine {
            Some((_, uuid)) => Unarmed::WrongMachine(uuid),
            None => Unarmed::NeverReported,
        });
    };
    if v.effective.identity == IdentityCheck::Verify {
        match (identity(v.status), machine) {
            (None, _) => return Some(Unarmed::IdentityUnknown),
            (_, None) => return Some(Unarmed::NoMachineUuid),
            (Some(expected), Some(got)) if !same_machine(expected, got) => return Some(Unarmed::WrongMachine(got)),
            _ => {}
        }
    }
    if !supervised {
        return Some(Unarmed::Unsupervised);
    }
    (state == Some(AgentState::Stopping)).then_some(Unarmed::Stopping)
}

/// The SMBIOS UUID recorded at adoption.
pub fn identity(status: Option<&ManagedVMStatus>) -> Option<Uuid> {
    status.and_then(|s| s.identity.as_deref()).and_then(|t| t.parse().ok())
}

/// When the start-up grace of the present boot ends; none when it has ended long ago.
fn grace_end(v: &Vital<'_>, now: Now) -> Option<Mono> {
    if let Some((received, report)) = &v.heartbeat.report {
        let uptime = Duration::try_from_secs_f64(report.uptime_seconds).unwrap_or(Duration::MAX);
        return v.effective.startup_grace.checked_sub(uptime).map(|left| received.plus(left));
    }
    let boot = v.status?.heartbeat.as_ref()?.boot_time?;
    v.effective.startup_grace.checked_sub(now.age(boot)).map(|left| now.mono.plus(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Found, effective};
    use defib_api::{HeartbeatStatus, ManagedVMSpec};

    #[test]
    fn a_faster_policy_does_not_make_an_agent_late_that_was_told_a_slower_period() {
        let spec = ManagedVMSpec {
            heartbeat: Some(defib_api::HeartbeatSettings {
                report_seconds: Some(1),
                timeout_seconds: Some(8),
                startup_grace_seconds: None,
            }),
            ..ManagedVMSpec::new("pve", 101)
        };
        let effective = effective(&spec, Found::None);
        let told = |memory: Option<u32>, published: Option<u32>| {
            let heartbeat = Heartbeat {
                promised_seconds: memory,
                ..Heartbeat::default()
            };
            let status = ManagedVMStatus {
                heartbeat: Some(HeartbeatStatus {
                    report_seconds: published,
                    ..HeartbeatStatus::default()
                }),
                ..ManagedVMStatus::default()
            };
            let vital = Vital {
                effective: &effective,
                status: Some(&status),
                heartbeat: &heartbeat,
                since: Mono(0),
                listening: Mono(0),
            };
            vital.patience().as_secs()
        };
        assert_eq!(told(Some(1), None), 8, "it has been told the new period");
        assert_eq!(told(Some(30), None), 120, "it was told 30 s before the policy changed");
        assert_eq!(told(None, Some(30)), 120, "by the process before this one");
        assert_eq!(told(Some(1), Some(30)), 8, "memory is newer than what was published");
    }
}
