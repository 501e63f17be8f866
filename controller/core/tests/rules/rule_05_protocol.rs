//! **The protocol**: wake from cache -> live GET -> look at Proxmox -> decide again -> compare-and-swap `currentReset` and `recentResets` -> live LIST of all intents: more
//! than the budgets allow = withdraw, no attempt -> last check: under 10 s since the decision. An intent of another holder is left alone until watched unchanged
//! for 60 s. A `lastReceivedTime` newer than our observing-since that is not ours: `ManagedByAnother`, no decision.

use crate::common::*;
use defib_api::{CurrentReset, Outcome, RecentReset, TaskResult, Trigger};
use defib_core::decide::Intent;
use defib_core::journal::{Books, Change, FOREIGN_INTENT, INTENT_EXPIRES, Sent, Step, sent as after_sending};

#[test]
fn nothing_begins_from_the_cache_alone() {
    check(vec![
        ("silence", silent(), "Look"),
        ("a person's request", healthy().requested(), "Look"),
        ("both", silent().requested(), "Look"),
    ]);
}

#[test]
fn the_journal_holds_all_that_another_process_needs() {
    let scene = due().episode(1, 100);
    assert_eq!(
        begun(&scene).current,
        CurrentReset {
            name: "web-1-e1-2".into(),
            attempt: 2,
            ..intent()
        }
    );
    let Intent { evidence, why, .. } = begun(&scene.reporting(|r| r.cpu_percent = 99.6));
    assert_eq!(why, "silent for 200 s, as witnessed by Defib");
    assert_eq!(
        (
            evidence.cpu_percent,
            evidence.memory_percent,
            evidence.qmp_status.as_deref(),
            evidence.fleet.as_deref()
        ),
        (Some(100), Some(25), Some("running"), Some("1 of 10 unhealthy"))
    );
}

#[test]
fn the_boot_before_is_known_to_a_process_that_has_just_started() {
    let scene = healthy().empty_ledger().published(NOW as i64 - 200, |_| {}).looked();
    assert_eq!(begun(&scene).current.boot_id_before.as_deref(), Some("boot-a"));
}

#[test]
fn two_controllers_on_one_view_come_to_one_name() {
    // The compare-and-swap lets one of them in; a name of its own for each would make two records of one reset.
    let scene = due().episode(1, 100);
    assert_eq!(begun(&scene).current.name, begun(&scene.now(NOW + 3)).current.name);
}

#[test]
fn an_intent_of_another_is_left_alone_until_it_was_watched_unchanged_for_60_s() {
    let foreign = |unchanged: u64| {
        silent()
            .under_way(CurrentReset {
                holder: "defib-1".into(),
                ..intent()
            })
            .with(|s| s.journal_unchanged = secs(unchanged))
    };
    let cases = [
        (
            "just seen, however old it is",
            foreign(0).now(NOW + 9_000),
            Step::Leave { recheck: secs(60) },
        ),
        ("watched for 59 s", foreign(59), Step::Leave { recheck: secs(1) }),
        ("watched for 60 s", foreign(60), Step::TakeOver),
        (
            "ours, however short",
            foreign(0).status(|s| s.current_reset = Some(intent())),
            Step::Search { since: wall(NOW as i64) },
        ),
    ];
    for (case, scene, expected) in cases {
        assert_eq!(scene.step(), expected, "{case}");
    }
}

#[test]
fn an_intent_expires_long_before_another_process_takes_it_over() {
    assert_eq!(INTENT_EXPIRES, secs(10));
    assert!(FOREIGN_INTENT >= INTENT_EXPIRES * 6);
}

#[test]
fn a_swap_counts_at_once_and_a_withdrawal_costs_nothing() {
    for (case, scene) in [
        ("a first attempt", due().resets_ago(&[900])),
        ("a later attempt", due().resets_ago(&[900]).episode(1, 100)),
        ("a person's", due().resets_ago(&[900]).episode(1, 100).requested()),
    ] {
        let before = Books::of(scene.vm.status.as_ref());
        let Intent { current, episode, .. } = begun(&scene);
        let automatic = current.trigger == Trigger::Automatic;
        let entered = before.clone().begin(current.clone(), episode);
        assert_eq!(entered.current.as_ref(), Some(&current), "{case}");
        assert_eq!(
            entered.recent.len() - before.recent.len(),
            usize::from(automatic),
            "{case}: it counts from the moment it is in the journal"
        );
        assert_eq!(entered.withdraw(), before, "{case}");
    }
}

#[test]
fn what_is_known_after_the_request_was_sent() {
    let now = at(NOW + 1);
    let text = || "x".to_owned();
    let after = |outcome| after_sending(&intent(), outcome, now);
    let Change::Write(written) = after(Sent::Task { upid: "UPID:1".into() }) else {
        panic!("a task is written down")
    };
    assert_eq!(
        (written.upid.as_deref(), written.sent_time, written.task_result),
        (Some("UPID:1"), Some(now.wall), None)
    );
    for (outcome, reason) in [
        (Sent::NotDelivered { text: text() }, "NotDelivered"),
        (Sent::Refused { text: text() }, "RefusedByProxmox"),
    ] {
        assert!(
            matches!(after(outcome), Change::Withdraw { reason: r, .. } if r == reason),
            "{reason} costs no attempt"
        );
    }
    let manual = CurrentReset {
        trigger: Trigger::Manual,
        ..intent()
    };
    let Change::Write(refused) = after_sending(&manual, Sent::Refused { text: text() }, now) else {
        panic!("a person is told that Proxmox refuses")
    };
    assert_eq!(refused.task_result, Some(TaskResult::Failed));
}

#[test]
fn the_end_clears_the_journal_and_keeps_the_count() {
    let scene = due().episode(1, 100).resets_ago(&[900]);
    let Intent { current, episode, .. } = begun(&scene);
    let entered = Books::of(scene.vm.status.as_ref()).begin(current, episode);
    for outcome in [Outcome::Recovered, Outcome::NotRecovered, Outcome::Failed, Outcome::Unknown] {
        let done = entered.clone().finish(outcome, &[], at(NOW + 700));
        assert_eq!((done.current, done.recent), (None, entered.recent.clone()), "{outcome:?}");
        match outcome {
            Outcome::Recovered => assert_eq!(done.episode, None),
            _ => assert_eq!(
                done.episode.map(|e| (e.attempts, e.last_end_time)),
                Some((2, Some(wall(NOW as i64 + 700)))),
                "{outcome:?}: the episode goes on"
            ),
        }
    }
}

#[test]
fn a_heartbeat_that_another_defib_writes_stops_all_decisions() {
    check(vec![(
        "a foreign heartbeat",
        due().with(|s| s.foreign_heartbeat = true),
        "ManagedByAnother",
    )]);
}

/// Two resets of one name would share a record. Only a clock that is set back to the very millisecond could make them.
#[test]
fn an_episode_has_no_name_that_was_used() {
    let first = begun(&due()).current.name;
    let again = due().status(|s| {
        s.recent_resets = vec![RecentReset {
            name: first.clone(),
            time: wall(NOW as i64),
        }];
    });
    assert_ne!(begun(&again).current.name, first);
}
