//! Which step of a policy the next attempt takes. A step that is not possible for this VM now is passed over, at no cost.

use crate::gate::{Blocked, Closer, Look};
use crate::policy::{Effective, built_in};
use defib_api::{Episode, GuestAgentState, Step, StepAction, VMReset};

/// What the next attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This.
    Take(Attempt),
    /// That hangs on the QEMU guest agent, which was not asked yet.
    AskGuestAgent,
    /// No step is possible.
    None(Blocked),
}

/// An attempt that is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number in the episode, from 1; those of steps that were passed over are counted too.
    pub number: u32,
    /// The step's number, from 1; 0 for none of the policy's.
    pub step: u32,
    /// What is done.
    pub action: StepAction,
    /// How long the VM may take to come back.
    pub recovery_deadline_seconds: u32,
    /// It begins an episode: the steps of the one before are used up, or there is none.
    pub begins: bool,
}

/// The step and recovery rules of attempt number `attempt` (from 1) of an episode; none when all steps are used up. The step's number counts from 1.
pub fn step_of(steps: &[Step], attempt: u32) -> Option<(u32, &Step)> {
    let mut used = 0u32;
    for (index, step) in steps.iter().enumerate() {
        used = used.saturating_add(step.max_attempts);
        if attempt <= used {
            return Some((u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1), step));
        }
    }
    None
}

/// Number of the last attempt of step `number` (from 1).
pub fn last_attempt_of(steps: &[Step], number: u32) -> u32 {
    let many = usize::try_from(number).unwrap_or(usize::MAX);
    steps.iter().take(many).fold(0, |sum, step| sum.saturating_add(step.max_attempts))
}

/// The next attempt of Defib's own.
pub fn automatic(effective: &Effective, episode: Option<&Episode>, closer: &Closer) -> Choice {
    // An episode whose steps are used up has passed its gate only because its window is over: a new one begins.
    let known = episode.filter(|e| step_of(&effective.steps, e.attempts.saturating_add(1)).is_some());
    let next = known.map_or(1, |e| e.attempts.saturating_add(1));
    match first_possible(&effective.steps, next, closer) {
        Choice::Take(attempt) => Choice::Take(Attempt {
            begins: known.is_none(),
            ..attempt
        }),
        other => other,
    }
}

/// What a person asks for: an action, or the first step that is possible.
pub fn manual(effective: &Effective, request: &VMReset, closer: &Closer) -> Choice {
    let Some(action) = request.spec.action.step_action() else {
        return first_possible(&effective.steps, 1, closer);
    };
    let declared = (1u32..).zip(&effective.steps).find(|(_, step)| step.action == action);
    let (step, recovery_deadline_seconds) = declared.map_or((0, built_in::RECOVERY_DEADLINE_SECONDS), |(number, step)| {
        (number, step.recovery_deadline_seconds)
    });
    match obstacle(action, closer) {
        Obstacle::None => Choice::Take(Attempt {
            number: 1,
            step,
            action,
            recovery_deadline_seconds,
            begins: false,
        }),
        Obstacle::Unasked => Choice::AskGuestAgent,
        Obstacle::Stands(blocked) => Choice::None(blocked),
    }
}

fn first_possible(steps: &[Step], from: u32, closer: &Closer) -> Choice {
    let mut number = from;
    let mut passed_over: Option<Blocked> = None;
    while let Some((step, declared)) = step_of(steps, number) {
        match obstacle(declared.action, closer) {
            Obstacle::None => {
                return Choice::Take(Attempt {
                    number,
                    step,
                    action: declared.action,
                    recovery_deadline_seconds: declared.recovery_deadline_seconds,
                    begins: false,
                });
            }
            Obstacle::Unasked => return Choice::AskGuestAgent,
            Obstacle::Stands(blocked) => passed_over = Some(blocked),
        }
        number = last_attempt_of(steps, step).saturating_add(1);
    }
    Choice::None(passed_over.unwrap_or_else(|| Blocked::new("StepsExhausted", "all steps were tried and the VM did not come back")))
}

enum Obstacle {
    None,
    Unasked,
    Stands(Blocked),
}

/// Why an action is not possible for a VM as it is.
fn obstacle(action: StepAction, closer: &Closer) -> Obstacle {
    let Ok(look) = &closer.look else { return Obstacle::None };
    match action {
        StepAction::Reset if look.no_reboot => Obstacle::Stands(Blocked::new(
            "NoReboot",
            "the VM has `reboot: 0` in Proxmox: a reset would stop it; a step PowerCycle stops and starts it",
        )),
        StepAction::Reset => Obstacle::None,
        StepAction::GuestReboot => match closer.guest_agent {
            None => Obstacle::Unasked,
            Some(GuestAgentState::Answers) => no_quorum(look),
            Some(_) => Obstacle::Stands(Blocked::new(
                "GuestAgentSilent",
                "GuestReboot goes through the QEMU guest agent, which does not answer; a step Reset or PowerCycle does without it",
            )),
        },
        StepAction::PowerCycle => no_quorum(look),
    }
}

/// A stop needs no quorum, the start after it does.
fn no_quorum(look: &Look) -> Obstacle {
    if look.no_quorum {
        Obstacle::Stands(Blocked::new(
            "NoQuorum",
            "the Proxmox cluster has no quorum: the VM could be stopped, and not be started again",
        ))
    } else {
        Obstacle::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(attempts: &[u32]) -> Vec<Step> {
        let step = |max_attempts: &u32| Step {
            action: StepAction::Reset,
            max_attempts: *max_attempts,
            recovery_deadline_seconds: 60,
        };
        attempts.iter().map(step).collect()
    }

    #[test]
    fn attempts_walk_through_the_steps() {
        let steps = steps(&[2, 1]);
        let numbers: Vec<_> = (1..=4).map(|a| step_of(&steps, a).map(|(n, _)| n)).collect();
        assert_eq!(numbers, [Some(1), Some(1), Some(2), None]);
    }

    #[test]
    fn the_last_attempt_of_a_step_is_the_sum_up_to_it() {
        let steps = steps(&[2, 1, 3]);
        assert_eq!([0, 1, 2, 3, 9].map(|n| last_attempt_of(&steps, n)), [0, 2, 3, 6, 6]);
    }
}
