//! **By trigger**, continued: Threshold = "fresh and over" instead of "armed and silent", no corroboration; all other gates as for silence.

use crate::common::*;
use defib_api::{GuestAgentState, Metric, Mode, Threshold, ThresholdAction};
use defib_core::conditions::kind;
use defib_core::decide::Cause;
use defib_core::observer::Trouble;

const DURATION: u64 = 600;

fn threshold(metric: Metric, action: ThresholdAction) -> Threshold {
    Threshold {
        metric,
        action,
        percent: 95,
        duration_seconds: DURATION as u32,
    }
}

/// Heard 5 s ago, and over this threshold for so long.
fn over_for(threshold: &Threshold, s: u64) -> Scene {
    healthy().looked().with(|scene| {
        scene.policy.thresholds = vec![threshold.clone()];
        scene.heartbeat.over_since = vec![(threshold.clone(), mono(NOW - s))];
    })
}

fn busy() -> Scene {
    over_for(&threshold(Metric::CPU, ThresholdAction::Reset), DURATION)
}

#[test]
fn only_who_opts_in_is_reset_for_what_it_uses() {
    use Metric::{CPU, Disk, Memory};
    use ThresholdAction::{Alert, Reset};
    check(vec![
        ("CPU, Reset", busy(), "Reset Automatic"),
        ("Memory, Reset", over_for(&threshold(Memory, Reset), DURATION), "Reset Automatic"),
        ("CPU, Alert", over_for(&threshold(CPU, Alert), DURATION), "Armed"),
        ("a second too short", over_for(&threshold(CPU, Reset), DURATION - 1), "Armed"),
        (
            "Disk, as no schema lets it through: a reset empties no disk",
            over_for(&threshold(Disk, Reset), DURATION),
            "Armed",
        ),
        (
            "the threshold is not in the policy any more",
            busy().with(|s| s.policy.thresholds.clear()),
            "Armed",
        ),
        ("before Proxmox was looked at", busy().with(|s| s.closer = None), "Look"),
        ("observed only", busy().reset_policy(|p| p.mode = Some(Mode::Observe)), "Would"),
    ]);
}

#[test]
fn all_other_gates_stand() {
    check(vec![
        ("a pause", busy().spec(|s| s.pauses = vec![pause("a", None)]), "Paused"),
        ("not armed", busy().reporting(|r| r.supervised = false), "Unsupervised"),
        ("a lock", busy().look(|l| l.lock = Some("backup".into())), "Locked"),
        ("Defib runs in it", busy().with(|s| s.own_node = Some(MACHINE)), "OwnHost"),
        ("the cap", busy().resets_ago(&[3_000, 2_000, 1_000]), "ResetsExhausted"),
        ("all steps were tried", busy().episode(2, 100), "StepsExhausted"),
        ("the budget", busy().fleet(|f| f.policy.in_flight = 1), "MaxInFlight"),
        ("a bad witness", busy().trouble(Trouble::Loopback), "ObserverNotServing"),
        (
            "the guest booted a moment ago",
            busy().reporting(|r| r.uptime_seconds = GRACE as f64 - 6.0),
            "StartupGrace",
        ),
        (
            "the guest has booted long enough ago",
            busy().reporting(|r| r.uptime_seconds = GRACE as f64 - 5.0),
            "Reset Automatic",
        ),
    ]);
}

#[test]
fn what_the_guest_does_is_no_reason_not_to() {
    check(vec![
        ("it reads and writes", busy().quiet_for(0), "Reset Automatic"),
        (
            "its guest agent was not asked",
            busy().closer(|c| c.guest_agent = None),
            "Reset Automatic",
        ),
        (
            "its guest agent answers",
            busy().closer(|c| c.guest_agent = Some(GuestAgentState::Answers)),
            "Reset Automatic",
        ),
    ]);
}

#[test]
fn the_duration_counts_only_while_reports_were_witnessed() {
    check(vec![
        (
            "we have listened for a second less",
            busy().observing_since(NOW - DURATION + 1),
            "Armed",
        ),
        ("for as long", busy().observing_since(NOW - DURATION), "Reset Automatic"),
        ("a pause ended meanwhile", busy().hold_lifted_at(NOW - DURATION + 1), "Armed"),
        // 26 s is over two and a half of its periods of 10 s.
        (
            "reports are missing",
            busy().with(|s| {
                s.heartbeat.last_life = Some(mono(NOW - 26));
            }),
            "Armed",
        ),
    ]);
}

#[test]
fn it_is_an_attempt_like_any_other_and_says_why() {
    let intent = begun(&busy());
    assert_eq!(intent.cause, Some(Cause::Threshold));
    assert_eq!(intent.why, "CPU above 95 % for 600 s");
    assert_eq!((intent.current.attempt, intent.evidence.silent_seconds), (1, None));
    assert_eq!(begun(&due()).cause, Some(Cause::Silence));
    assert_eq!(begun(&busy().requested()).cause, None);
}

#[test]
fn it_waits_for_a_gate_as_a_silent_vm_does() {
    let locked = busy().look(|l| l.lock = Some("backup".into())).decide();
    assert_eq!(locked.check_after, secs(15) / 2);
    assert_eq!(condition(&locked, kind::READY).reason, "ThresholdExceeded", "it lives, after all");
    let paused = healthy().spec(|s| s.pauses = vec![pause("a", None)]).decide();
    assert_eq!(paused.check_after, secs(40), "a healthy one does not");
}

#[test]
fn an_episode_is_not_over_while_the_threshold_is_exceeded() {
    let fresh = |scene: Scene| scene.episode(1, 100).fresh_condition("True", NOW - 3_600).decide().episode_over;
    assert!(!fresh(busy()));
    assert!(fresh(healthy()));
}
