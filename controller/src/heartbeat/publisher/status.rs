//! A report as it stands in `status.heartbeat` and `status.usage`.

use defib_api::{DiskUsage, HeartbeatStatus, Metric, UsageStatus};
use defib_core::heartbeat::{Disk, Report};
use defib_core::time::to_millis;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::time::Duration;

/// Disks that are published. A ManagedVM must stay below 8 KiB with all of its status.
const MAX_DISKS: usize = 16;
/// Characters of a mount point that are published; schema and size of the object rest on it.
const MOUNT: usize = 64;
/// A boot time within this of the stored one is the same. A report takes up to a second on its way, and agents round their uptime.
const SAME_BOOT_TIME: Duration = Duration::from_secs(2);

/// `status.heartbeat` of a report.
pub(in crate::heartbeat) fn heartbeat(
    report: &Report,
    received: Timestamp,
    boot_time: Option<Timestamp>,
    told_seconds: u32,
) -> HeartbeatStatus {
    HeartbeatStatus {
        last_received_time: Some(received),
        boot_id: Some(report.boot_id.to_string()),
        boot_time,
        machine_uuid: report.machine_uuid.map(|uuid| uuid.to_string()),
        state: Some(report.state),
        supervised: Some(report.supervised),
        report_seconds: Some(told_seconds),
        agent_version: report.agent_version.as_deref().map(str::to_owned),
    }
}

/// `status.usage` of a report, in whole percent.
pub(in crate::heartbeat) fn usage(report: &Report) -> UsageStatus {
    let percent = |metric| report.percent(metric).map(|p| p.round().clamp(0.0, 100.0) as u32);
    UsageStatus {
        cpu_percent: percent(Metric::CPU),
        memory_percent: percent(Metric::Memory),
        memory_total_bytes: Some(report.memory_total_bytes),
        disk_percent: percent(Metric::Disk),
        disks: fullest(&report.disks),
    }
}

/// The merge patch of both. A merge patch leaves what it does not name, so what is absent is written as null.
pub(in crate::heartbeat) fn merge_patch(heartbeat: &HeartbeatStatus, usage: &UsageStatus) -> Value {
    json!({"status": {
        "heartbeat": {
            "lastReceivedTime": heartbeat.last_received_time,
            "bootID": heartbeat.boot_id,
            "bootTime": heartbeat.boot_time,
            "machineUUID": heartbeat.machine_uuid,
            "state": heartbeat.state,
            "supervised": heartbeat.supervised,
            "reportSeconds": heartbeat.report_seconds,
            "agentVersion": heartbeat.agent_version,
        },
        "usage": {
            "cpuPercent": usage.cpu_percent,
            "memoryPercent": usage.memory_percent,
            "memoryTotalBytes": usage.memory_total_bytes,
            "diskPercent": usage.disk_percent,
            "disks": usage.disks,
        },
    }})
}

/// When the guest booted: received time less its uptime.
pub(in crate::heartbeat) fn boot_time(report: &Report, received: Timestamp) -> Option<Timestamp> {
    let uptime = SignedDuration::try_from_secs_f64(report.uptime_seconds).ok()?;
    received.checked_sub(uptime).ok().map(to_millis)
}

/// The stored boot time where the computed one is near enough, else the computed one.
pub(in crate::heartbeat) fn steady_boot_time(stored: Option<Timestamp>, computed: Option<Timestamp>) -> Option<Timestamp> {
    let near = |stored: &Timestamp| computed.is_some_and(|computed| stored.duration_since(computed).unsigned_abs() < SAME_BOOT_TIME);
    stored.filter(near).or(computed)
}

fn fullest(disks: &[Disk]) -> Vec<DiskUsage> {
    let share = |d: &Disk| {
        if d.total_bytes == 0 {
            0.0
        } else {
            d.used_bytes as f64 / d.total_bytes as f64
        }
    };
    let mut sorted: Vec<&Disk> = disks.iter().collect();
    // By name where they are equally full, so that the list does not change its order for nothing.
    sorted.sort_by(|a, b| share(b).total_cmp(&share(a)).then_with(|| a.mount.cmp(&b.mount)));
    sorted
        .into_iter()
        .take(MAX_DISKS)
        .map(|d| DiskUsage {
            mount: d.mount.chars().take(MOUNT).collect(),
            used_bytes: d.used_bytes,
            total_bytes: d.total_bytes,
        })
        .collect()
}
