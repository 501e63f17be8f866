//! **Gates**, continued: `Observe` writes VMResets with `WouldReset`. All gates are judged as for a reset; nothing is done, and it is said once for each silence.

use crate::common::*;
use defib_api::{Mode, ResetPolicy};
use defib_core::conditions::kind;
use defib_core::decide::{Intent, Next};

fn observed() -> Scene {
    due().reset_policy(|p| p.mode = Some(Mode::Observe))
}

fn would(scene: &Scene) -> Intent {
    match scene.decide().next {
        Next::WouldReset(intent) => *intent,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_would_be_reset_is_recorded_once() {
    check(vec![
        ("nothing declares a mode", due().reset_policy(|p| p.mode = None), "Would"),
        ("the policy says Observe", observed(), "Would"),
        (
            "the VM says Observe, against its policy",
            due().spec(|s| {
                s.reset_policy = Some(ResetPolicy {
                    mode: Some(Mode::Observe),
                    ..ResetPolicy::default()
                });
            }),
            "Would",
        ),
        (
            "Defib was started with --observe-only",
            due().with(|s| s.observe_only = true),
            "Would",
        ),
        (
            "before Proxmox was looked at",
            silent().reset_policy(|p| p.mode = Some(Mode::Observe)),
            "Look",
        ),
        ("its guest agent was not asked", observed().closer(|c| c.guest_agent = None), "Ask"),
        (
            "a lock would hold a reset back",
            observed().look(|l| l.lock = Some("backup".into())),
            "ObserveOnly",
        ),
        ("so would the budget", observed().fleet(|f| f.all.unhealthy = 9), "ObserveOnly"),
        ("it is recorded", observed().with(|s| s.would_reset_recorded = true), "ObserveOnly"),
        (
            "it is recorded: Proxmox is not even looked at",
            silent().with(|s| {
                s.observe_only = true;
                s.would_reset_recorded = true;
            }),
            "ObserveOnly",
        ),
        (
            "what was recorded holds nobody back later",
            due().with(|s| s.would_reset_recorded = true),
            "Reset Automatic",
        ),
        ("a person's request runs", observed().requested(), "Reset Manual"),
    ]);
}

#[test]
fn a_record_costs_no_attempt_and_has_a_name_of_its_own() {
    let first = would(&observed());
    let episode = first.episode.unwrap();
    assert_eq!(episode.attempts, 0);
    assert_eq!(first.current.name, format!("web-1-{}-observed", episode.id));
    assert_eq!(first.why, "silent for 200 s, as witnessed by Defib");

    // The same silence under Enforce: its first attempt.
    let enforced = due().status(|s| s.episode = Some(episode.clone()));
    let begun = begun(&enforced);
    assert_eq!((begun.current.attempt, begun.current.step), (1, 1));
    assert_eq!(begun.current.name, format!("web-1-{}-1", episode.id));

    // An attempt of before stays counted.
    assert_eq!(would(&observed().episode(1, 1_000)).episode.unwrap().attempts, 1);
}

#[test]
fn a_recorded_silence_is_left_alone_until_it_ends() {
    let recorded = observed().with(|s| s.would_reset_recorded = true);
    let decision = recorded.decide();
    assert_eq!(decision.check_after, secs(300));
    assert!(
        decision.awaited && decision.held,
        "a heartbeat wakes, and Enforce begins to count anew"
    );
    assert_eq!(condition(&decision, kind::HEARTBEAT_FRESH).reason, "Silent");
    assert_eq!(
        observed().look(|l| l.lock = Some("backup".into())).decide().check_after,
        secs(15) / 2,
        "one that is not recorded yet is looked at like any other"
    );
}
