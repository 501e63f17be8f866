//! The body of `POST /api/health/report`.

use crate::assert_shown;
use crate::schema::Schema;
use defib::heartbeat::fuzz::published;
use defib::heartbeat::report::{Body, Item, MAX_BYTES, MAX_DISKS, MAX_ITEMS, MAX_UPTIME_SECONDS, read};
use defib_api::{AgentState, Metric};
use defib_core::heartbeat::Report;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Fields that a problem may name, `disks[n].mount` and its like by their first word.
const FIELDS: [&str; 13] = [
    "key",
    "hostname",
    "machineUUID",
    "cpuPercent",
    "memoryUsedBytes",
    "memoryTotalBytes",
    "disks",
    "uptimeSeconds",
    "bootID",
    "state",
    "supervised",
    "agentVersion",
    "sentAt",
];

/// Accepted: every value is in its range, and the report written anew is read as the same. Refused: the problem says what is wrong, and where.
pub(crate) fn check(input: &[u8]) {
    let body = match read(input) {
        Ok(body) => body,
        Err(not_json) => {
            assert!(not_json.to_string().len() > "the body is not JSON in UTF-8: ".len());
            let plain = input.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(input);
            let other: Result<Value, _> = serde_json::from_slice(plain);
            assert!(other.is_err(), "another reader takes it: {not_json}");
            return;
        }
    };
    match body {
        Body::One(item) => item_holds(&item),
        Body::Many(items) => {
            assert!(items.len() <= MAX_ITEMS);
            items.iter().for_each(item_holds);
        }
        Body::TooMany => {}
    }
}

fn item_holds(item: &Item<'_>) {
    if let Err(problem) = item.key() {
        assert_eq!(problem.field.as_deref(), Some("key"));
        assert_shown("a problem", &problem.to_string(), 200);
    }
    match item.check() {
        Ok(report) => {
            in_range(&report);
            assert_eq!(item.machine_uuid(), report.machine_uuid);
            written_anew(&report);
            stored(&report);
        }
        Err(problem) => {
            // Names of fields are ours and values are cut or left out, so nothing of a sender reaches a log as it is.
            assert!(!problem.problem.is_empty());
            assert_shown("a problem", &problem.to_string(), 200);
            match &problem.field {
                Some(field) => {
                    let first = field.split(['[', '.']).next().unwrap_or_default();
                    assert!(FIELDS.contains(&first), "{field} is no field of a report");
                }
                None => assert!(problem.problem.starts_with("a report must be"), "{problem} names nothing"),
            }
        }
    }
}

fn in_range(report: &Report) {
    assert!((0.0..=100.0).contains(&report.cpu_percent) && report.cpu_percent.is_sign_positive());
    assert!((0.0..=MAX_UPTIME_SECONDS).contains(&report.uptime_seconds) && report.uptime_seconds.is_sign_positive());
    assert!((1..=MAX_BYTES).contains(&report.memory_total_bytes) && report.memory_used_bytes <= report.memory_total_bytes);
    assert!((1..=64).contains(&report.boot_id.len()) && report.boot_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    assert!(report.machine_uuid.is_none_or(|uuid| !uuid.is_nil() && !uuid.is_max()));
    assert!(report.disks.len() <= MAX_DISKS);
    for disk in &report.disks {
        assert!(!disk.mount.is_empty() && disk.used_bytes <= disk.total_bytes && disk.total_bytes <= MAX_BYTES);
        assert_shown("a mount point", &disk.mount, 255);
    }
    report.hostname.iter().for_each(|name| assert_shown("a hostname", name, 253));
    report
        .agent_version
        .iter()
        .for_each(|version| assert_shown("a version", version, 64));
    for metric in [Metric::CPU, Metric::Memory, Metric::Disk] {
        assert!(
            report.percent(metric).is_none_or(|p| (0.0..=100.0).contains(&p)),
            "{metric:?} {:?}",
            report.percent(metric)
        );
    }
}

/// What was accepted is accepted again with the same meaning, whatever form it came in.
fn written_anew(report: &Report) {
    let sent_at = report.sent_at_ms.map(|ms| Timestamp::from_millisecond(ms).map(|at| at.to_string()));
    if matches!(sent_at, Some(Err(_))) {
        // In the last second of the year 9999 there are times that have no whole milliseconds.
        return;
    }
    let disks: Vec<Value> = report
        .disks
        .iter()
        .map(|d| json!({"mount": &*d.mount, "usedBytes": d.used_bytes, "totalBytes": d.total_bytes}))
        .collect();
    let text = json!({
        "hostname": report.hostname.as_deref(),
        "machineUUID": report.machine_uuid,
        "cpuPercent": report.cpu_percent,
        "memoryUsedBytes": report.memory_used_bytes,
        "memoryTotalBytes": report.memory_total_bytes,
        "disks": disks,
        "uptimeSeconds": report.uptime_seconds,
        "bootID": &*report.boot_id,
        "state": if report.state == AgentState::Running { "Running" } else { "Stopping" },
        "supervised": report.supervised,
        "agentVersion": report.agent_version.as_deref(),
        "sentAt": sent_at.and_then(Result::ok),
    })
    .to_string();
    let Ok(Body::One(item)) = read(text.as_bytes()) else {
        unreachable!("{text} is one report");
    };
    assert_eq!(item.check().as_ref(), Ok(report));
}

/// The API server takes what is published of it.
fn stored(report: &Report) {
    let patch = published(report, Timestamp::UNIX_EPOCH);
    let schema = Schema::of("ManagedVM");
    assert_eq!(schema.check("status", &patch["status"]), Ok(()), "{patch}");
}
