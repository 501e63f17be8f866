//! How answers of `ctl` look.

use std::fmt::Write as _;

use serde::Serialize;

use crate::audit::{GuestEvent, WriteRequest};
use crate::control::{ClusterSnapshot, Reply};
use crate::task::TaskRecord;
use crate::text_enum::text_enum;
use crate::vm::VmSnapshot;

text_enum! {
    /// Form of an answer.
    Format {
        /// For people.
        Text = "text",
        /// For programs: one JSON object a line.
        Json = "json",
    }
}

/// The answer as text that ends with a line feed, or is empty.
pub fn render(reply: &Reply, format: Format) -> String {
    match format {
        Format::Json => json(reply),
        Format::Text => text(reply),
    }
}

fn json(reply: &Reply) -> String {
    match reply {
        Reply::Done => String::new(),
        Reply::Vm(vm) => lines([vm]),
        Reply::Status(status) => lines([status]),
        Reply::Vms(rows) => lines(rows),
        Reply::Audit(rows) => lines(rows),
        Reply::Events(rows) => lines(rows),
        Reply::Tasks(rows) => lines(rows),
        Reply::Faults(rows) => lines(rows),
    }
}

fn lines<T: Serialize>(rows: impl IntoIterator<Item = T>) -> String {
    // These types always serialize: their keys are strings and their numbers finite.
    rows.into_iter()
        .filter_map(|row| serde_json::to_string(&row).ok())
        .map(|line| line + "\n")
        .collect()
}

fn text(reply: &Reply) -> String {
    match reply {
        Reply::Done => String::new(),
        Reply::Vm(vm) => vms(std::slice::from_ref(&**vm)),
        Reply::Vms(rows) => vms(rows),
        Reply::Status(snapshot) => status(snapshot),
        Reply::Audit(rows) => table(
            &[
                "#", "TIME", "ENTRY", "REQUEST", "TOKEN", "VMID", "GUEST", "HEALTHY", "FAULT", "ANSWER", "TASK", "UPID",
            ],
            rows.iter().map(audit_row),
        ),
        Reply::Events(rows) => table(
            &["#", "TIME", "VMID", "EVENT", "BEFORE", "AFTER", "BOOT ID", "CAUSE"],
            rows.iter().map(event_row),
        ),
        Reply::Tasks(rows) => table(&["UPID", "EXITSTATUS"], rows.iter().map(task_row)),
        Reply::Faults(rows) => lines(rows),
    }
}

fn status(snapshot: &ClusterSnapshot) -> String {
    let quorum = if snapshot.quorate { "quorate" } else { "no quorum" };
    let mut text = format!("{} ({quorum})\n\n", snapshot.name);
    let nodes = snapshot.nodes.iter().map(|node| {
        vec![
            node.endpoint.node.clone(),
            node.power.to_string(),
            node.endpoint.url.clone(),
            node.endpoint.fingerprint.clone(),
        ]
    });
    text.push_str(&table(&["NODE", "POWER", "URL", "FINGERPRINT"], nodes));
    text.push('\n');
    text.push_str(&vms(&snapshot.vms));
    text
}

fn vms(rows: &[VmSnapshot]) -> String {
    let rows = rows.iter().map(|vm| {
        vec![
            vm.vmid.to_string(),
            vm.name.clone(),
            vm.node.clone(),
            vm.qmp_status.map_or("stopped".to_owned(), |status| status.to_string()),
            vm.guest.to_string(),
            or_dash(vm.boot_id),
            or_dash(vm.guest_pid),
            or_dash(vm.lock),
            or_dash(vm.ha),
        ]
    });
    table(&["VMID", "NAME", "NODE", "QEMU", "GUEST", "BOOT ID", "PID", "LOCK", "HA"], rows)
}

fn audit_row(request: &WriteRequest) -> Vec<String> {
    let answer = match request.status {
        Some(status) => format!("{status} {}", request.reason.as_deref().unwrap_or_default()),
        None if request.answered.is_some() => "dropped".to_owned(),
        None => "pending".to_owned(),
    };
    vec![
        request.sequence.to_string(),
        request.time.to_string(),
        request.entry.clone(),
        format!("{} {}", request.method, request.path),
        or_dash(request.token.as_ref()),
        or_dash(request.vmid),
        or_dash(request.guest),
        or_dash(request.healthy),
        or_dash(request.fault.as_ref()),
        answer,
        or_dash(request.exitstatus.as_ref()),
        or_dash(request.upid.as_ref()),
    ]
}

fn event_row(event: &GuestEvent) -> Vec<String> {
    vec![
        event.sequence.to_string(),
        event.time.to_string(),
        event.vmid.to_string(),
        event.event.to_string(),
        event.before.to_string(),
        event.after.to_string(),
        or_dash(event.boot_id_after),
        event.cause.clone(),
    ]
}

fn task_row(task: &TaskRecord) -> Vec<String> {
    vec![task.upid.clone(), task.exitstatus.clone().unwrap_or_else(|| "running".to_owned())]
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Columns as wide as their widest cell, two spaces apart.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(|title| (*title).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
