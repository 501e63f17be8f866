//! Plain values: times, machines, reports, what Proxmox says, and the stages of a reset.

use defib_api::*;
use defib_core::corroboration::{Counters, GuestIo};
use defib_core::fleet::{Count, Fleet};
use defib_core::gate::Look;
use defib_core::heartbeat::Report;
use defib_core::time::{Mono, Now};
use jiff::Timestamp;
use std::time::Duration;
use uuid::Uuid;

pub const MACHINE: Uuid = Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff);
/// The same machine, as firmware and kernels of the other opinion spell it.
pub const MACHINE_SWAPPED: Uuid = Uuid::from_u128(0x33221100_5544_7766_8899_aabbccddeeff);
pub const OTHER_MACHINE: Uuid = Uuid::from_u128(7);
pub const ME: &str = "defib-0";
/// When the cases take place, unless they say otherwise.
pub const NOW: u64 = 100_000;
/// Settings of the default scene, in seconds.
pub const TIMEOUT: u64 = 60;
pub const GRACE: u64 = 120;
pub const STABILIZATION: u64 = 30;
pub const DEADLINE: u64 = 600;
pub const WINDOW: u64 = 86_400;

pub fn mono(s: u64) -> Mono {
    Mono(s * 1_000)
}

pub fn wall(s: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + s).unwrap()
}

pub fn at(s: u64) -> Now {
    Now {
        mono: mono(s),
        wall: wall(s as i64),
    }
}

pub fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

pub fn reset_step(max_attempts: u32) -> Step {
    Step {
        action: StepAction::Reset,
        max_attempts,
        recovery_deadline_seconds: DEADLINE as u32,
    }
}

pub fn report(boot: &str, uptime: f64) -> Report {
    Report {
        hostname: Some("web-1".into()),
        machine_uuid: Some(MACHINE),
        cpu_percent: 5.0,
        memory_used_bytes: 1 << 30,
        memory_total_bytes: 4 << 30,
        disks: vec![],
        uptime_seconds: uptime,
        boot_id: boot.into(),
        state: AgentState::Running,
        supervised: true,
        agent_version: None,
        sent_at_ms: None,
    }
}

pub fn pause(owner: &str, expires_at: Option<Timestamp>) -> Pause {
    Pause {
        owner: owner.into(),
        reason: "storage migration".into(),
        expires_at,
    }
}

pub fn running() -> Look {
    Look {
        node: "pve1".into(),
        node_status: "online".into(),
        qmp_status: "running".into(),
        lock: None,
        ha_state: None,
        uuid: Some(MACHINE),
        uptime: secs(90_000),
        no_reboot: false,
        node_in_maintenance: false,
        no_quorum: false,
    }
}

/// A guest that was watched for so many seconds, and moved nothing.
pub fn quiet_for(now: Mono, s: u64) -> GuestIo {
    GuestIo::new(Counters::default(), Mono(now.0.saturating_sub(s * 1_000)))
}

/// One unhealthy VM, ours, of so many, at all three widths.
pub fn one_unhealthy_of(population: u32) -> Fleet {
    let count = Count {
        population,
        unhealthy: 1,
        in_flight: 0,
    };
    Fleet {
        policy: count,
        cluster: count,
        all: count,
    }
}

// ---- a reset that is under way: decided and sent at NOW, its task ended a second later ----

/// Decided and in the journal; nobody knows whether it was sent.
pub fn intent() -> CurrentReset {
    CurrentReset {
        name: "web-1-e1-1".into(),
        request_uid: None,
        holder: ME.into(),
        trigger: Trigger::Automatic,
        action: StepAction::Reset,
        step: 1,
        attempt: 1,
        recovery_deadline_seconds: DEADLINE as u32,
        stabilization_seconds: STABILIZATION as u32,
        intent_time: wall(NOW as i64),
        node: "pve1".into(),
        boot_id_before: Some("boot-a".into()),
        sent_time: None,
        upid: None,
        task_end_time: None,
        task_result: None,
        answer: None,
    }
}

/// Sent, and the answer was lost.
pub fn sent() -> CurrentReset {
    CurrentReset {
        sent_time: Some(wall(NOW as i64)),
        ..intent()
    }
}

/// Proxmox has started a task.
pub fn task() -> CurrentReset {
    CurrentReset {
        upid: Some("UPID:pve1:1".into()),
        ..sent()
    }
}

/// The task has ended.
pub fn ended(result: TaskResult) -> CurrentReset {
    CurrentReset {
        task_result: Some(result),
        task_end_time: Some(wall(NOW as i64 + 1)),
        ..task()
    }
}
