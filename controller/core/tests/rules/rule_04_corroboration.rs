//! **Corroboration**: guest-originated I/O (netout, diskread, diskwrite) vetoes for at most maxVetoSeconds (a livelocked guest still swaps); a QEMU guest agent that
//! answers proves a live guest and vetoes without limit (`Ignore` to opt out), and is alerted.

use crate::common::*;
use defib_api::{GuestAgentCheck, GuestAgentState};
use defib_core::conditions::kind;
use defib_core::corroboration::{Counters, GuestIo};
use defib_core::time::Mono;

/// The default scene has a time-out of 60 s, so that the built-in quiet is 30 s; it has been silent for 200 s.
const QUIET: u64 = TIMEOUT / 2;
const VETO: u64 = 900;

fn agent(state: GuestAgentState) -> Scene {
    due().closer(|c| c.guest_agent = Some(state))
}

/// Silent for so long over its time-out, in a guest that moved something this very second.
fn busy_and_over_for(s: u64) -> Scene {
    healthy().silent_for(TIMEOUT + s).looked().quiet_for(0)
}

#[test]
fn a_guest_that_moves_data_is_not_reset_for_a_while() {
    check(vec![
        ("quiet for long enough", due().quiet_for(QUIET), "Reset Automatic"),
        ("a second too short", due().quiet_for(QUIET - 1), "GuestIO"),
        ("nothing is known of its I/O", due().closer(|c| c.io = None), "GuestIO"),
        (
            "over for a second less than the longest veto",
            busy_and_over_for(VETO - 1),
            "GuestIO",
        ),
        ("over for as long as the longest veto", busy_and_over_for(VETO), "Reset Automatic"),
        (
            "after an attempt it boots, and may check its disk: the veto begins anew",
            busy_and_over_for(VETO).episode(1, VETO - 1),
            "GuestIO",
        ),
        (
            "for as long as before it",
            busy_and_over_for(2 * VETO).episode(1, VETO),
            "Reset Automatic",
        ),
        (
            "the policy says how quiet",
            due().quiet_for(9).corroborate(|c| c.io_quiet_seconds = Some(10)),
            "GuestIO",
        ),
        (
            "quiet as the policy wants it",
            due().quiet_for(10).corroborate(|c| c.io_quiet_seconds = Some(10)),
            "Reset Automatic",
        ),
        (
            "no veto at all",
            busy_and_over_for(1).corroborate(|c| c.max_veto_seconds = Some(0)),
            "Reset Automatic",
        ),
        ("a person may reset it", busy_and_over_for(1).requested(), "Reset Manual"),
    ]);
}

#[test]
fn quiet_is_the_shorter_of_two_minutes_and_half_of_the_time_out() {
    let io_quiet = |timeout: u32| {
        let scene = due().with(|s| {
            let heartbeat = s.policy.heartbeat.as_mut().unwrap();
            heartbeat.report_seconds = Some(1);
            heartbeat.timeout_seconds = Some(timeout);
        });
        scene.effective().io_quiet
    };
    assert_eq!([300, 240, 238, 60, 5, 4].map(io_quiet), [120, 120, 119, 30, 2, 2].map(secs));
}

#[test]
fn the_guest_agent_is_asked_last_and_its_answer_vetoes_without_limit() {
    check(vec![
        ("it was not asked", due().closer(|c| c.guest_agent = None), "Ask"),
        (
            "it is not asked while another gate blocks",
            due().closer(|c| c.guest_agent = None).fleet(|f| f.policy.in_flight = 1),
            "MaxInFlight",
        ),
        (
            "nor when it is not to be asked",
            due()
                .closer(|c| c.guest_agent = None)
                .corroborate(|c| c.guest_agent = Some(GuestAgentCheck::Ignore)),
            "Reset Automatic",
        ),
        ("it answers", agent(GuestAgentState::Answers), "GuestAgentAnswers"),
        (
            "for a day",
            healthy()
                .silent_for(86_400)
                .looked()
                .closer(|c| c.guest_agent = Some(GuestAgentState::Answers)),
            "GuestAgentAnswers",
        ),
        (
            "it answers, and is to be ignored",
            agent(GuestAgentState::Answers).corroborate(|c| c.guest_agent = Some(GuestAgentCheck::Ignore)),
            "Reset Automatic",
        ),
        ("it is silent", agent(GuestAgentState::Silent), "Reset Automatic"),
        ("there is none", agent(GuestAgentState::NotConfigured), "Reset Automatic"),
        ("Proxmox does not say", agent(GuestAgentState::Unknown), "Reset Automatic"),
        ("a person may reset it", agent(GuestAgentState::Answers).requested(), "Reset Manual"),
        (
            "a person's request does not ask",
            due().closer(|c| c.guest_agent = None).requested(),
            "Reset Manual",
        ),
    ]);
}

#[test]
fn it_is_asked_a_moment_before_the_time_out_is_over_and_only_when_the_vm_is_late() {
    let ask_ahead = |scene: Scene| scene.decide().ask_ahead;
    let quiet = |s: u64| healthy().silent_for(s);
    assert!(!ask_ahead(quiet(44)), "16 s before");
    assert!(ask_ahead(quiet(45)), "15 s before");
    assert!(ask_ahead(quiet(59)), "1 s before");
    assert!(!ask_ahead(quiet(60)), "it is due, and asked when everything else allows a reset");
    let slow_agent = |s: u64| {
        quiet(s).with(|s| {
            let heartbeat = s.policy.heartbeat.as_mut().unwrap();
            heartbeat.report_seconds = Some(20);
            heartbeat.timeout_seconds = Some(80);
        })
    };
    assert!(ask_ahead(slow_agent(66)), "late, and 14 s before");
    let on_time = quiet(3).with(|s| {
        let heartbeat = s.policy.heartbeat.as_mut().unwrap();
        heartbeat.report_seconds = Some(1);
        heartbeat.timeout_seconds = Some(4);
    });
    assert!(ask_ahead(on_time.clone()), "a quarter of a short time-out");
    assert!(!ask_ahead(on_time.now(NOW - 1)), "not late yet: two periods and a half");
    for (why, scene) in [
        ("observed only", quiet(50).reset_policy(|p| p.mode = None)),
        ("ignored", quiet(50).corroborate(|c| c.guest_agent = Some(GuestAgentCheck::Ignore))),
        ("under way", quiet(50).under_way(task())),
        ("a bad witness", quiet(50).trouble(defib_core::observer::Trouble::Loopback)),
    ] {
        assert!(!ask_ahead(scene), "{why}");
    }
    assert_eq!(quiet(20).decide().check_after, secs(25), "woken for it");
    assert_eq!(quiet(45).decide().check_after, secs(15), "and when it is due");
}

#[test]
fn the_gates_say_what_would_change_it_and_when_to_look_again() {
    let answers = agent(GuestAgentState::Answers).decide();
    let allowed = condition(&answers, kind::RESET_ALLOWED);
    assert!(
        allowed.message.contains("resetPolicy.corroborate.guestAgent to Ignore"),
        "{}",
        allowed.message
    );
    assert_eq!(answers.check_after, secs(30));

    let moves = due().quiet_for(10).decide();
    let allowed = condition(&moves, kind::RESET_ALLOWED);
    assert!(allowed.message.contains("within 30 s"), "{}", allowed.message);
    assert!(allowed.message.contains("at most 900 s"), "{}", allowed.message);
    assert_eq!(moves.check_after, secs(20), "when it would have been quiet for long enough");
    assert_eq!(busy_and_over_for(VETO - 5).decide().check_after, secs(5), "when the veto is over");
    let almost = due().with(|s| s.closer.as_mut().unwrap().io = Some(GuestIo::new(Counters::default(), Mono(NOW * 1_000 - 29_990))));
    assert_eq!(almost.decide().check_after, secs(1), "Proxmox reads its counters every ten seconds");
}

#[test]
fn what_was_seen_is_evidence() {
    let intent = begun(&due().quiet_for(77));
    assert_eq!(intent.evidence.io_quiet_seconds, Some(77));
    assert_eq!(intent.evidence.guest_agent, Some(GuestAgentState::Silent));
}

#[test]
fn any_difference_of_the_counters_is_movement() {
    let zero = Counters::default();
    let one = |change: fn(&mut Counters)| {
        let mut counters = zero;
        change(&mut counters);
        counters
    };
    let io = GuestIo::new(zero, Mono(1_000));
    assert_eq!(
        io.read(zero, Mono(9_000)).quiet(Mono(10_000)),
        secs(9),
        "two equal readings, with a gap between"
    );
    for counters in [one(|c| c.net_out = 1), one(|c| c.disk_read = 1), one(|c| c.disk_write = 1)] {
        let moved = io.read(counters, Mono(9_000));
        assert_eq!(moved.quiet(Mono(10_000)), secs(1), "{counters:?}");
        assert_eq!(
            moved.read(zero, Mono(9_500)).quiet(Mono(10_000)),
            secs(1) / 2,
            "another QEMU process"
        );
    }
}
