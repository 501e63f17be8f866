//! **Only witnessed silence counts**: age = now - max(ledger, live `lastReceivedTime`, observing since); server receive time, monotonic clock. Observing restarts
//! when the controller starts, becomes decider, when a pause ends, the clock jumps, or it was not serving. Timers that fire in the first 5 s after a late tick
//! decide nothing.

use crate::common::*;
use defib_api::Mode;
use defib_core::conditions::kind;
use defib_core::observer::{Observer, Trouble};
use defib_core::time::Now;
use defib_core::window::Windows;

#[test]
fn silence_is_counted_from_the_newest_of_three_moments() {
    check(vec![
        ("heard 59 s ago, of 60", healthy().silent_for(TIMEOUT - 1), "Armed"),
        ("heard 60 s ago", healthy().silent_for(TIMEOUT), "Look"),
        (
            "long silent, but we have listened for only 59 s",
            silent().observing_since(NOW - TIMEOUT + 1),
            "Armed",
        ),
        (
            "long silent, and we have listened for 60 s",
            silent().observing_since(NOW - TIMEOUT),
            "Look",
        ),
        (
            "not in the ledger, but published as received 59 s ago",
            healthy().empty_ledger().published(NOW as i64 - 59, |_| {}),
            "Armed",
        ),
        (
            "not in the ledger, and published as received 60 s ago",
            healthy().empty_ledger().published(NOW as i64 - 60, |_| {}),
            "Look",
        ),
        (
            "the live status is newer than the ledger",
            silent().published(NOW as i64 - 10, |_| {}),
            "Armed",
        ),
        ("a pause was lifted 59 s ago", silent().hold_lifted_at(NOW - TIMEOUT + 1), "Armed"),
        ("a pause was lifted 60 s ago", silent().hold_lifted_at(NOW - TIMEOUT), "Look"),
    ]);
}

#[test]
fn the_evidence_names_the_witnessed_silence_only() {
    let scene = due().observing_since(NOW - 70);
    let defib_core::decide::Next::Begin(intent) = scene.decide().next else {
        panic!("a reset is due")
    };
    assert_eq!(intent.evidence.silent_seconds, Some(70), "of 200 s, 70 were witnessed");
    assert_eq!(
        intent.evidence.last_received_time,
        Some(wall(NOW as i64 - 200)),
        "when it really was heard last"
    );
}

#[test]
fn each_trouble_of_ours_holds_the_reset_back() {
    for trouble in [
        Trouble::LateTick,
        Trouble::ClockJump,
        Trouble::Loopback,
        Trouble::Shed,
        Trouble::LeaseNotHeld,
        Trouble::WritesFailing,
        Trouble::PublicUrl("https://defib.example.com: timed out".into()),
    ] {
        let decision = due().trouble(trouble.clone()).decide();
        let allowed = condition(&decision, kind::RESET_ALLOWED);
        assert_eq!(
            (allowed.reason, decision.next.clone()),
            ("ObserverNotServing", defib_core::decide::Next::Nothing),
            "{trouble:?}"
        );
        assert!(allowed.message.contains(&*trouble.message()), "{}", allowed.message);
    }
    check(vec![(
        "a late tick was a moment ago",
        due().with(|s| s.observer.settling = true),
        "ObserverSettling",
    )]);
}

/// A Defib that has served since second 10, with a tick each second up to `s`.
fn serving_until(s: u64) -> Observer {
    let mut o = Observer::new(at(0));
    o.end(&Trouble::Loopback, mono(10));
    o.end(&Trouble::LeaseNotHeld, mono(10));
    for second in 1..=s {
        o.tick(at(second));
    }
    o
}

/// Results of our reports through the public URL from second 95 on: `+` came to this process, `-` did not.
fn public(o: &mut Observer, results: &str) {
    for (s, result) in (95..).zip(results.chars()) {
        o.public(if result == '+' { Ok(()) } else { Err("timed out".into()) }, mono(s));
    }
}

#[test]
fn while_the_way_of_the_agents_is_broken_nobody_is_silent_and_each_vm_says_why() {
    let cut = |scene: Scene| {
        let mut o = Observer::new(at(0));
        o.end(&Trouble::Loopback, mono(10));
        o.end(&Trouble::LeaseNotHeld, mono(10));
        o.tick(scene.now);
        for came in [Ok(()), Err("https://defib.example.com: timed out".into())] {
            for _ in 0..3 {
                o.public(came.clone(), scene.now.mono);
            }
        }
        let observer = o.view(scene.now);
        scene.with(|s| s.observer = observer)
    };
    for scene in [due(), silent(), healthy()] {
        let decision = cut(scene).decide();
        let allowed = condition(&decision, kind::RESET_ALLOWED);
        assert_eq!(allowed.reason, "ObserverNotServing");
        assert!(
            allowed.message.contains("https://defib.example.com: timed out"),
            "{}",
            allowed.message
        );
        assert_eq!(decision.next, defib_core::decide::Next::Nothing);
        assert!(decision.check_after <= secs(60));
    }
    assert_eq!(condition(&cut(silent()).decide(), kind::READY).reason, "Listening");
    check(vec![("a person asks for it", cut(due().requested()), "Reset Manual")]);
}

#[test]
fn each_trouble_starts_the_clocks_anew_and_only_its_end_lets_them_run() {
    type Case = (&'static str, fn(&mut Observer), u64);
    let cases: [Case; 10] = [
        ("nothing happened", |_| {}, 10),
        ("a report was shed", |o| o.moment(&Trouble::Shed, mono(100)), 100),
        (
            "the lease was lost and found",
            |o| {
                o.begin(Trouble::LeaseNotHeld, mono(95));
                o.end(&Trouble::LeaseNotHeld, mono(100));
            },
            100,
        ),
        (
            "the listener failed and served again",
            |o| {
                o.begin(Trouble::Loopback, mono(95));
                o.end(&Trouble::Loopback, mono(99));
            },
            99,
        ),
        (
            "two writes failed, the third succeeded",
            |o| {
                o.wrote(false, mono(95));
                o.wrote(false, mono(96));
                o.wrote(true, mono(98));
            },
            98,
        ),
        ("one write failed", |o| o.wrote(false, mono(95)), 10),
        (
            "our reports through the public URL failed three times, and the next came",
            |o| public(o, "+---+"),
            99,
        ),
        ("they failed twice in a row, again and again", |o| public(o, "+--+--+--"), 10),
        ("they never came", |o| public(o, "--------"), 10),
        (
            "of two troubles one is over",
            |o| {
                o.begin(Trouble::Loopback, mono(90));
                o.begin(Trouble::LeaseNotHeld, mono(90));
                o.end(&Trouble::Loopback, mono(91));
            },
            101,
        ),
    ];
    for (case, happens, since) in cases {
        let mut o = serving_until(100);
        happens(&mut o);
        assert_eq!(o.view(at(101)).since, mono(since), "{case}");
    }
}

#[test]
fn a_process_that_stood_still_decides_nothing_until_waiting_reports_were_read() {
    let mut o = serving_until(100);
    // The tick of second 101 comes at 104.001 s: over 3 s late.
    let late = Now {
        mono: defib_core::time::Mono(104_001),
        wall: at(104).wall + std::time::Duration::from_millis(1),
    };
    assert_eq!(o.view(late).trouble, Some(Trouble::LateTick), "seen before the tick itself has run");
    assert_eq!(o.tick(late), Some(Trouble::LateTick));
    for (s, settling) in [(105u64, true), (109, true), (110, false)] {
        let now = at(s);
        o.tick(now);
        assert_eq!((o.view(now).settling, o.view(now).since), (settling, late.mono), "second {s}");
    }
}

#[test]
fn every_hold_of_configuration_is_told_so_that_its_end_restarts_the_clock() {
    let cases = [
        ("Enforce, nothing stands", silent(), false),
        ("a pause of the VM", silent().spec(|s| s.pauses = vec![pause("a", None)]), true),
        (
            "a maintenance window",
            silent().with(|s| {
                s.windows = Windows::Open {
                    schedule: "* * * * *".into(),
                    closes: wall(NOW as i64 + 60),
                }
            }),
            true,
        ),
        ("mode Observe", silent().reset_policy(|p| p.mode = Some(Mode::Observe)), true),
        ("a policy that is missing", silent().with(|s| s.policy_is_missing = true), true),
        (
            "settings that contradict each other",
            silent().with(|s| s.policy.heartbeat.as_mut().unwrap().report_seconds = Some(30)),
            true,
        ),
        ("being deleted", silent().deleting(), true),
        (
            "a pause that has expired",
            silent().spec(|s| s.pauses = vec![pause("a", Some(wall(NOW as i64)))]),
            false,
        ),
    ];
    for (case, scene, held) in cases {
        assert_eq!(scene.decide().held, held, "{case}");
    }
}
