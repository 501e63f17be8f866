//! One seed, from the plan to the verdict.

use crate::evidence::Evidence;
use crate::oracle::{Violation, judge};
use crate::plan::Plan;
use crate::run;
use crate::sabotage::Sabotage;
use crate::transcript::transcript;

/// What came of a world.
pub struct Verdict {
    /// What must not be.
    pub violations: Vec<Violation>,
    /// What it rests on.
    pub evidence: Evidence,
}

impl Verdict {
    /// What happened to all, and to each machine.
    pub fn transcript(&self) -> String {
        let mut text = String::new();
        let plan = &self.evidence.plan;
        let mut part = |title: String, lines: Vec<String>| {
            text.push_str(&title);
            text.push('\n');
            for line in lines {
                text.push_str("  ");
                text.push_str(&line);
                text.push('\n');
            }
        };
        part(format!("seed {}, {:?}", plan.seed, plan.theme), transcript(&self.evidence, None));
        for (vm, machine) in plan.vms.iter().enumerate() {
            let policy = self.evidence.policy(vm);
            part(
                format!(
                    "{} (VM {}, policy {}: report {} s, time-out {} s, recovery {} s)",
                    machine.name, machine.vmid, policy.name, policy.report, policy.timeout, policy.recovery
                ),
                transcript(&self.evidence, Some(vm)),
            );
        }
        text
    }
}

/// Lives through the world of a plan and judges it. It must be called on a runtime of one thread whose time is paused.
pub async fn simulate(plan: Plan, sabotage: Option<Sabotage>) -> Verdict {
    let world = run::live(plan, sabotage).await;
    let evidence = Evidence::of(&world);
    run::end(&world);
    Verdict {
        violations: judge(&evidence),
        evidence,
    }
}

/// The command that lives through a seed once more and tells its story.
pub fn replay(seed: u64) -> String {
    format!("cargo xtask simulate --first-seed {seed} --seeds 1 --transcript")
}
