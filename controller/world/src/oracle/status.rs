//! S8 and S10: what statuses say.

use super::Found;
use crate::evidence::{Evidence, condition, text};
use serde_json::Value;
use std::collections::BTreeSet;

const TYPES: [&str; 6] = [
    "Ready",
    "HeartbeatFresh",
    "WithinThresholds",
    "ResetAllowed",
    "Resetting",
    "Adopted",
];
/// Largest ManagedVM.
const BYTES: usize = 8 << 10;

/// S8.
pub fn lint(e: &Evidence) -> Found {
    let mut found = Found::new();
    let mut told: BTreeSet<(usize, &'static str)> = BTreeSet::new();
    let written = e.writes.iter().filter(|w| w.process.is_some());
    for w in written {
        let (Some(vm), Some(after)) = (w.vm, &w.after) else { continue };
        let before = w.before.as_ref();
        // What a beat leaves as it was has been judged.
        if before.is_some_and(|b| {
            b["status"]["conditions"] == after["status"]["conditions"] && b["status"]["currentReset"] == after["status"]["currentReset"]
        }) {
            continue;
        }
        for problem in problems(after) {
            if told.insert((vm, problem)) {
                found.push((w.at, Some(vm), problem.to_owned()));
            }
        }
    }
    for vm in &e.plan.vms {
        if let Some(object) = e.object_at("managedvms", &vm.name, e.end) {
            let bytes = object.to_string().len();
            if bytes > BYTES {
                found.push((e.end, None, format!("{} has {bytes} bytes", vm.name)));
            }
        }
    }
    found
}

fn problems(object: &Value) -> Vec<&'static str> {
    let mut problems = Vec::new();
    let status = &object["status"];
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let is = |type_: &str, value: &str| condition(object, type_).is_some_and(|c| text(c, "status") == value);
    let mut types: Vec<&str> = conditions.iter().map(|c| text(c, "type")).collect();
    types.sort_unstable();
    types.dedup();
    if types.len() != conditions.len() {
        problems.push("a condition is there twice");
    }
    if !conditions.is_empty() && TYPES.iter().any(|t| !types.contains(t)) {
        problems.push("a condition is missing");
    }
    let odd = |c: &Value| {
        let word = |c: char| c.is_ascii_alphanumeric();
        !matches!(text(c, "status"), "True" | "False" | "Unknown")
            || text(c, "reason").is_empty()
            || !text(c, "reason").chars().all(word)
            || c["observedGeneration"].as_i64().is_some_and(|g| g > generation)
    };
    if conditions.iter().any(odd) {
        problems.push("a condition is odd");
    }
    if status["observedGeneration"].as_i64().is_some_and(|g| g > generation) {
        problems.push("observedGeneration is ahead of generation");
    }
    if is("Ready", "True") && (is("HeartbeatFresh", "False") || is("Resetting", "True") || is("Adopted", "False")) {
        problems.push("Ready is True, and another condition says that it is not well");
    }
    if status["currentReset"].is_object() && !is("Resetting", "True") {
        problems.push("a reset is under way, and Resetting is not True");
    }
    problems
}

/// S10.
pub fn monotone(e: &Evidence) -> Found {
    let mut found = Found::new();
    for w in &e.writes {
        let (Some(vm), Some(before), Some(after)) = (w.vm, &w.before, &w.after) else {
            continue;
        };
        let (old, new) = (&before["status"], &after["status"]);
        let mut say = |text: &str| found.push((w.at, Some(vm), text.to_owned()));
        if new["observedGeneration"].as_i64() < old["observedGeneration"].as_i64() {
            say("observedGeneration goes back");
        }
        // A clock that is set back writes earlier times; an API server that carries out an old request late, too, and the next beat mends it.
        if !e.clocks_were_wrong(w.at) && !e.api_trouble(w.at) && beat(new) < beat(old) {
            say("the time of the last heartbeat goes back");
        }
        let (old, new) = (&old["currentReset"], &new["currentReset"]);
        if old["name"] == new["name"] && old.is_object() && (phase(new) < phase(old) || old["attempt"] != new["attempt"]) {
            say("the journal of a reset goes back");
        }
    }
    found
}

fn beat(status: &Value) -> Option<i64> {
    let time: jiff::Timestamp = status["heartbeat"]["lastReceivedTime"].as_str()?.parse().ok()?;
    Some(time.as_millisecond())
}

fn phase(current: &Value) -> usize {
    ["sentTime", "upid", "taskEndTime"]
        .iter()
        .filter(|field| !current[**field].is_null())
        .count()
}
