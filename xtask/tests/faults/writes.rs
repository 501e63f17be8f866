//! Writes of which the answer is lost, or comes later than anybody waits for it. All of them are carried out.

use super::*;
use fault_proxy::{Act, Moment, Request, Rule};
use http::Method;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// How late the answer to a write comes: Defib gives it up after 5 s.
const SLOW: Duration = Duration::from_secs(6);

/// A write in so many words that the same one, made again, has the same: an event has a name of its own each time, and so has an attempt after one that was taken
/// back.
fn what(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let (status, journal) = (&body["status"], &body["status"]["currentReset"]);
    let mut path = request.path.as_str();
    for kind in ["/events", "/vmresets"] {
        path = path.find(kind).and_then(|at| path.get(..at + kind.len())).unwrap_or(path);
    }
    let state = [&status["state"], &status["startOwed"]["attempts"], &journal["taskResult"]];
    format!(
        "{} {path} {:?} {state:?} {}",
        request.method,
        request.status_fields(),
        journal["upid"].is_string()
    )
}

fn is_power_action(request: &Request) -> bool {
    request.service == Service::Proxmox && request.is_write()
}

#[test]
fn writes_that_are_slow_or_whose_answers_are_lost_are_made_once() -> Result<()> {
    let mut story = Story::begin()?;

    // Of each kind of write the first is carried out, and nobody is told: intent, record, reset, stop, start, all of them.
    let told = Mutex::new(HashSet::new());
    let rule = Rule::new(Moment::After, Act::Drop).times(u64::MAX).matching(move |request| {
        let first = || told.lock().is_ok_and(|mut told| told.insert(what(request)));
        request.is_write() && first()
    });
    let rule = story.faults.add(rule);
    story.hang_stubborn(101)?;
    story.wait_cured(101)?;
    let lost = story.faults.fired(rule);
    ensure!(lost >= 15, "only {lost} answers were lost");
    story.faults.clear();

    // Commits become slow when the reset is sent: all writes to Kubernetes, the lease too.
    let slow = AtomicBool::new(false);
    let rule = Rule::new(Moment::After, Act::Delay(SLOW)).times(u64::MAX).matching(move |request| {
        if is_power_action(request) {
            slow.store(true, Ordering::Relaxed);
            return false;
        }
        slow.load(Ordering::Relaxed) && request.is_write()
    });
    let rule = story.faults.add(rule);
    story.hang(102)?;
    until(PATIENCE, "six writes were slow", || {
        let slow = story.faults.fired(rule);
        Ok(if slow >= 6 { Ok(()) } else { Err(format!("{slow} were")) })
    })
    .with_context(|| story.logs())?;
    story.faults.clear();
    story.wait_cured(102)?;

    // They are slow from the beginning, but for the lease. The intent is read back, but of its record nobody knows in time: it is to be taken back, and nothing is sent.
    let first = story.faults.newest();
    let rule = Rule::new(Moment::After, Act::Delay(SLOW))
        .times(u64::MAX)
        .matching(|request| request.service == Service::Kubernetes && request.is_write() && !request.path.contains("/leases"));
    story.faults.add(rule);
    story.hang(103)?;
    until(PATIENCE, "a reset was begun, and is being taken back", || {
        ensure!(story.asked(103)?.is_empty(), "it was sent without a record");
        let record = story.faults.record();
        let taken_back = record
            .iter()
            .any(|e| e.number > first && e.request.method == Method::DELETE && e.request.path.contains("/vmresets/vm-103"));
        Ok(if taken_back { Ok(()) } else { Err("not yet".into()) })
    })
    .with_context(|| story.logs())?;
    story.faults.clear();
    story.wait_cured(103)?;
    story.end()
}
