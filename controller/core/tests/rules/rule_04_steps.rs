//! Steps: what an attempt does. One that is not possible is passed over and costs nothing; after a hard failure the next step follows.

use crate::common::*;
use defib_api::StepAction::{GuestReboot, PowerCycle, Reset};
use defib_api::*;
use defib_core::decide::Next;
use defib_core::journal::Books;

/// Action, step and attempt of what begins.
fn begins(scene: &Scene) -> Option<(StepAction, u32, u32)> {
    match scene.decide().next {
        Next::Begin(intent) => Some((intent.current.action, intent.current.step, intent.current.attempt)),
        _ => None,
    }
}

fn ladder() -> Scene {
    due().steps(&[(Reset, 2), (PowerCycle, 1)])
}

#[test]
fn attempts_walk_down_the_ladder() {
    let after = |attempts| ladder().episode(attempts, 1_000);
    assert_eq!(begins(&ladder()), Some((Reset, 1, 1)));
    assert_eq!(begins(&after(1)), Some((Reset, 1, 2)));
    assert_eq!(begins(&after(2)), Some((PowerCycle, 2, 3)));
    check(vec![("all were tried", after(3), "StepsExhausted")]);
}

#[test]
fn a_step_that_is_not_possible_is_passed_over() {
    let cases = [
        (
            "a reset would stop it",
            ladder().look(|l| l.no_reboot = true),
            Some((PowerCycle, 2, 3)),
        ),
        (
            "the guest agent is silent",
            due().steps(&[(GuestReboot, 1), (Reset, 1)]),
            Some((Reset, 2, 2)),
        ),
        (
            "it answers, and its answer is not to count",
            due()
                .steps(&[(GuestReboot, 1), (Reset, 1)])
                .corroborate(|c| c.guest_agent = Some(GuestAgentCheck::Ignore))
                .closer(|c| c.guest_agent = Some(GuestAgentState::Answers)),
            Some((GuestReboot, 1, 1)),
        ),
    ];
    for (case, scene, expected) in cases {
        assert_eq!(begins(&scene), expected, "{case}");
    }
    check(vec![
        (
            "a reset would stop it, and there is no other step",
            due().look(|l| l.no_reboot = true),
            "NoReboot",
        ),
        (
            "nobody answers, and there is no other step",
            due().steps(&[(GuestReboot, 2)]),
            "GuestAgentSilent",
        ),
    ]);
}

#[test]
fn who_may_reboot_the_guest_is_asked_whether_he_answers() {
    let unasked = due()
        .steps(&[(GuestReboot, 1), (Reset, 1)])
        .corroborate(|c| c.guest_agent = Some(GuestAgentCheck::Ignore))
        .closer(|c| c.guest_agent = None);
    assert_eq!(unasked.decide().next, Next::AskGuestAgent);
    let manual = due()
        .requested()
        .asking_for(ResetAction::GuestReboot)
        .closer(|c| c.guest_agent = None);
    assert_eq!(manual.decide().next, Next::AskGuestAgent);
}

#[test]
fn a_person_gets_what_was_asked_for() {
    let asked = |action| ladder().requested().asking_for(action);
    assert_eq!(begins(&asked(ResetAction::Auto)), Some((Reset, 1, 1)));
    assert_eq!(
        begins(&asked(ResetAction::Auto).look(|l| l.no_reboot = true)),
        Some((PowerCycle, 2, 3))
    );
    assert_eq!(begins(&asked(ResetAction::PowerCycle)), Some((PowerCycle, 2, 1)));
    let answers = asked(ResetAction::GuestReboot).closer(|c| c.guest_agent = Some(GuestAgentState::Answers));
    assert_eq!(
        begins(&answers),
        Some((GuestReboot, 0, 1)),
        "also what is none of the policy's steps"
    );
}

/// `guest-panicked` and `internal-error` are QEMU's own word for a dead guest. What is paused was paused by somebody, and a full disk is no reason to lose data.
#[test]
fn states_in_which_a_vm_is_reset() {
    let (yes, no) = (
        ["running", "guest-panicked", "internal-error"],
        ["paused", "prelaunch", "io-error", "suspended", "stopped", "postmigrate"],
    );
    for state in yes {
        assert!(begins(&due().look(|l| l.qmp_status = state.into())).is_some(), "{state}");
    }
    for state in no {
        check(vec![(state, due().look(|l| l.qmp_status = state.into()), "NotRunning")]);
    }
    for state in ["paused", "prelaunch", "io-error", "suspended"] {
        assert!(
            begins(&healthy().requested().looked().look(|l| l.qmp_status = state.into())).is_some(),
            "by hand: {state}"
        );
    }
}

#[test]
fn after_a_hard_failure_the_next_step_follows() {
    let steps = ladder().effective().steps;
    let attempts_after = |journal: CurrentReset, outcome| {
        let books = Books {
            current: None,
            recent: vec![],
            episode: ladder().episode(1, 1_000).vm.status.unwrap().episode,
        };
        let episode = books.episode.clone();
        books
            .begin(journal, episode)
            .finish(outcome, &steps, at(NOW))
            .episode
            .map(|e| e.attempts)
    };
    let cases = [
        ("it did not come back", TaskResult::OK, Outcome::NotRecovered, Some(1)),
        ("nobody knows", TaskResult::Unknown, Outcome::Unknown, Some(1)),
        ("Proxmox could not", TaskResult::Failed, Outcome::Failed, Some(2)),
        ("QEMU does not answer", TaskResult::Unresponsive, Outcome::Unknown, Some(2)),
        (
            "QEMU did not answer, and did it later",
            TaskResult::Unresponsive,
            Outcome::Recovered,
            None,
        ),
    ];
    for (case, result, outcome, expected) in cases {
        assert_eq!(attempts_after(ended(result), outcome), expected, "{case}");
    }
    let manual = CurrentReset {
        trigger: Trigger::Manual,
        ..ended(TaskResult::Failed)
    };
    assert_eq!(
        attempts_after(manual, Outcome::Failed),
        Some(1),
        "a person's attempt is none of the episode"
    );
    let last = CurrentReset {
        step: 2,
        attempt: 3,
        ..ended(TaskResult::Failed)
    };
    assert_eq!(attempts_after(last, Outcome::Failed), Some(3), "there is no other step");
}
