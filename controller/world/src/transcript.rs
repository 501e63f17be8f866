//! A world in prose, for a person who wants to know what went wrong.

use crate::clock::Time;
use crate::evidence::{Evidence, Write, condition, text};
use serde_json::Value;

/// What happened to one machine, or where none is given to all; a line each.
pub fn transcript(e: &Evidence, vm: Option<usize>) -> Vec<String> {
    let mut lines: Vec<(Time, String)> = Vec::new();
    for (at, whose, text) in &e.log.lines {
        if *whose == vm || whose.is_none() {
            lines.push((*at, text.clone()));
        }
    }
    for w in e.writes.iter().filter(|w| w.vm.is_some() && w.vm == vm) {
        lines.extend(told(w).into_iter().map(|text| (w.at, text)));
    }
    if let Some(vm) = vm {
        for s in e.posts.iter().filter(|s| s.vm == vm) {
            lines.push((
                s.post.sent,
                format!(
                    "process {} sends a {} to {}: {:?}",
                    s.post.process, s.post.action, s.post.node, s.post.effect
                ),
            ));
        }
        for post in e.follow_ups.iter().filter(|p| p.vmid == e.plan.vms[vm].vmid) {
            lines.push((
                post.sent,
                format!(
                    "process {} sends a {} to {}: {:?}",
                    post.process, post.action, post.node, post.effect
                ),
            ));
        }
        for pair in e.log.heard.iter().filter(|h| h.vm == vm).collect::<Vec<_>>().windows(2) {
            let [last, next] = pair else { continue };
            if next.at.since(last.at) > e.timeout(vm) / 2 {
                lines.push((last.at, "its last report for a while".into()));
                lines.push((next.at, format!("it reports again, to process {}", next.process)));
            }
        }
    }
    lines.sort_by_key(|(at, _)| *at);
    lines.into_iter().map(|(at, text)| format!("{at}  {text}")).collect()
}

/// What a write of a ManagedVM changes, in words.
fn told(w: &Write) -> Vec<String> {
    let mut lines = Vec::new();
    let who = w.process.map_or_else(|| "somebody".to_owned(), |p| format!("process {p}"));
    let (before, after) = (
        w.before.as_deref().unwrap_or(&Value::Null),
        w.after.as_deref().unwrap_or(&Value::Null),
    );
    for type_ in ["Ready", "HeartbeatFresh", "ResetAllowed"] {
        let reason = |object| condition(object, type_).map_or("", |c| text(c, "reason"));
        if reason(before) != reason(after) {
            lines.push(format!("{who}: {type_} {} -> {}", reason(before), reason(after)));
        }
    }
    let (old, new) = (&before["status"]["currentReset"], &after["status"]["currentReset"]);
    if old["name"] != new["name"] {
        if new.is_object() {
            lines.push(format!("{who} enters reset {} in the journal", text(new, "name")));
        } else {
            lines.push(format!("{who} clears reset {} from the journal", text(old, "name")));
        }
    } else if new.is_object() && old != new {
        for field in ["holder", "sentTime", "upid", "taskResult", "answer"] {
            if old[field] != new[field] {
                lines.push(format!("{who}: {field} of {} is {}", text(new, "name"), new[field]));
            }
        }
    }
    if before["metadata"]["generation"] != after["metadata"]["generation"] {
        lines.push(format!("{who} changes the spec: generation {}", after["metadata"]["generation"]));
    }
    lines
}
