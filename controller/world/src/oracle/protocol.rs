//! S6, S7, S9, S11: how it is written and asked for.

use super::Found;
use crate::evidence::{Evidence, Sent, Write, text};
use crate::plan::Theme;
use crate::proxmox::Effect;
use defib_proxmox::PowerAction;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// An intent is sent within 10 s, and on a connection that lives for 5 s.
const INTENT_TO_POST: Duration = Duration::from_secs(15);

/// S6.
pub fn intent_first(e: &Evidence) -> Found {
    let mut found = Found::new();
    let mut sent: BTreeMap<&str, u32> = BTreeMap::new();
    for s in &e.posts {
        let at = s.post.sent;
        let mut say = |text: String| found.push((at, Some(s.vm), text));
        let Some(current) = &s.current else {
            say("a POST that is in no journal".into());
            continue;
        };
        let process = &e.processes[s.post.process];
        if text(current, "holder") != process.name {
            say(format!("a POST of {}, the journal is {}'s", process.name, text(current, "holder")));
        }
        if at.since(s.entered) > INTENT_TO_POST {
            say(format!("a POST {:?} after its intent", at.since(s.entered)));
        }
        if s.post.effect != Effect::None {
            let count = sent.entry(s.name()).or_default();
            *count += 1;
            if *count > 1 {
                say(format!("POST {count} of reset {}", s.name()));
            }
        }
    }
    found
}

fn fields(object: &Value) -> Map<String, Value> {
    object.as_object().cloned().unwrap_or_default()
}

/// Fields that differ between two objects.
fn changed(before: &Value, after: &Value) -> Vec<String> {
    let (before, after) = (fields(before), fields(after));
    let mut names: Vec<String> = before.keys().chain(after.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| before.get(name) != after.get(name));
    names
}

/// S7.
pub fn own_fields(e: &Evidence) -> Found {
    let ours = e.writes.iter().filter(|w| w.process.is_some());
    ours.filter_map(|w| strange(w).map(|text| (w.at, w.vm, format!("{} {}: {text}", w.resource, w.name))))
        .collect()
}

fn strange(w: &Write) -> Option<String> {
    let is_reset = w.resource == "vmresets";
    let (Some(before), Some(after)) = (&w.before, &w.after) else {
        return (!is_reset).then(|| "a controller makes or deletes it".into());
    };
    let spec = changed(&before["spec"], &after["spec"]);
    if !spec.is_empty() {
        return Some(format!("a controller changes spec.{}", spec.join(", ")));
    }
    let mut metadata = changed(&before["metadata"], &after["metadata"]);
    metadata.retain(|field| match field.as_str() {
        "resourceVersion" | "managedFields" => false,
        // A record whose VM is owed a start is held, and let go.
        "ownerReferences" | "finalizers" | "labels" => !is_reset,
        _ => true,
    });
    if !metadata.is_empty() {
        return Some(format!("a controller changes metadata.{}", metadata.join(", ")));
    }
    let status = changed(&before["status"], &after["status"]);
    let beats = status
        .iter()
        .filter(|field| matches!(field.as_str(), "heartbeat" | "usage"))
        .count();
    // Each of the two writers has fields of its own: one write never changes fields of both.
    (w.resource == "managedvms" && beats > 0 && beats < status.len()).then(|| format!("one write changes {}", status.join(", ")))
}

/// S11.
pub fn only_owed_starts(e: &Evidence) -> Found {
    let mut found = Found::new();
    for start in e.follow_ups.iter().filter(|p| p.action == PowerAction::Start) {
        let stops = |s: &&Sent| s.post.vmid == start.vmid && s.post.action != PowerAction::Reset && s.counts() && s.post.sent < start.sent;
        let vm = e.plan.vms.iter().position(|vm| vm.vmid == start.vmid);
        let is_to_run = vm.is_some_and(|vm| e.plan.vms[vm].is_to_run);
        if !is_to_run && !e.posts.iter().any(|s| stops(&s)) {
            found.push((
                start.sent,
                vm,
                "it is started, no reset had stopped it, and it is not declared to run".into(),
            ));
        }
    }
    found
}

/// S9. After a lost answer or a crash the same is rightly written again, and by who sees old objects, or shares them with another Defib.
pub fn idempotent(e: &Evidence) -> Found {
    if e.plan.theme == Theme::Rivals {
        return Found::new();
    }
    let recent = Duration::from_secs(60);
    let idle = e.idle_writes.iter().filter(|(at, _, _, _)| {
        let new = e.processes.iter().any(|p| p.started <= *at && at.since(p.started) < recent);
        !new && !e.api_trouble(*at) && !e.watch_trouble(*at)
    });
    idle.map(|(at, _, resource, name)| (*at, None, format!("{resource} {name} is written as it is")))
        .collect()
}
