//! Judges a run by the ten rules of `ARCHITECTURE.md`. Pure: from what was logged to what was held or violated.
//!
//! It holds Defib to what is certain. Where a log leaves it open in which order two things happened (a report that arrives while the request leaves), the
//! other way is not called a violation; such cases are counted in the notes.

mod budgets;
mod end;
mod gates;
mod protocol;
mod size;
mod story;
mod witness;

use crate::evidence::Evidence;
pub use end::{IN_A_LOOP, IN_A_STORM};
use std::fmt;
use story::Story;

/// What became of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Number of the rule in `ARCHITECTURE.md`, or what else is looked at.
    pub rule: &'static str,
    /// What must hold.
    pub holds: &'static str,
    /// How many cases were looked at.
    pub checked: usize,
    /// Each case in which it did not hold.
    pub violations: Vec<String>,
    /// Cases that a log leaves open.
    pub notes: Vec<String>,
}

impl Finding {
    fn new(rule: &'static str, holds: &'static str) -> Self {
        Self {
            rule,
            holds,
            checked: 0,
            violations: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Takes a case down; `Some` tells how the rule was violated.
    fn case(&mut self, violation: Option<String>) {
        self.checked += 1;
        self.violations.extend(violation);
    }
}

/// Most violations and notes of one rule that are printed.
const SHOWN: usize = 10;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.violations.is_empty() { "held" } else { "VIOLATED" };
        write!(f, "{:<5} {verdict:<8} {:>6}  {}", self.rule, self.checked, self.holds)?;
        for (word, lines) in [("!!", &self.violations), ("--", &self.notes)] {
            for line in lines.iter().take(SHOWN) {
                write!(f, "\n      {word} {line}")?;
            }
            if lines.len() > SHOWN {
                write!(f, "\n      {word} and {} more", lines.len() - SHOWN)?;
            }
        }
        Ok(())
    }
}

/// Judges a run: one finding for each rule, in order.
pub fn audit(evidence: &Evidence) -> Vec<Finding> {
    let story = Story::of(evidence);
    vec![
        witness::heard(&story),
        witness::witnessed(&story),
        gates::armed(&story),
        gates::paused(&story),
        gates::stopped(&story),
        gates::locked(&story),
        budgets::attempts(&story),
        budgets::cap(&story),
        budgets::in_flight(&story),
        budgets::unhealthy(&story),
        protocol::journal(&story),
        protocol::record(&story),
        protocol::fresh(&story),
        protocol::connection(&story),
        protocol::recovered(&story),
        protocol::once(&story),
        protocol::told(&story),
        gates::deleted(&story),
        end::states(evidence),
        end::journals(evidence),
        end::records(evidence),
        size::memory(evidence),
        size::descriptors(evidence),
        end::panics(evidence),
        end::happened(&story),
    ]
}

#[cfg(test)]
mod tests;
