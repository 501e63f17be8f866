//! A start is owed after our stop: paid only by Proxmox saying running 60 s after its last answer, and by nothing else.

use crate::common::*;
use defib_api::*;
use defib_core::start::{Payment, Seen, asked, pay, stop_answered};

/// Stopped at NOW, which Proxmox answered then.
fn debt() -> StartOwed {
    StartOwed {
        since: wall(NOW as i64),
        cluster_ref: NameRef { name: "pve".into() },
        vmid: 101,
        identity: Some(MACHINE.to_string()),
        attempts: 0,
        asked_time: None,
        answer: None,
        overdue_time: None,
    }
}

fn vm(is_on: bool) -> Seen {
    Seen::There {
        uuid: Some(MACHINE),
        is_on,
        lock: None,
    }
}

fn pays(debt: &StartOwed, answered: bool, seen: &Seen, s: u64) -> String {
    let answered = answered.then(|| wall(NOW as i64));
    match pay(debt, answered, seen, at(NOW + s)) {
        Payment::Wait(_) => "wait".into(),
        Payment::Start => "start".into(),
        Payment::Settled { reason, .. } => reason.into(),
    }
}

#[test]
fn what_is_off_is_started_and_what_runs_for_a_minute_is_paid() {
    let started = asked(&debt(), "UPID", at(NOW + 10));
    let cases = [
        ("the stop is not answered", debt(), false, vm(false), 1_000, "wait"),
        ("nor is it paid, however long it runs", debt(), false, vm(true), 1_000, "wait"),
        ("off", debt(), true, vm(false), 1, "start"),
        ("on, and the stop may still come", debt(), true, vm(true), 59, "wait"),
        ("on for a minute", debt(), true, vm(true), 60, "Running"),
        ("started, and not yet on", started.clone(), true, vm(false), 29, "wait"),
        ("started, and still off", started.clone(), true, vm(false), 30, "start"),
        (
            "on, for a minute since the stop and not since the start",
            started.clone(),
            true,
            vm(true),
            69,
            "wait",
        ),
        ("on for a minute since the start", started, true, vm(true), 70, "Running"),
        ("nobody can be asked", debt(), true, Seen::Unreachable("x".into()), 100_000, "wait"),
        ("it was destroyed", debt(), true, Seen::Gone, 1, "VMNotFound"),
    ];
    for (case, debt, answered, seen, s, expected) in cases {
        assert_eq!(pays(&debt, answered, &seen, s), expected, "{case}");
    }
}

/// Proxmox HA stops a VM up to 20 s after it was asked to.
#[test]
fn a_vm_that_is_still_on_is_looked_at_again_soon() {
    for s in [0, 10, 30, 59] {
        let Payment::Wait(wait) = pay(&debt(), Some(wall(NOW as i64)), &vm(true), at(NOW + s)) else {
            panic!("it may still go off")
        };
        assert!(wait <= secs(5), "{wait:?}");
    }
}

#[test]
fn another_machine_with_the_number_is_owed_nothing() {
    let other = |uuid| Seen::There {
        uuid,
        is_on: false,
        lock: None,
    };
    assert_eq!(pays(&debt(), true, &other(Some(OTHER_MACHINE)), 1), "IdentityChanged");
    assert_eq!(
        pays(&debt(), true, &other(Some(MACHINE_SWAPPED)), 1),
        "start",
        "the same, spelled otherwise"
    );
    assert_eq!(pays(&debt(), true, &other(None), 1), "start", "nothing says that it is another");
    let trusted = StartOwed { identity: None, ..debt() };
    assert_eq!(pays(&trusted, true, &other(Some(OTHER_MACHINE)), 1), "start");
}

#[test]
fn a_lock_is_waited_for() {
    let locked = Seen::There {
        uuid: Some(MACHINE),
        is_on: false,
        lock: Some("backup".into()),
    };
    assert_eq!(pays(&debt(), true, &locked, 1), "wait");
}

#[test]
fn starts_that_fail_are_tried_again_later_and_later_and_for_ever() {
    let mut debt = debt();
    let mut at_second = 1;
    let mut gaps = vec![];
    for _ in 0..9 {
        assert_eq!(pays(&debt, true, &vm(false), at_second), "start");
        debt = asked(&debt, "storage is not online", at(NOW + at_second));
        let gap = (1..1_000)
            .find(|s| pays(&debt, true, &vm(false), at_second + s) == "start")
            .unwrap();
        gaps.push(gap);
        at_second += gap;
    }
    assert_eq!(gaps, [20, 40, 80, 160, 300, 300, 300, 300, 300]);
}

#[test]
fn words_of_proxmox_are_cut_to_what_the_record_holds() {
    assert_eq!(asked(&debt(), &"\u{e4}".repeat(600), at(NOW)).answer.unwrap().chars().count(), 256);
}

/// While the journal is there, it tells when the stop was answered. Without it nobody follows the task: then it is over when a lost request must have arrived.
#[test]
fn when_the_stop_counts_as_answered() {
    let mut record = healthy().requested().manual.unwrap();
    let mut status = VMResetStatus {
        intent_time: Some(wall(NOW as i64)),
        ..VMResetStatus::default()
    };
    record.status = Some(status.clone());
    assert_eq!(stop_answered(&record, false, at(NOW + 10_000)), None);
    assert_eq!(stop_answered(&record, true, at(NOW + 99)), None);
    assert_eq!(stop_answered(&record, true, at(NOW + 100)), Some(wall(NOW as i64 + 100)));
    status.sent_time = Some(wall(NOW as i64 + 5));
    record.status = Some(status.clone());
    assert_eq!(stop_answered(&record, true, at(NOW + 104)), None, "counted from when it was sent");
    status.task_end_time = Some(wall(NOW as i64 + 7));
    record.status = Some(status);
    for orphaned in [false, true] {
        assert_eq!(stop_answered(&record, orphaned, at(NOW + 8)), Some(wall(NOW as i64 + 7)));
    }
}
