//! Scenarios that people write: setup and timeline in YAML, and what came of them in prose. A change of behaviour is reviewed as a change of that prose
//! (`tests/golden`).

pub mod crash;
mod format;
mod happening;
mod tell;

pub use format::Scenario;

use crate::evidence::Evidence;
use crate::oracle::{Violation, judge};
use crate::plan::Plan;
use crate::run::{self, StandStill};

/// What came of a scenario.
pub struct Outcome {
    /// The story, as it is kept beside the scenario.
    pub story: String,
    /// What must not be.
    pub violations: Vec<Violation>,
    /// What both rest on.
    pub evidence: Evidence,
}

/// Lives through the world of a scenario, judges it and tells its story. It must be called on a runtime of one thread whose time is paused.
///
/// # Errors
/// When the scenario cannot be understood.
pub async fn play(scenario: &Scenario, stand_still: StandStill) -> Result<Outcome, String> {
    Ok(play_plan(scenario, scenario.plan()?, stand_still).await)
}

/// The same by a plan of it that was changed.
pub async fn play_plan(scenario: &Scenario, plan: Plan, stand_still: StandStill) -> Outcome {
    let world = run::live_with(plan, None, Some(stand_still)).await;
    let evidence = Evidence::of(&world);
    run::end(&world);
    Outcome {
        violations: violations(&evidence),
        story: tell::story(&scenario.about, &evidence),
        evidence,
    }
}

/// Safety holds in each scenario. That all comes to a good end (L1, L3, L4) does not: a story may end in the middle.
fn violations(evidence: &Evidence) -> Vec<Violation> {
    let mut found = judge(evidence);
    found.retain(|violation| violation.oracle.starts_with('S') || violation.oracle == "L2");
    found
}
