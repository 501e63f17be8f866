//! **Recovered** = a heartbeat received after the task ended, of a boot id not received before it, with an uptime shorter than the time since our POST (+5 s), fresh for
//! stabilizationSeconds. A finished Proxmox task proves nothing.

use crate::common::*;
use defib_api::{AgentState, CurrentReset, Outcome, TaskResult};
use defib_core::decide::Next;
use defib_core::journal::Step;

/// The task ended a second after NOW; it is so many seconds after NOW.
fn later(s: u64) -> Scene {
    silent().under_way(ended(TaskResult::OK)).now(NOW + s)
}

/// A report received so many seconds after NOW.
fn heard(scene: Scene, boot: &str, uptime: f64, s: u64) -> Scene {
    scene.heard(report(boot, uptime), NOW + s)
}

/// The new boot was first heard at `first` and last at `newest` seconds after NOW.
fn stable(scene: Scene, first: u64, newest: u64) -> Scene {
    heard(scene, "boot-b", newest as f64 - 5.0, newest).with(|s| s.heartbeat.boot_first_received = Some(mono(NOW + first)))
}

fn outcome(scene: &Scene) -> Option<Outcome> {
    match scene.step() {
        Step::Finish(ending) => Some(ending.outcome),
        Step::Verify { .. } => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_proves_a_recovery_and_what_does_not() {
    use Outcome::{NotRecovered, Recovered};
    let end = DEADLINE + 1;
    let cases = [
        ("the task has ended well, and nothing else", later(DEADLINE), None),
        ("nothing within the deadline", later(end), Some(NotRecovered)),
        ("a new boot, fresh for the time", stable(later(60), 20, 50), Some(Recovered)),
        ("a new boot, a second short of the time", stable(later(49), 20, 49), None),
        (
            "the old boot is fresh again: it had hung, and hangs no more",
            heard(later(end), "boot-a", 3_700.0, DEADLINE),
            Some(NotRecovered),
        ),
        (
            "a boot of before the last one, from a snapshot that was rolled back",
            heard(later(end), "boot-0", 30.0, DEADLINE).with(|s| s.heartbeat.previous_boots.push_back("boot-0".into())),
            Some(NotRecovered),
        ),
        (
            "a new boot id, but it was up before our request",
            heard(later(end), "boot-b", 700.0, DEADLINE),
            Some(NotRecovered),
        ),
        (
            "received before the task had ended",
            later(end).heard(report("boot-b", 1.0), NOW),
            Some(NotRecovered),
        ),
    ];
    for (case, scene, expected) in cases {
        assert_eq!(outcome(&scene), expected, "{case}");
    }
}

/// A number that was a mistake, and was put right while the reset was under way.
#[test]
fn the_shorter_stabilization_counts_of_that_declared_then_and_that_declared_now() {
    let cases = [
        ("as declared then and now", STABILIZATION, STABILIZATION, true),
        ("a day then, put right now", 86_400, STABILIZATION, true),
        (
            "a day now: those that are under way do not wait for it",
            STABILIZATION,
            86_400,
            true,
        ),
        ("a day then and now", 86_400, 86_400, false),
    ];
    for (case, then, now, recovered) in cases {
        let scene = stable(later(60), 20, 50)
            .status(|s| s.current_reset.as_mut().unwrap().stabilization_seconds = then as u32)
            .reset_policy(|p| p.stabilization_seconds = Some(now as u32));
        assert_eq!(outcome(&scene) == Some(Outcome::Recovered), recovered, "{case}");
    }
}

#[test]
fn the_uptime_may_exceed_the_time_since_our_request_by_less_than_5_s() {
    for (uptime, proves) in [(10.0, true), (24.9, true), (25.0, false), (3_000.0, false)] {
        let scene = heard(later(20), "boot-b", uptime, 20);
        let stabilizing = matches!(scene.step(), Step::Verify { stabilizing: true, .. });
        assert_eq!(stabilizing, proves, "{uptime} s up, 20 s after the request");
    }
}

#[test]
fn a_report_from_before_the_end_of_the_task_begins_no_stabilization() {
    for (received, stabilizing) in [(NOW, false), (NOW + 1, true)] {
        let scene = later(10).heard(report("boot-b", 1.0), received);
        assert!(
            matches!(scene.step(), Step::Verify { stabilizing: is, .. } if is == stabilizing),
            "received at {received}, the task ended at {}",
            NOW + 1
        );
    }
}

#[test]
fn a_process_that_began_after_the_request_proves_it_as_well() {
    // Sent 1000 s before this process began; booted 990 s before it; heard for a minute.
    let journal = CurrentReset {
        intent_time: wall(-1_000),
        sent_time: Some(wall(-1_000)),
        task_end_time: Some(wall(-999)),
        ..ended(TaskResult::OK)
    };
    let scene = healthy()
        .under_way(journal)
        .now(70)
        .observing_since(0)
        .heard(report("boot-b", 990.0 + 65.0), 65)
        .with(|s| s.heartbeat.boot_first_received = Some(mono(5)));
    assert_eq!(outcome(&scene), Some(Outcome::Recovered));
}

#[test]
fn one_report_alone_is_no_recovery() {
    // With a time-out longer than the stabilization a VM is not silent yet when the time is over; it must have been heard again.
    let cases = [
        ("the time is over, one report", stable(later(50), 20, 20), None),
        (
            "heard again when the time is over",
            stable(later(51), 20, 50),
            Some(Outcome::Recovered),
        ),
        ("never again", stable(later(20 + TIMEOUT), 20, 20), Some(Outcome::NotRecovered)),
        (
            "it said goodbye, in good order",
            stable(later(50), 20, 20).reporting(|r| r.state = AgentState::Stopping),
            Some(Outcome::Recovered),
        ),
        (
            "it said goodbye a moment ago",
            stable(later(49), 20, 20).reporting(|r| r.state = AgentState::Stopping),
            None,
        ),
    ];
    for (case, scene, expected) in cases {
        assert_eq!(outcome(&scene), expected, "{case}");
    }
}

#[test]
fn silent_again_before_it_was_stable_is_the_same_episode() {
    let scene = stable(later(40 + TIMEOUT), 20, 40).episode(1, 5_000);
    let Step::Finish(ending) = scene.step() else {
        panic!("it is silent")
    };
    assert_eq!(
        (ending.outcome, ending.boot_id_after.as_deref()),
        (Outcome::NotRecovered, Some("boot-b"))
    );
    let books = defib_core::journal::Books::of(scene.vm.status.as_ref()).finish(ending.outcome, &[], scene.now);
    let next = scene
        .status(|s| {
            s.current_reset = books.current;
            s.episode = books.episode;
        })
        .now(NOW + 20 + GRACE + 1_000)
        .looked();
    let Next::Begin(intent) = next.decide().next else {
        panic!("{:?}", next.verdict())
    };
    assert_eq!((intent.current.attempt, intent.episode.unwrap().id.as_str()), (2, "e1"));
}

#[test]
fn a_vm_that_boots_again_and_again_does_not_stay_in_flight_for_ever() {
    // A new boot every 20 s: never silent, never stable.
    let booted = |s: u64| {
        heard(later(s), "boot-z", 5.0, s - 1).with(|scene| {
            let first = scene.heartbeat.report.as_ref().map(|(at, _)| *at);
            scene.heartbeat.boot_first_received = first;
        })
    };
    let give_up = 1 + DEADLINE + STABILIZATION + TIMEOUT;
    assert_eq!(outcome(&booted(give_up - 1)), None);
    assert_eq!(outcome(&booted(give_up)), Some(Outcome::NotRecovered));
    assert_eq!(
        outcome(&booted(give_up).observing_since(NOW + give_up - 10)),
        None,
        "we have listened for 10 s only: nothing is given up unwatched"
    );
}

#[test]
fn each_boot_begins_the_stabilization_anew() {
    let scene = stable(later(60), 55, 59);
    assert_eq!(
        scene.step(),
        Step::Verify {
            stabilizing: true,
            recheck: secs(25)
        }
    );
}

#[test]
fn stabilization_counts_from_the_end_of_the_task_and_not_from_before() {
    // Its answer was lost, so the end of the task is when the search was given up: 100 s after the request. The new boot has reported since second 20.
    let journal = CurrentReset {
        task_end_time: Some(wall(NOW as i64 + 100)),
        ..ended(TaskResult::Unknown)
    };
    let scene = |s| stable(silent().under_way(journal.clone()).now(NOW + s), 20, s);
    assert_eq!(outcome(&scene(129)), None);
    assert_eq!(outcome(&scene(130)), Some(Outcome::Recovered));
}

#[test]
fn the_episode_ends_by_itself_when_the_vm_was_fresh_for_the_time() {
    let over = |scene: Scene| scene.decide().episode_over;
    let cases = [
        (
            "fresh for the time",
            healthy().episode(1, 500).fresh_condition("True", NOW - STABILIZATION),
            true,
        ),
        (
            "fresh, a second short",
            healthy().episode(1, 500).fresh_condition("True", NOW - STABILIZATION + 1),
            false,
        ),
        (
            "fresh by now, but published as silent",
            healthy().episode(1, 500).fresh_condition("False", NOW - 500),
            false,
        ),
        (
            "silent, whatever is published",
            silent().episode(1, 500).fresh_condition("True", NOW - 500),
            false,
        ),
        ("no episode", healthy().fresh_condition("True", NOW - 500), false),
        (
            "a reset is under way: its end decides",
            healthy()
                .episode(1, 500)
                .fresh_condition("True", NOW - 500)
                .under_way(ended(TaskResult::OK)),
            false,
        ),
        (
            "not heard since a restart of ours",
            healthy()
                .episode(2, 500)
                .fresh_condition("True", 0)
                .empty_ledger()
                .published(-5_000, |_| {})
                .now(50)
                .observing_since(0),
            false,
        ),
    ];
    for (case, scene, expected) in cases {
        assert_eq!(over(scene), expected, "{case}");
    }
}

/// The wall clock was set back by five minutes while the VM was to prove itself: the deadline does not wait until the clock is where it was.
#[test]
fn a_clock_that_was_set_back_does_not_keep_a_reset_under_way() {
    let back = |unchanged: u64| {
        silent().episode(1, 5_000).under_way(ended(TaskResult::OK)).with(|s| {
            s.journal_unchanged = secs(unchanged);
            s.now = at(NOW + 1 + unchanged);
            s.now.wall = wall(NOW as i64 - 300);
        })
    };
    assert!(matches!(back(DEADLINE - 1).step(), Step::Verify { .. }));
    let Step::Finish(ending) = back(DEADLINE).step() else {
        panic!("the deadline has passed")
    };
    assert_eq!(ending.outcome, Outcome::NotRecovered);
}
