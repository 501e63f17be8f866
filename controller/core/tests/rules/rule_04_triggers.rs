//! **By trigger**: Silence = all gates; Manual = one in flight, reachable, unlocked, HA harmless, same identity.

use crate::common::*;
use defib_api::{Mode, ResetAction, Trigger};
use defib_core::conditions::kind;
use defib_core::decide::Next;
use defib_core::observer::Trouble;

fn asked() -> Scene {
    healthy().requested().looked()
}

#[test]
fn a_person_is_not_held_back_by_what_holds_defib_back() {
    check(vec![
        ("before Proxmox was looked at", healthy().requested(), "Look"),
        ("a healthy VM", asked(), "Reset Manual"),
        ("a VM that never reported", asked().empty_ledger(), "Reset Manual"),
        (
            "a guest that booted a moment ago",
            asked().look(|l| l.uptime = secs(1)),
            "Reset Manual",
        ),
        (
            "mode Observe",
            asked().reset_policy(|p| p.mode = Some(Mode::Observe)),
            "Reset Manual",
        ),
        ("a pause", asked().spec(|s| s.pauses = vec![pause("a", None)]), "Reset Manual"),
        (
            "a policy that is missing",
            asked().with(|s| s.policy_is_missing = true),
            "Reset Manual",
        ),
        ("an observer that is deaf", asked().trouble(Trouble::Loopback), "Reset Manual"),
        ("the cap is used up", asked().resets_ago(&[3, 2, 1]), "Reset Manual"),
        ("all steps were tried", asked().episode(2, 1), "Reset Manual"),
        ("the fleet is down", asked().fleet(|f| f.all.unhealthy = 10), "Reset Manual"),
        (
            "a reset of another VM is under way",
            asked().fleet(|f| f.policy.in_flight = 1),
            "Reset Manual",
        ),
        ("Defib runs in it", asked().with(|s| s.own_node = Some(MACHINE)), "Reset Manual"),
        (
            "another ManagedVM decides on it",
            asked().with(|s| s.duplicate_of = Some("web-0".into())),
            "Reset Manual",
        ),
    ]);
}

#[test]
fn what_a_person_waits_for_is_said() {
    let cases = [
        (
            "Proxmox is away",
            asked().look_failed("ProxmoxUnreachable", "x"),
            Some("ProxmoxUnreachable"),
        ),
        (
            "it is stopped",
            asked().look(|l| l.qmp_status = "stopped".into()),
            Some("NotRunning"),
        ),
        ("a lock", asked().look(|l| l.lock = Some("snapshot".into())), Some("Locked")),
        ("HA is at work", asked().look(|l| l.ha_state = Some("error".into())), Some("HABusy")),
        (
            "another machine has the VMID",
            asked().look(|l| l.uuid = Some(OTHER_MACHINE)),
            Some("IdentityChanged"),
        ),
        ("no uuid to compare", asked().look(|l| l.uuid = None), Some("IdentityUnknown")),
        ("a reset would stop it", asked().look(|l| l.no_reboot = true), Some("NoReboot")),
        (
            "it is being migrated",
            asked().look(|l| l.qmp_status = "inmigrate".into()),
            Some("NotRunning"),
        ),
        (
            "it could be stopped and not started",
            asked().asking_for(ResetAction::PowerCycle).look(|l| l.no_quorum = true),
            Some("NoQuorum"),
        ),
        (
            "nobody answers who could reboot",
            asked().asking_for(ResetAction::GuestReboot),
            Some("GuestAgentSilent"),
        ),
        (
            "its node is down",
            asked().look(|l| l.node_status = "unknown".into()),
            Some("NodeNotOnline"),
        ),
        ("the ManagedVM is being deleted", asked().deleting(), Some("Deleting")),
        ("nothing", asked(), None),
    ];
    for (case, scene, expected) in cases {
        let decision = scene.decide();
        assert_eq!(decision.manual_waits.as_ref().map(|b| b.reason), expected, "{case}");
        assert_eq!(matches!(decision.next, Next::Begin(_)), expected.is_none(), "{case}");
    }
}

#[test]
fn one_in_flight_whoever_asks() {
    let scene = asked().look(|l| l.lock = Some("backup".into())).under_way(intent());
    assert!(matches!(scene.decide().next, Next::Continue(_)));
    assert_eq!(scene.decide().manual_waits, None, "it is not judged before its turn");
}

#[test]
fn a_request_that_is_blocked_does_not_keep_defib_from_helping() {
    // The request waits for nothing that silence waits for, so only a gate of both can block it: then neither runs.
    check(vec![(
        "locked for both",
        due().requested().look(|l| l.lock = Some("backup".into())),
        "Locked",
    )]);
    // A person's request goes first.
    check(vec![("both could run", due().requested(), "Reset Manual")]);
}

#[test]
fn a_manual_reset_is_the_persons_and_not_an_attempt_of_the_episode() {
    let scene = due().requested().episode(1, 100);
    let Next::Begin(intent) = scene.decide().next else {
        panic!("nothing holds it back")
    };
    assert_eq!(
        (
            intent.current.trigger,
            intent.current.name.as_str(),
            intent.current.request_uid.as_deref(),
            intent.current.attempt
        ),
        (Trigger::Manual, "please", Some("uid-1"), 1)
    );
    assert_eq!(
        intent.episode,
        scene.vm.status.as_ref().unwrap().episode,
        "the episode stays as it is"
    );
    assert_eq!(intent.why, "requested by alice: it hangs");
}

#[test]
fn reset_allowed_speaks_of_defibs_own_resets_while_a_request_is_looked_into() {
    let cases = [
        (
            "paused, and not yet looked at",
            healthy().requested().spec(|s| s.pauses = vec![pause("a", None)]),
            "Paused",
        ),
        (
            "paused, and the request begins",
            asked().spec(|s| s.pauses = vec![pause("a", None)]),
            "Paused",
        ),
        ("healthy, and the request begins", asked(), "Armed"),
    ];
    for (case, scene, reason) in cases {
        let decision = scene.decide();
        assert_ne!(decision.next, Next::Nothing, "{case}");
        assert_eq!(condition(&decision, kind::RESET_ALLOWED).reason, reason, "{case}");
    }
}
