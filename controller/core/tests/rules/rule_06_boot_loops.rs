//! More than 3 boots an hour without us is a boot loop: alert, no reset.

use crate::common::*;
use defib_api::{Metric, Outcome, TaskResult, Threshold, ThresholdAction};
use defib_core::conditions::{Is, kind};
use defib_core::decide::Next;
use defib_core::heartbeat::{Expectation, Heartbeat};
use defib_core::journal::Step;
use std::sync::Arc;

const HOUR: u64 = 3_600;

/// So many seconds before NOW a new boot was heard of first.
fn booted(scene: Scene, ago: &[u64]) -> Scene {
    scene.booted_at(ago.iter().map(|ago| mono(NOW - ago)).collect())
}

/// Four boots of its own, the oldest so long ago.
fn looping(scene: Scene, oldest: u64) -> Scene {
    booted(scene, &[oldest, 900, 600, 300])
}

#[test]
fn more_than_three_boots_an_hour_are_a_loop() {
    check(vec![
        ("silent, and never seen to boot", due(), "Reset Automatic"),
        (
            "three boots: an admin who sets it up, an outage that came twice",
            booted(due(), &[900, 600, 300]),
            "Reset Automatic",
        ),
        ("four boots", looping(due(), 1_200), "BootLoop"),
        (
            "four boots, the first of them a second short of an hour ago",
            looping(due(), HOUR - 1),
            "BootLoop",
        ),
        ("four boots, the first of them an hour ago", looping(due(), HOUR), "Reset Automatic"),
        (
            "twelve boots, of which eight are remembered",
            booted(due(), &(0..12).map(|n| 1_300 - 100 * n).collect::<Vec<_>>()),
            "BootLoop",
        ),
        (
            "a person has forgiven what was before",
            looping(due(), 1_200).reset_policy(|p| p.forgive_before = Some(wall(NOW as i64 - 300))),
            "Reset Automatic",
        ),
        ("a person asks for it", looping(due().requested(), 1_200), "Reset Manual"),
        ("it is not silent", looping(healthy(), 1_200), "BootLoop"),
        (
            "it is paused",
            looping(due(), 1_200).spec(|s| s.pauses = vec![pause("a", None)]),
            "Paused",
        ),
        ("nothing is looked at in Proxmox for it", looping(silent(), 1_200), "BootLoop"),
    ]);
}

#[test]
fn a_threshold_resets_no_vm_that_boots_again_and_again() {
    let threshold = Threshold {
        metric: Metric::CPU,
        action: ThresholdAction::Reset,
        percent: 90,
        duration_seconds: 60,
    };
    let busy = healthy().looked().spec(|s| s.thresholds = vec![threshold.clone()]);
    let busy = busy.with(|s| s.heartbeat.over_since = vec![(threshold, mono(NOW - 100))]);
    check(vec![
        ("over its threshold", busy.clone(), "Reset Automatic"),
        ("and in a loop", looping(busy, 1_200), "BootLoop"),
    ]);
}

#[test]
fn what_a_reset_of_ours_caused_does_not_count() {
    let four = || looping(due(), 1_200);
    assert_eq!(four().with(|s| s.heartbeat.boots.caused("boot-1")).verdict(), "Reset Automatic");
    assert_eq!(
        four().with(|s| s.heartbeat.boots.caused("boot-9")).verdict(),
        "BootLoop",
        "another boot"
    );
}

#[test]
fn a_snapshot_that_is_rolled_back_brings_no_new_boot() {
    let mut h = Heartbeat::default();
    let e = Expectation::default();
    let mut take = |boot: &str, uptime: f64, s: u64| h.take(Arc::new(report(boot, uptime)), &e, mono(NOW - 1_000 + s));
    for n in 0..8 {
        // Each of the two is reported twice, so that it is the present.
        let boot = if n % 2 == 0 { "boot-a" } else { "boot-b" };
        take(boot, 100.0 + n as f64, 20 * n);
        take(boot, 110.0 + n as f64, 20 * n + 10);
    }
    let scene = due().with(|s| s.heartbeat.boots = h.boots.clone());
    assert_eq!(scene.verdict(), "Reset Automatic");
}

#[test]
fn the_arithmetic_is_told_and_when_it_ends() {
    let decision = looping(due(), 1_200).decide();
    let allowed = condition(&decision, kind::RESET_ALLOWED);
    let end = wall((NOW + HOUR - 1_200) as i64);
    assert!(
        allowed
            .message
            .starts_with("4 boots in the last hour that Defib did not cause, at most 3 are borne"),
        "{}",
        allowed.message
    );
    assert!(allowed.message.contains(&format!("next look at {end}")), "{}", allowed.message);
    // Whether it is silent or not, its end is not missed.
    for scene in [looping(due(), HOUR - 7), looping(healthy(), HOUR - 7)] {
        assert_eq!(scene.decide().check_after, secs(7));
    }
    let many = (0..12).map(|n| 1_200 - 100 * n).collect::<Vec<_>>();
    let decision = booted(due(), &many).decide();
    assert!(condition(&decision, kind::RESET_ALLOWED).message.starts_with("8 or more boots"));
}

#[test]
fn what_ready_says_of_it() {
    let goodbye = |s: Scene| s.reporting(|r| r.state = defib_api::AgentState::Stopping);
    let cases = [
        ("its reports come", looping(healthy(), 1_200), (Is::False, "BootLoop")),
        ("three boots", booted(healthy(), &[900, 600, 300]), (Is::True, "Healthy")),
        ("it is silent", looping(due(), 1_200), (Is::False, "Silent")),
        (
            "it is in its grace",
            looping(silent().heard(report("boot-4", 5.0), NOW - TIMEOUT - 1), 1_200),
            (Is::False, "BootLoop"),
        ),
        (
            "it has said goodbye to boot once more",
            looping(goodbye(healthy()), 1_200),
            (Is::False, "BootLoop"),
        ),
        (
            "not heard since we were deaf",
            looping(silent().observing_since(NOW - 5), 1_200),
            (Is::False, "BootLoop"),
        ),
        (
            "only observed",
            looping(healthy(), 1_200).with(|s| s.observe_only = true),
            (Is::False, "BootLoop"),
        ),
        (
            "paused: somebody works on it",
            looping(healthy(), 1_200).spec(|s| s.pauses = vec![pause("a", None)]),
            (Is::True, "Paused"),
        ),
        (
            "a reset is under way",
            looping(silent(), 1_200).under_way(ended(TaskResult::OK)),
            (Is::False, "Recovering"),
        ),
    ];
    for (case, scene, expected) in cases {
        let decision = scene.decide();
        let ready = condition(&decision, kind::READY);
        assert_eq!((ready.is, ready.reason), expected, "{case}");
    }
}

#[test]
fn a_reset_under_way_is_brought_to_its_end_in_a_loop_too() {
    let scene = looping(silent(), 1_200).under_way(ended(TaskResult::OK)).now(NOW + DEADLINE + 1);
    let Next::Continue(Step::Finish(ending)) = scene.decide().next else {
        panic!("{}", scene.verdict())
    };
    assert_eq!(ending.outcome, Outcome::NotRecovered);
}
