//! Each write of a scenario with the controller killed just before and just after it.

use super::{Outcome, Scenario, play_plan};
use crate::clock::Time;
use crate::evidence::Evidence;
use crate::oracle::{Violation, judge};
use crate::plan::{CrashPoint, Plan, WriteTo};
use crate::run::StandStill;
use std::collections::BTreeSet;
use std::time::Duration;

/// The world goes on for so long, so that what was broken off can come to its end: a search of 100 s, a recovery, and another attempt.
const AFTERWARDS: Duration = Duration::from_secs(300);
/// So long after its start a process may still write what the one before it had written: a search takes 100 s.
const MENDS: Duration = Duration::from_secs(150);
/// Who was killed comes back after so long, whatever the scenario says: one that stays away brings nothing to its end.
const AWAY: Duration = Duration::from_secs(4);

/// The plan of a scenario in which controllers die at these points.
///
/// # Errors
/// When the scenario cannot be understood.
pub fn plan(scenario: &Scenario, crashes: &[CrashPoint]) -> Result<Plan, String> {
    let mut plan = scenario.plan()?;
    plan.calm = plan.end;
    plan.end = plan.end.plus(AFTERWARDS);
    plan.start.away = Some(AWAY);
    plan.start.crashes = crashes.to_vec();
    Ok(plan)
}

/// Lives through it.
///
/// # Errors
/// When the scenario cannot be understood.
pub async fn play(scenario: &Scenario, crashes: &[CrashPoint], stand_still: StandStill) -> Result<Outcome, String> {
    Ok(play_plan(scenario, plan(scenario, crashes)?, stand_still).await)
}

/// All points of a run, but for mere heartbeats, which are written all the time and decide nothing.
pub fn points(e: &Evidence) -> Vec<CrashPoint> {
    let mut points = Vec::new();
    let mut both = |controller, to, number| {
        points.extend([true, false].map(|before| CrashPoint {
            controller,
            to,
            number,
            before,
        }));
    };
    for controller in 0..e.plan.controllers() {
        let of_it = |process: usize| e.processes.get(process).is_some_and(|p| p.controller == controller);
        let writes = e.sent_writes.iter().filter(|(process, _)| of_it(*process));
        for (number, (_, beat)) in (0..).zip(writes) {
            if !beat {
                both(controller, WriteTo::Api, number);
            }
        }
        let posts = e.posts.iter().filter(|s| of_it(s.post.process));
        for (number, _) in (0..).zip(posts) {
            both(controller, WriteTo::Proxmox, number);
        }
    }
    points
}

/// What must not be of a run with crashes: whatever breaks safety, and of the rest what holds without the crash.
pub fn violations(without: &Evidence, with: &Evidence) -> Vec<Violation> {
    let known: BTreeSet<_> = judge(without).into_iter().map(|v| (v.oracle, v.vm)).collect();
    let mut found = judge(with);
    let after_a_crash = |at: Time| with.processes.iter().any(|p| p.started <= at && at.since(p.started) < MENDS);
    found.retain(|v| match v.oracle {
        // What a search found to be lost is written once more.
        "S9" => !after_a_crash(v.at),
        // The cure of a VM may be late by the crash.
        "L3" => false,
        oracle => oracle.starts_with('S') || !known.contains(&(oracle, v.vm)),
    });
    found
}
