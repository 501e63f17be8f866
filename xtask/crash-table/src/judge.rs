//! Whether a story ended as it must, wherever it was interfered with. Judged by what Proxmox was asked and what happened to guests, then by what Defib says.

use crate::story::{BYSTANDER_ID, VICTIM_ID};
use defib_api::{ManagedVM, Outcome, ResetState, VMReset};
use jiff::Timestamp;
use pve_sim::{GuestEvent, GuestEventKind, GuestState, WriteRequest};

/// What is known at the end of a story.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Writes that reached Proxmox since the VM hung.
    pub requests: Vec<WriteRequest>,
    /// What happened to guests since.
    pub events: Vec<GuestEvent>,
    /// The VMResets of the VM that hung.
    pub records: Vec<VMReset>,
    /// The VM that hung.
    pub victim: Option<ManagedVM>,
    /// The VM that was well all the time.
    pub bystander: Option<ManagedVM>,
    /// When a process that had stood still went on, and when a reset may be sent again: a whole time-out after.
    pub quiet: Option<(Timestamp, Timestamp)>,
}

/// The outcome in a word, and what is wrong with it.
pub fn judge(ending: &Ending) -> (&'static str, Vec<String>) {
    let mut wrong = Vec::new();
    let resets: Vec<&GuestEvent> = ending
        .events
        .iter()
        // What the test itself does to a guest is no reset of Proxmox.
        .filter(|e| matches!(e.event, GuestEventKind::Reset | GuestEventKind::PowerOff) && e.cause != "control")
        .collect();
    for event in &resets {
        if event.vmid != VICTIM_ID {
            wrong.push(format!("VM {} was reset, which was well", event.vmid));
        }
        if event.healthy_before {
            wrong.push(format!("VM {} was reset while it was well", event.vmid));
        }
    }
    let posts: Vec<&WriteRequest> = ending
        .requests
        .iter()
        .filter(|r| r.action == "reset" || r.action == "stop")
        .collect();
    if posts.len() > 1 {
        wrong.push(format!("Proxmox got {} resets in one episode", posts.len()));
    }
    if let Some((from, until)) = ending.quiet {
        for post in posts.iter().filter(|p| p.time >= from && p.time < until) {
            wrong.push(format!(
                "a reset reached Proxmox at {}, but the process woke at {from} and has to listen until {until}",
                post.time
            ));
        }
    }
    let last = ending.events.iter().rfind(|e| e.vmid == VICTIM_ID);
    if last.is_some_and(|e| e.after == GuestState::Off) {
        wrong.push(format!("VM {VICTIM_ID} was stopped and not started again"));
    }
    let delivered = !resets.is_empty();
    let outcome = record(ending, delivered, &posts, &mut wrong);
    object(ending, delivered, &mut wrong);
    (outcome, wrong)
}

/// The VMReset: one, finished, and true.
fn record(ending: &Ending, delivered: bool, posts: &[&WriteRequest], wrong: &mut Vec<String>) -> &'static str {
    let [record] = ending.records.as_slice() else {
        wrong.push(format!("{} VMResets tell of one reset", ending.records.len()));
        return "-";
    };
    let status = record.status.clone().unwrap_or_default();
    let wanted = if delivered { Outcome::Recovered } else { Outcome::Unknown };
    if status.state != Some(ResetState::Finished) || status.outcome != Some(wanted) {
        wrong.push(format!(
            "its VMReset says {:?} {:?} instead of Finished {wanted:?}",
            status.state, status.outcome
        ));
    }
    let upid = posts.iter().find_map(|p| p.upid.clone());
    if status.upid != upid {
        wrong.push(format!("its VMReset tells task {:?}, Proxmox ran {upid:?}", status.upid));
    }
    status.outcome.map_or("-", Outcome::as_str)
}

/// The ManagedVM: nothing under way, the reset counted once, and the state that follows.
fn object(ending: &Ending, delivered: bool, wrong: &mut Vec<String>) {
    let status = ending.victim.as_ref().and_then(|vm| vm.status.clone()).unwrap_or_default();
    if let Some(current) = &status.current_reset {
        wrong.push(format!("{} is still in the journal", current.name));
    }
    let counted: Vec<&str> = status.recent_resets.iter().map(|r| r.name.as_str()).collect();
    let named: Vec<String> = ending.records.iter().filter_map(|r| r.metadata.name.clone()).collect();
    if counted != named {
        wrong.push(format!("recentResets holds {counted:?}, the VMResets are {named:?}"));
    }
    if status.resets_in_window != Some(1) {
        wrong.push(format!("RESETS shows {:?} instead of 1", status.resets_in_window));
    }
    let wanted = if delivered { "Healthy" } else { "StepsExhausted" };
    for (vm, id, wanted) in [(&ending.victim, VICTIM_ID, wanted), (&ending.bystander, BYSTANDER_ID, "Healthy")] {
        let state = state(vm.as_ref());
        if state != wanted {
            wrong.push(format!("VM {id} ends {state} instead of {wanted}"));
        }
    }
}

/// The reason of the condition Ready.
pub fn state(vm: Option<&ManagedVM>) -> String {
    let conditions = vm.and_then(|vm| vm.status.as_ref()).map(|s| s.conditions.as_slice());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    ready.map_or_else(|| "unknown".into(), |c| c.reason.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const UPID: &str = "UPID:pve1:0000C0DE:00000001:68000000:qmreset:101:defib@pve!controller:";

    fn vm(state: &str, more: Value) -> Option<ManagedVM> {
        let mut status = json!({ "conditions": [{
            "type": "Ready", "status": "True", "reason": state, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }] });
        for (field, value) in more.as_object().into_iter().flatten() {
            status[field] = value.clone();
        }
        let object = json!({
            "apiVersion": "defib.dev/v1alpha1", "kind": "ManagedVM", "metadata": { "name": "a" },
            "spec": { "proxmox": { "clusterRef": { "name": "pve" }, "vmid": 101 } }, "status": status,
        });
        Some(serde_json::from_value(object).unwrap())
    }

    fn record(name: &str, status: Value) -> VMReset {
        let object = json!({
            "apiVersion": "defib.dev/v1alpha1", "kind": "VMReset", "metadata": { "name": name },
            "spec": { "vmRef": { "name": "victim" }, "action": "Reset", "trigger": "Automatic", "notAfter": "2026-01-01T00:00:00Z" },
            "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn post(time: &str) -> WriteRequest {
        let object = json!({
            "sequence": 1, "time": time, "connection": { "id": 1, "accepted": time, "secured": time, "request": 1 }, "entry": "pve1",
            "method": "POST", "path": "/nodes/pve1/qemu/101/status/reset", "vmid": 101, "action": "reset", "executed": true, "upid": UPID,
        });
        serde_json::from_value(object).unwrap()
    }

    fn reset(vmid: u32, healthy: bool) -> GuestEvent {
        let object = json!({
            "sequence": 1, "time": "2026-01-01T00:00:10Z", "vmid": vmid, "event": "reset", "cause": UPID,
            "before": "hung", "healthyBefore": healthy, "after": "booting",
        });
        serde_json::from_value(object).unwrap()
    }

    fn good() -> Ending {
        let counted = json!({ "recentResets": [{ "name": "r-1", "time": "2026-01-01T00:00:09Z" }], "resetsInWindow": 1 });
        Ending {
            requests: vec![post("2026-01-01T00:00:10Z")],
            events: vec![reset(VICTIM_ID, false)],
            records: vec![record("r-1", json!({ "state": "Finished", "outcome": "Recovered", "upid": UPID }))],
            victim: vm("Healthy", counted),
            bystander: vm("Healthy", json!({})),
            quiet: None,
        }
    }

    fn complaints(change: impl FnOnce(&mut Ending)) -> String {
        let mut ending = good();
        change(&mut ending);
        judge(&ending).1.join("; ")
    }

    #[test]
    fn one_reset_that_recovered_is_right() {
        assert_eq!(judge(&good()), ("Recovered", Vec::new()));
    }

    #[test]
    fn a_reset_that_was_never_delivered_is_honestly_unknown() {
        let mut ending = good();
        ending.requests.clear();
        ending.events.clear();
        ending.records = vec![record("r-1", json!({ "state": "Finished", "outcome": "Unknown" }))];
        let counted = json!({ "recentResets": [{ "name": "r-1", "time": "2026-01-01T00:00:09Z" }], "resetsInWindow": 1 });
        ending.victim = vm("StepsExhausted", counted);
        assert_eq!(judge(&ending), ("Unknown", Vec::new()));
    }

    #[test]
    fn each_wrong_end_is_told() {
        type Change = Box<dyn FnOnce(&mut Ending)>;
        let table: [(&str, Change); 11] = [
            (
                "not started again",
                Box::new(|e| {
                    e.events[0].event = GuestEventKind::PowerOff;
                    e.events[0].after = GuestState::Off;
                }),
            ),
            (
                "2 resets in one episode",
                Box::new(|e| e.requests.push(post("2026-01-01T00:00:20Z"))),
            ),
            (
                "102 was reset, which was well",
                Box::new(|e| e.events.push(reset(BYSTANDER_ID, false))),
            ),
            ("while it was well", Box::new(|e| e.events = vec![reset(VICTIM_ID, true)])),
            ("2 VMResets", Box::new(|e| e.records.push(record("r-2", json!({}))))),
            (
                "instead of Finished Recovered",
                Box::new(|e| e.records = vec![record("r-1", json!({ "state": "Running" }))]),
            ),
            (
                "tells task",
                Box::new(|e| e.records = vec![record("r-1", json!({ "state": "Finished", "outcome": "Recovered" }))]),
            ),
            (
                "recentResets",
                Box::new(|e| e.victim = vm("Healthy", json!({ "resetsInWindow": 1 }))),
            ),
            ("RESETS shows", Box::new(|e| e.victim = vm("Healthy", json!({})))),
            (
                "ends Silent instead of Healthy",
                Box::new(|e| e.bystander = vm("Silent", json!({}))),
            ),
            (
                "has to listen until",
                Box::new(|e| {
                    let at = |text: &str| text.parse().unwrap();
                    e.quiet = Some((at("2026-01-01T00:00:09Z"), at("2026-01-01T00:00:15Z")));
                }),
            ),
        ];
        for (words, change) in table {
            let told = complaints(change);
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}
