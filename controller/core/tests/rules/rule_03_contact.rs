//! **Contact is not silence.** A request with a valid key is life, whatever its body: it moves the ledger and shows `Rejected`. A wrong key that names the VM is
//! contact for at most maxVetoSeconds an episode. Within one boot a lower uptime is an older report and is dropped. Every orderly stop of an agent says
//! `state: Stopping`, which disarms until the next heartbeat.

use crate::common::*;
use defib_api::AgentState;
use defib_core::conditions::{Is, kind};
use defib_core::heartbeat::{Expectation, Heartbeat, Taken};
use std::sync::Arc;

/// Silent since NOW - 200, and somebody named it with a wrong key first and last at these times before now.
fn wrong_key(first_ago: u64, newest_ago: u64) -> Scene {
    silent().with(|s| s.heartbeat.wrong_key = Some((mono(NOW - first_ago), mono(NOW - newest_ago))))
}

#[test]
fn a_wrong_key_holds_back_for_a_bounded_time_only() {
    check(vec![
        ("a moment ago", wrong_key(1, 1), "WrongKey"),
        ("for 899 s", wrong_key(899, 1), "WrongKey"),
        ("for 900 s: whoever it is, it is no proof of life", wrong_key(900, 1), "Look"),
        ("for days", wrong_key(90_000, 1), "Look"),
        (
            "59 s ago for the last time, and then no more",
            wrong_key(100, TIMEOUT - 1),
            "WrongKey",
        ),
        ("60 s ago for the last time", wrong_key(100, TIMEOUT), "Look"),
    ]);
}

#[test]
fn the_veto_says_how_long_it_can_last_and_is_looked_at_again_by_then() {
    let decision = wrong_key(890, 1).decide();
    assert!(condition(&decision, kind::RESET_ALLOWED).message.contains("at most 900 s"));
    assert_eq!(decision.check_after, secs(10));
}

#[test]
fn a_sign_of_life_ends_the_veto_and_the_next_silence_has_its_own() {
    let mut h = Heartbeat::default();
    h.contact(mono(10));
    h.contact(mono(500));
    assert_eq!(h.wrong_key, Some((mono(10), mono(500))), "the first contact counts");
    h.take(Arc::new(report("boot-a", 1.0)), &Expectation::default(), mono(600));
    assert_eq!(h.wrong_key, None);
    h.contact(mono(700));
    assert_eq!(h.wrong_key, Some((mono(700), mono(700))));
}

#[test]
fn a_refused_body_with_the_right_key_is_life() {
    let mut scene = silent();
    scene
        .heartbeat
        .refuse("cpuPercent: 120 is over 100".into(), &Expectation::default(), mono(NOW - 1));
    let decision = scene.decide();
    let fresh = condition(&decision, kind::HEARTBEAT_FRESH);
    assert_eq!((scene.verdict().as_str(), fresh.is, fresh.reason), ("Armed", Is::True, "Rejected"));
    assert!(fresh.message.contains("cpuPercent: 120 is over 100"), "{}", fresh.message);

    let mut never_accepted = healthy().empty_ledger();
    never_accepted
        .heartbeat
        .refuse("bootID: missing".into(), &Expectation::default(), mono(NOW - 1));
    let decision = never_accepted.decide();
    assert_eq!(
        (decision.armed, condition(&decision, kind::HEARTBEAT_FRESH).reason),
        (false, "Rejected"),
        "it lives, but says nothing that could arm it"
    );
}

/// The VM was heard, if more often than it may: that is contact of this VM, and no doubt about any other.
#[test]
fn a_vm_that_reports_too_often_is_alive_and_shown_so() {
    let mut scene = silent();
    scene.heartbeat.limit(&Expectation::default(), mono(NOW - 1));
    let decision = scene.decide();
    let fresh = condition(&decision, kind::HEARTBEAT_FRESH);
    assert_eq!((scene.verdict().as_str(), fresh.is, fresh.reason), ("Armed", Is::True, "Rejected"));
    assert!(fresh.message.contains("too often"), "{}", fresh.message);
    let quiet = scene.now(NOW - 1 + TIMEOUT);
    assert_eq!(quiet.verdict(), "Look", "and silent when that ends");
}

#[test]
fn an_older_report_of_the_boot_moves_nothing() {
    let mut h = Heartbeat::default();
    let e = Expectation::default();
    h.take(Arc::new(report("boot-a", 100.0)), &e, mono(100));
    assert_eq!(h.take(Arc::new(report("boot-a", 99.0)), &e, mono(160)), Taken::Stale);
    assert_eq!(
        h.last_life,
        Some(mono(100)),
        "a report that was under way for a minute is no life of this minute"
    );
}

#[test]
fn hostname_and_clock_of_the_guest_are_information() {
    let mut h = Heartbeat::default();
    let mut odd = report("boot-a", 100.0);
    odd.hostname = Some("somebody-else".into());
    odd.sent_at_ms = Some(i64::MIN);
    assert_eq!(
        h.take(Arc::new(odd), &Expectation::default(), mono(100)),
        Taken::Accepted { wake: true }
    );
}

#[test]
fn goodbye_disarms_until_the_next_heartbeat() {
    let mut scene = healthy();
    let e = Expectation::default();
    let mut goodbye = report("boot-a", 99_000.0);
    goodbye.state = AgentState::Stopping;
    assert_eq!(
        scene.heartbeat.take(Arc::new(goodbye), &e, mono(NOW - 4)),
        Taken::Accepted { wake: true }
    );
    let scene = scene.now(NOW + 100_000);
    assert_eq!(scene.verdict(), "Stopping", "a day later as well");

    let mut scene = scene;
    let received = NOW + 100_000 - TIMEOUT;
    scene.heartbeat.take(Arc::new(report("boot-b", GRACE as f64)), &e, mono(received));
    assert_eq!(scene.verdict(), "Look", "it came back and fell silent");
}
