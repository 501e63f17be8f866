//! The report of an agent, as `agents/linux-agent.sh` writes it.

use crate::{AgentSpec, Boot};
use jiff::Timestamp;
use std::fmt::Write as _;
use std::time::Duration;

/// Version that the agents say they have: that of the script's reports, which these are modelled on.
const AGENT_VERSION: &str = "0.1.0";

const GIB: u64 = 1 << 30;

/// A sample of now: compact JSON, the fields in the order of the script's.
pub fn compact(agent: &AgentSpec, boot: &Boot, state: &str) -> String {
    let uptime = boot.since.elapsed();
    let mut text = String::with_capacity(640);
    // Writing to a String cannot fail. Names and ids here need no escapes.
    let _ = write!(text, "{{\"hostname\":\"{}\"", agent.hostname);
    if let Some(machine) = agent.machine {
        let _ = write!(text, ",\"machineUUID\":\"{machine}\"");
    }
    let _ = write!(
        text,
        ",\"bootID\":\"{}\",\"uptimeSeconds\":{}.{:02},\"state\":\"{state}\",\"supervised\":{}",
        boot.id,
        uptime.as_secs(),
        uptime.subsec_millis() / 10,
        agent.supervised
    );
    let (cpu, memory) = load(agent.vmid, uptime);
    let _ = write!(
        text,
        ",\"cpuPercent\":{cpu:.1},\"memoryUsedBytes\":{memory},\"memoryTotalBytes\":{},\"disks\":[{{\"mount\":\"/\",\"usedBytes\":{},\"totalBytes\":{}}}]",
        2 * GIB,
        14 * GIB,
        32 * GIB
    );
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let _ = write!(text, ",\"agentVersion\":\"{AGENT_VERSION}\",\"sentAt\":\"{now}\"}}");
    text
}

/// CPU in percent and memory in bytes. It moves from report to report, as that of a machine does: what never changes would never have to be published.
fn load(vmid: u32, uptime: Duration) -> (f64, u64) {
    let phase = f64::from(vmid) + uptime.as_secs_f64();
    let cpu = 12.0 + 6.0 * (phase / 7.0).sin();
    let share = 0.45 + 0.04 * (phase / 31.0).sin();
    // Between 0.8 and 1.0 GiB: exact in a float, and positive.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let memory = ((2 * GIB) as f64 * share) as u64;
    (cpu, memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Connections;
    use uuid::Uuid;

    #[test]
    fn the_receiver_reads_what_an_agent_writes() {
        let machine = Uuid::new_v4();
        let agent = AgentSpec {
            vmid: 101,
            hostname: "vm-101".into(),
            key: "key".into(),
            machine: Some(machine),
            supervised: true,
            connections: Connections::New,
        };
        let boot = Boot::now();
        let text = compact(&agent, &boot, "Running");
        let body = defib::heartbeat::report::read(text.as_bytes()).unwrap();
        let defib::heartbeat::report::Body::One(item) = body else {
            panic!("{text} is not one report");
        };
        let report = item.check().unwrap_or_else(|problem| panic!("{problem}: {text}"));
        assert_eq!(report.machine_uuid, Some(machine));
        assert_eq!(&*report.boot_id, boot.id.to_string());
        assert!(report.supervised);
        assert!(report.uptime_seconds < 60.0);
        assert!(report.sent_at_ms.is_some());
    }
}
