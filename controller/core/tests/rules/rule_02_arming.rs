//! **Unarmed until the first heartbeat of this machine**: the report's `machineUUID` equals the uuid Proxmox holds for the vmid, in either byte order. A mismatch is
//! `WrongMachine`: never arms, never is contact. An agent started by hand (`supervised: false`) is shown, never arms. One ManagedVM a machine: of several with one
//! uuid the oldest decides. A VM whose uuid is our own Kubernetes node's (`OwnHost`) is never reset automatically.

use crate::common::*;
use defib_api::AgentState;
use defib_core::conditions::{Is, kind};
use defib_core::heartbeat::{Expectation, Heartbeat, Taken};
use std::sync::Arc;
use uuid::Uuid;

fn unidentified() -> Scene {
    healthy().status(|s| s.identity = None)
}

#[test]
fn the_silence_of_an_unarmed_vm_means_nothing() {
    let old = |scene: Scene| scene.silent_for(10_000);
    check(vec![
        ("nothing was ever received", healthy().empty_ledger(), "NeverReported"),
        ("armed, long silent", old(healthy()), "Look"),
        (
            "the uuid in the other byte order is the same machine",
            old(healthy()).reporting(|r| r.machine_uuid = Some(MACHINE_SWAPPED)),
            "Look",
        ),
        (
            "another machine's uuid",
            old(healthy()).reporting(|r| r.machine_uuid = Some(OTHER_MACHINE)),
            "WrongMachine",
        ),
        (
            "no uuid in the report",
            old(healthy()).reporting(|r| r.machine_uuid = None),
            "NoMachineUUID",
        ),
        ("Proxmox has not told the uuid yet", old(unidentified()), "IdentityUnknown"),
        (
            "an identity that is no uuid is no identity",
            old(healthy().status(|s| s.identity = Some("vm 101".into()))),
            "IdentityUnknown",
        ),
        (
            "started by hand",
            old(healthy()).reporting(|r| r.supervised = false),
            "Unsupervised",
        ),
        (
            "said goodbye",
            old(healthy()).reporting(|r| r.state = AgentState::Stopping),
            "Stopping",
        ),
        (
            "Trust: no uuid in the report is needed",
            old(healthy()).reporting(|r| r.machine_uuid = None).trusting(),
            "Look",
        ),
        ("Trust: no uuid from Proxmox is needed", old(unidentified()).trusting(), "Look"),
        (
            "Trust still wants a supervised agent",
            old(healthy()).reporting(|r| r.supervised = false).trusting(),
            "Unsupervised",
        ),
    ]);
}

#[test]
fn a_process_that_starts_judges_by_what_was_published() {
    let restarted = |change: fn(&mut defib_api::HeartbeatStatus)| healthy().empty_ledger().published(NOW as i64 - 10_000, change);
    check(vec![
        ("armed before, silent since", restarted(|_| {}), "Look"),
        (
            "said goodbye before",
            restarted(|h| h.state = Some(AgentState::Stopping)),
            "Stopping",
        ),
        ("was started by hand", restarted(|h| h.supervised = Some(false)), "Unsupervised"),
        ("supervised was not published", restarted(|h| h.supervised = None), "Unsupervised"),
        (
            "was another machine",
            restarted(|h| h.machine_uuid = Some(OTHER_MACHINE.to_string())),
            "WrongMachine",
        ),
        (
            "a machine uuid that is none",
            restarted(|h| h.machine_uuid = Some("?".into())),
            "NoMachineUUID",
        ),
        ("no report was ever accepted", restarted(|h| h.boot_id = None), "NeverReported"),
    ]);
}

#[test]
fn an_unarmed_vm_is_shown_as_such_and_not_as_silent() {
    let decision = healthy().silent_for(10_000).reporting(|r| r.supervised = false).decide();
    let fresh = condition(&decision, kind::HEARTBEAT_FRESH);
    assert_eq!((decision.armed, fresh.is, fresh.reason), (false, Is::Unknown, "Unsupervised"));
}

#[test]
fn a_report_of_another_machine_neither_arms_nor_is_contact() {
    let mut heartbeat = Heartbeat::default();
    let expected = Expectation {
        identity: Some(OTHER_MACHINE),
        ..Expectation::default()
    };
    assert_eq!(
        heartbeat.take(Arc::new(report("boot-a", 10.0)), &expected, mono(NOW - 1)),
        Taken::WrongMachine
    );
    assert_eq!((heartbeat.last_life, heartbeat.wrong_key), (None, None));

    // The clone reports on while the armed original is silent: that holds nothing back.
    check(vec![(
        "a clone reports, the original is silent",
        silent().with(|s| s.heartbeat.wrong_machine = Some((mono(NOW - 1), OTHER_MACHINE))),
        "Look",
    )]);
}

#[test]
fn who_must_not_be_reset_automatically_whatever_its_heartbeat() {
    check(vec![
        (
            "an older ManagedVM has the same machine",
            due().with(|s| s.duplicate_of = Some("web-0".into())),
            "DuplicateMachine",
        ),
        ("Defib runs in it", due().with(|s| s.own_node = Some(MACHINE)), "OwnHost"),
        (
            "Defib runs in it, other byte order",
            due().with(|s| s.own_node = Some(MACHINE_SWAPPED)),
            "OwnHost",
        ),
        (
            "Defib runs elsewhere",
            due().with(|s| s.own_node = Some(OTHER_MACHINE)),
            "Reset Automatic",
        ),
    ]);
}

#[test]
fn the_identity_is_recorded_once_and_then_stays() {
    assert_eq!(unidentified().decide().identity, Some(MACHINE), "adopted from what Proxmox tells");
    let changed = healthy().with(|s| s.uuid_in_proxmox = Some(OTHER_MACHINE)).decide();
    assert_eq!(changed.identity, Some(MACHINE));
    let adopted = condition(&changed, kind::ADOPTED);
    assert_eq!((adopted.is, adopted.reason), (Is::False, "IdentityChanged"));
    assert!(adopted.message.contains(&Uuid::to_string(&OTHER_MACHINE)), "{}", adopted.message);
}
