//! **Burst**: when max(3, 10 %) of the armed VMs of a policy, a cluster, a Proxmox node or all fell silent within one timeout of each other, it is a shared cause: a
//! storm. In it only a VM with proof of a hang (no guest I/O, and a guest agent that used to answer is silent) is reset, one at a time. What a burst is, is checked
//! beside `core/src/storm.rs`.

use crate::common::*;
use defib_api::{GuestAgentCheck, GuestAgentState};
use defib_core::conditions::kind;
use defib_core::storm::{Burst, Weather};
use defib_core::time::Mono;

fn storm() -> Weather {
    Weather::Storm {
        width: "this Proxmox node",
        burst: Burst {
            from: wall(NOW as i64 - 210),
            to: wall(NOW as i64 - 190),
            lost: 3,
            timeout: secs(TIMEOUT),
        },
        population: 10,
        own: true,
    }
}

fn in_storm() -> Scene {
    due().with(|s| s.weather = storm())
}

/// No I/O, and a guest agent that used to answer is silent.
fn proved() -> Scene {
    in_storm().with(|s| s.guest_agent_answered = true)
}

fn cooling(left: u64) -> Scene {
    due().with(|s| {
        s.weather = Weather::CoolDown {
            width: "this policy",
            until: mono(NOW + left),
        };
    })
}

#[test]
fn in_a_storm_only_a_proof_of_a_hang_lets_a_reset_pass() {
    check(vec![
        ("nothing proves a hang", in_storm(), "StormActive"),
        ("no I/O, and an agent that answered before is silent", proved(), "Reset Automatic"),
        (
            "there never was an agent that answered",
            proved().with(|s| s.guest_agent_answered = false),
            "StormActive",
        ),
        ("it is asked first", proved().closer(|c| c.guest_agent = None), "Ask"),
        (
            "where it cannot prove anything, it is not even asked",
            in_storm().closer(|c| c.guest_agent = None),
            "StormActive",
        ),
        (
            "Proxmox does not say how it is",
            proved().closer(|c| c.guest_agent = Some(GuestAgentState::Unknown)),
            "StormActive",
        ),
        (
            "it was taken out of the VM's configuration",
            proved().closer(|c| c.guest_agent = Some(GuestAgentState::NotConfigured)),
            "StormActive",
        ),
        (
            "it is to be ignored: then it proves nothing either",
            proved().corroborate(|c| c.guest_agent = Some(GuestAgentCheck::Ignore)),
            "StormActive",
        ),
        (
            "the veto of I/O is over after 900 s, but it still is no proof",
            proved().with(|s| *s = s.clone().silent_for(2_000)).looked().quiet_for(0),
            "StormActive",
        ),
        (
            "one at a time",
            proved().budget("100%", 5).fleet(|f| f.all.in_flight = 1),
            "StormActive",
        ),
        ("budgets come first", in_storm().fleet(|f| f.policy.in_flight = 1), "MaxInFlight"),
        ("a person may reset it", in_storm().requested(), "Reset Manual"),
    ]);
}

#[test]
fn the_guest_agent_is_asked_ahead_in_a_storm_too() {
    let late = healthy().silent_for(50);
    assert!(late.decide().ask_ahead);
    assert!(late.clone().with(|s| s.weather = storm()).decide().ask_ahead);
    assert!(
        !late
            .reset_policy(|p| p.mode = None)
            .with(|s| s.weather = storm())
            .decide()
            .ask_ahead
    );
}

#[test]
fn the_cool_down_holds_until_its_end_and_says_when_that_is() {
    check(vec![
        ("a second is left", cooling(1), "StormCooldown"),
        (
            "even a proof waits",
            cooling(1).with(|s| s.guest_agent_answered = true),
            "StormCooldown",
        ),
        ("a person does not", cooling(1).requested(), "Reset Manual"),
    ]);
    assert_eq!(cooling(7).decide().check_after, secs(7), "looked at when it ends");
}

#[test]
fn at_its_end_all_silence_is_counted_anew() {
    let calm = |ago: u64| due().with(|s| s.weather = Weather::Calm { since: mono(NOW - ago) });
    check(vec![
        ("it ended a time-out ago", calm(TIMEOUT), "Reset Automatic"),
        ("it ended a second less ago", calm(TIMEOUT - 1), "Armed"),
    ]);
    assert!(
        in_storm().decide().held && cooling(1).decide().held,
        "a lifted hold restarts the clock"
    );
    assert!(!due().with(|s| s.weather = Weather::Calm { since: Mono(0) }).decide().held);
}

#[test]
fn what_is_said_has_the_arithmetic_and_the_way_out() {
    let decision = in_storm().decide();
    let message = &condition(&decision, kind::RESET_ALLOWED).message;
    assert!(
        message.starts_with("3 of 10 armed VMs of this Proxmox node fell silent within 60 s of each other, from 2"),
        "{message}"
    );
    assert!(
        message.contains("only those are reset, one at a time, that move no data"),
        "{message}"
    );
}
