//! **Gates**, continued: cap and budgets. The cap is counted from `recentResets` alone, in a sliding window, across recoveries and restarts; `forgiveBefore` lifts it.
//! Population = armed VMs that are not paused, stopped or said goodbye; unhealthy = of those silent, in flight, verifying, in grace, or exhausted less than
//! windowSeconds ago. Checked at three widths: policy, ProxmoxCluster, all of Defib. Percent rounds up, never below 1.

use crate::common::*;
use defib_api::{AgentState, IntOrPercent};
use defib_core::conditions::kind;
use defib_core::fleet::{Count, Fleet, Limits, Standing, budget, over_committed, standing};

#[test]
fn the_cap_counts_what_lies_in_the_window_and_is_not_forgiven() {
    let forgive = |scene: Scene, ago: i64| scene.reset_policy(|p| p.forgive_before = Some(wall(NOW as i64 - ago)));
    check(vec![
        ("two of three", due().resets_ago(&[2_000, 1_000]), "Reset Automatic"),
        ("three of three", due().resets_ago(&[3_000, 2_000, 1_000]), "ResetsExhausted"),
        (
            "the oldest leaves the window in a second",
            due().resets_ago(&[WINDOW - 1, 2_000, 1_000]),
            "ResetsExhausted",
        ),
        (
            "the oldest has left the window",
            due().resets_ago(&[WINDOW, 2_000, 1_000]),
            "Reset Automatic",
        ),
        (
            "forgiven up to the newest: that one still counts",
            forgive(due().resets_ago(&[3_000, 2_000, 1_000]), 1_000),
            "Reset Automatic",
        ),
        (
            "forgiven up to the oldest: all three count",
            forgive(due().resets_ago(&[3_000, 2_000, 1_000]), 3_000),
            "ResetsExhausted",
        ),
        (
            "forgiven as of a time that lies ahead: a mistyped year does not lift the cap",
            forgive(due().resets_ago(&[3_000, 2_000, 1_000]), -1),
            "ResetsExhausted",
        ),
        (
            "a reset that is stored with a time ahead of ours counts",
            due().resets_ago(&[2_000, 1_000]).status(|s| {
                s.recent_resets.push(defib_api::RecentReset {
                    name: "ahead".into(),
                    time: wall(NOW as i64 + 5_000),
                });
            }),
            "ResetsExhausted",
        ),
        (
            "no episode, an empty ledger, another process: the cap stands",
            healthy()
                .empty_ledger()
                .published(NOW as i64 - 200, |_| {})
                .resets_ago(&[3_000, 2_000, 1_000])
                .looked(),
            "ResetsExhausted",
        ),
    ]);
}

#[test]
fn the_cap_says_its_arithmetic_and_when_it_opens() {
    let decision = due().resets_ago(&[WINDOW - 20, 2_000, 1_000]).decide();
    let allowed = condition(&decision, kind::RESET_ALLOWED);
    assert_eq!(
        allowed.message,
        "3 automatic resets in 86400 s, at most 3 allowed; the next one when that of 2027-01-15T11:47:00Z leaves the window, or when resetPolicy.forgiveBefore is set"
    );
    assert_eq!((decision.resets_in_window, decision.check_after), (3, secs(20)));

    let lowered = due()
        .resets_ago(&[WINDOW - 20, WINDOW - 40, 1_000])
        .reset_policy(|p| p.max_resets = Some(2))
        .decide();
    assert!(
        condition(&lowered, kind::RESET_ALLOWED)
            .message
            .contains("when that of 2027-01-15T11:47:20Z leaves"),
        "3 of 2: two have to leave the window, not one"
    );
    assert_eq!(lowered.check_after, secs(40));
}

#[test]
fn an_exhausted_vm_is_told_before_it_falls_silent() {
    let decision = healthy().resets_ago(&[3_000, 2_000, 1_000]).decide();
    assert_eq!(condition(&decision, kind::RESET_ALLOWED).reason, "ResetsExhausted");
    assert_eq!(condition(&decision, kind::READY).reason, "Healthy", "it lives, after all");
}

#[test]
fn all_steps_tried_is_the_end_until_a_window_has_passed() {
    check(vec![
        ("one attempt of two", due().episode(1, 100), "Reset Automatic"),
        ("two attempts of two", due().episode(2, 100), "StepsExhausted"),
        (
            "for one second less than the window",
            due().episode(2, WINDOW - 1),
            "StepsExhausted",
        ),
        ("for a window", due().episode(2, WINDOW), "Reset Automatic"),
        (
            "forgiven",
            due()
                .episode(2, 100)
                .reset_policy(|p| p.forgive_before = Some(wall(NOW as i64 - 99))),
            "Reset Automatic",
        ),
        (
            "forgiven as of a time that lies ahead",
            due()
                .episode(2, 100)
                .reset_policy(|p| p.forgive_before = Some(wall(NOW as i64 + 1))),
            "StepsExhausted",
        ),
        (
            "a step was added",
            due()
                .episode(2, 100)
                .reset_policy(|p| p.steps = Some(vec![reset_step(2), reset_step(1)])),
            "Reset Automatic",
        ),
    ]);
    let decision = due().episode(2, 100).decide();
    assert!(condition(&decision, kind::RESET_ALLOWED).message.contains("(2 attempts)"));
}

#[test]
fn a_new_episode_follows_an_exhausted_one_and_an_unfinished_one_goes_on() {
    let begun = |scene: Scene| match scene.decide().next {
        defib_core::decide::Next::Begin(intent) => {
            let episode = intent.episode.unwrap();
            (intent.current.attempt, intent.current.step, episode.attempts, episode.id == "e1")
        }
        other => panic!("{other:?}"),
    };
    let two_steps = |s: Scene| s.reset_policy(|p| p.steps = Some(vec![reset_step(1), reset_step(1)]));
    assert_eq!(begun(due()), (1, 1, 1, false), "first attempt of a first episode");
    assert_eq!(begun(due().episode(1, 100)), (2, 1, 2, true), "second attempt of the same");
    assert_eq!(
        begun(two_steps(due().episode(1, 100))),
        (2, 2, 2, true),
        "the next step of the same"
    );
    assert_eq!(
        begun(due().episode(2, WINDOW)),
        (1, 1, 1, false),
        "a new one, from the first step on"
    );
}

fn count(population: u32, unhealthy: u32, in_flight: u32) -> Count {
    Count {
        population,
        unhealthy,
        in_flight,
    }
}

fn percent(text: &str, max_in_flight: u32) -> Limits {
    Limits {
        max_in_flight,
        max_unhealthy: IntOrPercent::Percent(text.into()),
    }
}

#[test]
fn budgets_are_checked_at_three_widths_with_percent_rounded_up() {
    let free = count(10, 1, 0);
    let fleet = |policy, cluster, all| Fleet { policy, cluster, all };
    let cases = [
        ("room everywhere", fleet(free, free, free), None),
        ("20% of 10 is 2: two are allowed", fleet(count(10, 2, 0), free, free), None),
        (
            "20% of 10 is 2: three are not",
            fleet(count(10, 3, 0), free, free),
            Some(("MaxUnhealthy", "3 of 10 armed VMs of this policy are unhealthy, at most 2 allowed")),
        ),
        ("20% of 11 is rounded up to 3", fleet(count(11, 3, 0), free, free), None),
        (
            "one VM alone can always be helped",
            fleet(count(1, 1, 0), count(1, 1, 0), count(1, 1, 0)),
            None,
        ),
        (
            "both VMs of a fleet of two are down",
            fleet(count(2, 2, 0), free, free),
            Some(("MaxUnhealthy", "2 of 2 armed VMs of this policy are unhealthy, at most 1 allowed")),
        ),
        (
            "the cluster is down",
            fleet(free, count(20, 5, 0), free),
            Some((
                "MaxUnhealthy",
                "5 of 20 armed VMs of this ProxmoxCluster are unhealthy, at most 4 allowed",
            )),
        ),
        (
            "everything is down",
            fleet(free, free, count(1_000, 201, 0)),
            Some((
                "MaxUnhealthy",
                "201 of 1000 armed VMs of all of Defib are unhealthy, at most 200 allowed",
            )),
        ),
        (
            "one in flight in the policy, of one",
            fleet(count(100, 2, 1), free, free),
            Some(("MaxInFlight", "1 resets are under way in this policy, at most 1 allowed")),
        ),
        ("two in flight in the cluster, of three", fleet(free, count(100, 3, 2), free), None),
        (
            "three in flight in the cluster, of three",
            fleet(free, count(100, 4, 3), free),
            Some(("MaxInFlight", "3 resets are under way in this ProxmoxCluster, at most 3 allowed")),
        ),
        (
            "three in flight in all, of three",
            fleet(free, free, count(100, 4, 3)),
            Some(("MaxInFlight", "3 resets are under way in all of Defib, at most 3 allowed")),
        ),
    ];
    for (case, fleet, expected) in cases {
        let direct = budget(&fleet, &percent("20%", 1), &percent("20%", 3));
        assert_eq!(direct.as_ref().map(|b| b.reason), expected.map(|e| e.0), "{case}");
        // The same through a whole decision: the policy's own budget, and the limits of Defib.
        let scene = due().budget("20%", 1).with(|s| s.closer.as_mut().unwrap().fleet = fleet);
        let decision = scene.decide();
        match expected {
            None => assert_eq!(scene.verdict(), "Reset Automatic", "{case}"),
            Some((reason, says)) => {
                let allowed = condition(&decision, kind::RESET_ALLOWED);
                assert_eq!(allowed.reason, reason, "{case}");
                assert!(allowed.message.contains(says), "{case}: {}", allowed.message);
            }
        }
    }
}

#[test]
fn how_each_vm_counts() {
    use Standing::{Apart, Healthy, Unhealthy};
    let paused = |s: Scene| (s, true);
    let plain = |s: Scene| (s, false);
    let cases = [
        ("heard of", plain(healthy()), Healthy),
        ("silent", plain(silent()), Unhealthy),
        (
            "two and a half periods quiet",
            plain(healthy().heard(report("boot-a", 900.0), NOW - 25)),
            Healthy,
        ),
        (
            "late: over two and a half periods quiet",
            plain(healthy().heard(report("boot-a", 900.0), NOW - 26)),
            Unhealthy,
        ),
        ("in grace", plain(healthy().heard(report("boot-a", 0.0), NOW - 70)), Unhealthy),
        (
            "not heard yet: published yesterday, and we have just begun to listen",
            plain(
                healthy()
                    .empty_ledger()
                    .published(NOW as i64 - 90_000, |_| {})
                    .observing_since(NOW - 10),
            ),
            Unhealthy,
        ),
        (
            "the same, by a clock that began with the process",
            plain(healthy().empty_ledger().published(-90_000, |_| {}).now(10).observing_since(0)),
            Unhealthy,
        ),
        (
            "heard by the process before us, a moment ago",
            plain(
                healthy()
                    .empty_ledger()
                    .published(NOW as i64 - 20, |_| {})
                    .observing_since(NOW - 10),
            ),
            Healthy,
        ),
        ("never reported", plain(healthy().empty_ledger()), Apart),
        ("said goodbye", plain(silent().reporting(|r| r.state = AgentState::Stopping)), Apart),
        ("started by hand", plain(silent().reporting(|r| r.supervised = false)), Apart),
        ("paused and silent", paused(silent()), Apart),
        ("stopped", plain(silent().status(|s| s.power = Some("stopped".into()))), Apart),
        ("being deleted", plain(silent().deleting()), Apart),
        ("given up a moment ago", plain(silent().episode(2, 100)), Unhealthy),
        ("given up a window ago", plain(silent().episode(2, WINDOW)), Apart),
        (
            "given up once, long ago, and well since",
            plain(healthy().episode(2, WINDOW)),
            Healthy,
        ),
    ];
    for (case, (scene, paused), expected) in cases {
        let effective = scene.effective();
        assert_eq!(standing(&scene.vm, &scene.vital(&effective), paused, scene.now), expected, "{case}");
    }
}

#[test]
fn a_reset_under_way_counts_whatever_the_vm_says() {
    for (standing, population) in [(Standing::Apart, 1), (Standing::Healthy, 1), (Standing::Unhealthy, 1)] {
        let mut c = Count::default();
        c.add(standing, true);
        assert_eq!(c, count(population, 1, 1), "{standing:?}");
    }
    let mut c = Count::default();
    for s in [Standing::Apart, Standing::Healthy, Standing::Unhealthy] {
        c.add(s, false);
    }
    assert_eq!(c, count(2, 1, 0), "one is apart, one is well, one is not");
}

#[test]
fn intents_in_the_journals_may_fill_the_budget_and_not_exceed_it() {
    let (policy, all) = (percent("20%", 1), percent("20%", 3));
    let cases = [
        ("only ours", [1, 1, 1], false),
        ("full elsewhere", [1, 3, 3], false),
        ("another in our policy", [2, 2, 2], true),
        ("a fourth in our cluster", [1, 4, 4], true),
        ("a fourth in all", [1, 1, 4], true),
    ];
    for (case, live, expected) in cases {
        assert_eq!(over_committed(live, &policy, &all), expected, "{case}");
    }
}

#[test]
fn no_gate_costs_an_attempt() {
    let blocked = due().episode(1, 100).resets_ago(&[100]).look(|l| l.lock = Some("backup".into()));
    let before = blocked.vm.status.clone();
    for s in 0..50 {
        assert_eq!(blocked.verdict(), "Locked", "look {s}");
    }
    assert_eq!(blocked.vm.status, before);
    let freed = blocked.looked();
    let defib_core::decide::Next::Begin(intent) = freed.decide().next else {
        panic!("the lock is gone")
    };
    assert_eq!(intent.current.attempt, 2, "still the second attempt");
}
