//! Each rule holds on an honest log, and is violated, alone, on one that was doctored.

use super::audit;
use crate::evidence::*;
use crate::fleet::{Limits, Role};
use crate::sample::Sample;
use jiff::{SignedDuration, Timestamp};
use pve_sim::{ConnectionFacts, GuestEvent, GuestEventKind as Kind, GuestState, WriteRequest};
use std::collections::BTreeMap;
use uuid::Uuid;

/// So many seconds into the run.
fn t(seconds: f64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs_f64(seconds)
}

const UPID: &str = "UPID:pve1:00000FA0:014DD2FC:69000000:qmreset:101:defib@pve!controller:";

fn event(at: f64, vmid: u32, event: Kind, cause: &str, after: GuestState, boots: (u128, u128)) -> GuestEvent {
    GuestEvent {
        sequence: 1,
        time: t(at),
        vmid,
        event,
        cause: cause.into(),
        before: GuestState::Running,
        healthy_before: true,
        boot_id_before: Some(Uuid::from_u128(boots.0)),
        after,
        boot_id_after: Some(Uuid::from_u128(boots.1)),
    }
}

fn post(at: f64, vmid: u32, upid: &str) -> WriteRequest {
    WriteRequest {
        sequence: u64::from(vmid),
        time: t(at),
        connection: ConnectionFacts {
            id: 1,
            accepted: t(at - 0.02),
            secured: t(at - 0.01),
            request: 1,
        },
        entry: "pve1".into(),
        method: "POST".into(),
        path: String::new(),
        node: Some("pve1".into()),
        vmid: Some(vmid),
        action: "reset".into(),
        token: None,
        guest: Some(GuestState::Hung),
        healthy: Some(false),
        boot_id: None,
        fault: None,
        executed: true,
        answered: Some(t(at + 0.01)),
        status: Some(200),
        reason: None,
        upid: Some(upid.into()),
        exitstatus: None,
    }
}

fn write(at: f64, what: Written) -> Write {
    Write {
        received: t(at - 0.002),
        done: t(at),
        what,
    }
}

fn deed(at: f64, what: Did) -> Deed {
    Deed { time: t(at), what }
}

/// VM 101 hangs after 30 s and is reset after 40: each line of the logs that this leaves. A controller is killed at 50 s and started again.
fn honest() -> Evidence {
    let limits = Limits {
        report: 2,
        timeout: 8,
        attempts: 1,
        max_resets: 1,
        window: 600,
        max_in_flight: 1,
        max_unhealthy: 20,
    };
    let mut evidence = Evidence {
        policies: BTreeMap::from([("fast".into(), limits)]),
        max_in_flight: 2,
        max_unhealthy: 20,
        ..Evidence::default()
    };
    for vmid in 101..=110 {
        let vm = Vm {
            name: format!("vm-{vmid}"),
            policy: "fast".into(),
            role: Role::Ordinary,
        };
        evidence.vms.insert(vmid, vm);
        let silent = |n: &f64| vmid == 101 && *n > 30.0 && *n < 42.0;
        let reports = (0..40).map(|n| f64::from(n) * 2.0).filter(|n| !silent(n));
        let heard = reports.map(|n| Heard {
            sent: t(n),
            answered: t(n + 0.1),
        });
        evidence.heard.insert(vmid, heard.collect());
        evidence.end.running.push(vmid);
        evidence.end.vms.push(EndVm {
            vmid,
            state: "Healthy".into(),
            held: "NotSilent".into(),
            current: None,
        });
    }
    evidence.deeds = vec![
        deed(0.0, Did::Started),
        deed(50.0, Did::Killed),
        deed(50.1, Did::Started),
        deed(200.0, Did::Calm),
    ];
    evidence.guests = vec![
        event(30.5, 101, Kind::Hang, "control", GuestState::Hung, (1, 1)),
        event(40.2, 101, Kind::Reset, UPID, GuestState::Booting, (1, 2)),
        event(41.2, 101, Kind::Booted, "guest", GuestState::Running, (2, 2)),
    ];
    reset(&mut evidence, 101, "vm-101-x-1", 40.0, UPID);
    evidence.samples = (0..90)
        .map(|second| Sample {
            time: t(51.0 + f64::from(second)),
            pid: 7,
            resident: 60_000,
            descriptors: 60,
        })
        .collect();
    evidence
}

/// The writes, the request and the record of a reset.
fn reset(evidence: &mut Evidence, vmid: u32, name: &str, at: f64, upid: &str) {
    let current = Journal {
        name: name.into(),
        intent_time: t(at - 0.1),
    };
    let vm = format!("vm-{vmid}");
    let journal = |current| Written::Journal { vm: vm.clone(), current };
    evidence.writes.extend([
        write(at - 0.08, journal(Some(current))),
        write(at - 0.05, Written::Created(name.into())),
        write(at + 5.0, Written::Finished(name.into())),
        write(at + 5.1, journal(None)),
    ]);
    evidence.writes.sort_by_key(|write| write.done);
    evidence.posts.push(post(at, vmid, upid));
    evidence.posts.sort_by_key(|post| post.time);
    evidence.end.resets.push(EndReset {
        name: name.into(),
        vm,
        outcome: Some("Recovered".into()),
        upid: Some(upid.into()),
        intent_time: Some(t(at - 0.1)),
        end_time: Some(t(at + 5.0)),
        boot_id_after: Some(Uuid::from_u128(2).to_string()),
    });
}

/// Another reset of a VM that is silent from ten seconds before: the machine is really reset.
fn another(evidence: &mut Evidence, vmid: u32, name: &str, at: f64) {
    let upid = format!("{UPID}{name}");
    let quiet = |report: &Heard| report.sent < t(at - 10.0) || report.sent > t(at + 2.0);
    evidence.heard.get_mut(&vmid).unwrap().retain(quiet);
    evidence
        .guests
        .push(event(at + 0.2, vmid, Kind::Reset, &upid, GuestState::Running, (2, 3)));
    evidence.guests.sort_by_key(|event| event.time);
    reset(evidence, vmid, name, at, &upid);
    let record = evidence.end.resets.last_mut().unwrap();
    record.boot_id_after = Some(Uuid::from_u128(3).to_string());
}

/// What is violated, by its words.
fn violated(evidence: &Evidence) -> Vec<&'static str> {
    let findings = audit(evidence).into_iter();
    findings
        .filter(|finding| !finding.violations.is_empty())
        .map(|finding| finding.holds)
        .collect()
}

/// Doctors the honest log; exactly the rule with these words must fail.
fn fails(words: &str, doctor: impl FnOnce(&mut Evidence)) {
    let mut evidence = honest();
    doctor(&mut evidence);
    let violated = violated(&evidence);
    assert!(
        violated.len() == 1 && violated[0].contains(words),
        "{words:?} was to fail, and alone: {violated:?}"
    );
}

#[test]
fn an_honest_log_violates_nothing() {
    let findings = audit(&honest());
    let bad: Vec<String> = findings
        .iter()
        .filter(|f| !f.violations.is_empty())
        .map(ToString::to_string)
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(findings.iter().all(|finding| finding.checked > 0), "{findings:?}");
}

#[test]
fn rule_1_a_vm_that_was_heard() {
    fails("heard within its time-out", |e| {
        e.heard.get_mut(&101).unwrap().push(Heard {
            sent: t(35.0),
            answered: t(35.1),
        });
        e.heard.get_mut(&101).unwrap().sort_by_key(|report| report.sent);
    });
}

#[test]
fn rule_1_a_report_that_arrives_as_the_request_leaves_is_only_noted() {
    let mut e = honest();
    e.heard.get_mut(&101).unwrap().push(Heard {
        sent: t(39.9),
        answered: t(40.0),
    });
    e.heard.get_mut(&101).unwrap().sort_by_key(|report| report.sent);
    assert_eq!(violated(&e), Vec::<&str>::new());
    assert_eq!(audit(&e)[0].notes.len(), 1);
}

#[test]
fn rule_1_a_controller_that_had_not_listened() {
    fails("started less than a time-out", |e| e.deeds.insert(1, deed(35.0, Did::Started)));
}

#[test]
fn rule_2_a_vm_that_is_not_armed() {
    for role in [Role::Unsupervised, Role::Agentless, Role::WrongMachine] {
        fails("not armed", |e| e.vms.get_mut(&101).unwrap().role = role);
    }
}

#[test]
fn rule_4_a_vm_that_is_paused_off_or_locked() {
    fails("that is paused", |e| e.vms.get_mut(&101).unwrap().role = Role::Paused);
    fails("was off", |e| {
        e.guests
            .insert(1, event(31.0, 101, Kind::PowerOff, "control", GuestState::Off, (1, 1)));
    });
    fails("was locked", |e| e.deeds.insert(1, deed(31.0, Did::Locked(101))));
    let mut e = honest();
    e.deeds.insert(1, deed(31.0, Did::Locked(101)));
    e.deeds.insert(2, deed(39.0, Did::Unlocked(101)));
    assert_eq!(violated(&e), Vec::<&str>::new());
}

#[test]
fn rule_4_an_episode_with_too_many_attempts() {
    fails("in one episode", |e| {
        e.policies.get_mut("fast").unwrap().max_resets = 5;
        another(e, 101, "vm-101-x-2", 70.0);
    });
}

#[test]
fn rule_4_a_vm_that_is_reset_too_often() {
    fails("than maxResets", |e| another(e, 101, "vm-101-y-1", 70.0));
    let mut e = honest();
    e.policies.get_mut("fast").unwrap().window = 20;
    another(&mut e, 101, "vm-101-y-1", 70.0);
    assert_eq!(violated(&e), Vec::<&str>::new(), "the window was over");
}

#[test]
fn rule_4_too_many_resets_under_way() {
    fails("under way than maxInFlight", |e| another(e, 102, "vm-102-x-1", 42.0));
    let mut e = honest();
    another(&mut e, 102, "vm-102-x-1", 46.0);
    assert_eq!(violated(&e), Vec::<&str>::new(), "the first was over");
}

#[test]
fn rule_4_too_many_silent_vms() {
    fails("silent than maxUnhealthy", |e| {
        for vmid in [102, 103] {
            e.heard
                .get_mut(&vmid)
                .unwrap()
                .retain(|report| report.sent < t(25.0) || report.sent > t(45.0));
        }
    });
}

#[test]
fn rule_5_nothing_is_sent_that_was_not_written_down() {
    let no_journal = |e: &mut Evidence| e.writes.retain(|write| !matches!(write.what, Written::Journal { .. }));
    let mut e = honest();
    no_journal(&mut e);
    assert!(violated(&e).iter().any(|words| words.contains("currentReset in the journal")));
    // A write that was answered only after the request had left.
    let mut e = honest();
    e.writes[0].done = t(40.01);
    assert!(violated(&e).iter().any(|words| words.contains("currentReset in the journal")));
    // The API server was killed before it logged the write: the record tells of it.
    let mut e = honest();
    no_journal(&mut e);
    e.deeds.insert(1, deed(39.95, Did::ApiDown));
    assert_eq!(violated(&e), Vec::<&str>::new());

    fails("its VMReset created", |e| {
        e.writes.retain(|write| !matches!(write.what, Written::Created(_)))
    });
    fails("its VMReset created", |e| {
        let created = e.writes.iter_mut().find(|write| matches!(write.what, Written::Created(_)));
        created.unwrap().done = t(40.5);
    });
}

#[test]
fn rule_5_an_old_decision_or_an_old_connection() {
    fails("over 10 s after its decision", |e| {
        let Written::Journal {
            current: Some(current), ..
        } = &mut e.writes[0].what
        else {
            unreachable!()
        };
        current.intent_time = t(20.0);
    });
    fails("connection of its own", |e| e.posts[0].connection.request = 2);
    fails("connection of its own", |e| e.posts[0].connection.accepted = t(39.0));
    fails("connection of its own", |e| e.posts[0].connection.secured = t(34.0));
}

#[test]
fn rule_6_a_recovery_without_a_new_boot() {
    fails("each Recovered", |e| {
        e.end.resets[0].boot_id_after = Some(Uuid::from_u128(1).to_string())
    });
    fails("each Recovered", |e| e.end.resets[0].boot_id_after = None);
    fails("each Recovered", |e| {
        e.heard.get_mut(&101).unwrap().retain(|report| report.sent < t(31.0))
    });
}

#[test]
fn rule_7_a_request_that_is_repeated() {
    fails("no POST of a reset whose earlier POST", |e| {
        let mut again = post(41.0, 101, "UPID:other");
        again.connection.id = 2;
        e.posts.push(again);
    });
    // The first one was refused before anything was done, which Defib was told.
    let mut e = honest();
    let refused = WriteRequest {
        fault: Some("status:595:No route to host".into()),
        status: Some(595),
        upid: None,
        ..post(39.99, 101, "")
    };
    e.posts.insert(0, refused);
    e.posts[0].connection.accepted = t(39.97);
    assert_eq!(violated(&e), Vec::<&str>::new());
    e.posts[0].fault = Some("drop-before".into());
    assert!(
        violated(&e).iter().any(|words| words.contains("earlier POST")),
        "nobody knew what became of the first"
    );
}

#[test]
fn rule_7_a_task_that_no_record_tells_of() {
    fails("told by its VMReset", |e| e.end.resets[0].upid = None);
    fails("told by its VMReset", |e| e.end.resets.clear());
    let mut e = honest();
    e.end.resets[0].upid = None;
    e.end.resets[0].outcome = Some("Unknown".into());
    assert_eq!(violated(&e), Vec::<&str>::new());
}

#[test]
fn rule_10_a_vm_whose_object_is_gone() {
    fails("whose ManagedVM was deleted", |e| e.deeds.insert(1, deed(33.0, Did::Deleted(101))));
}

#[test]
fn what_is_left_at_the_end() {
    fails("says honestly why not", |e| e.end.vms[0].state = "Silent".into());
    fails("says honestly why not", |e| e.end.running.retain(|vmid| *vmid != 103));
    fails("no reset is under way", |e| e.end.vms[0].current = Some("vm-101-x-1".into()));
    fails("has an outcome", |e| {
        e.end.resets.push(EndReset {
            name: "vm-105-x-1".into(),
            ..EndReset::default()
        });
    });
    fails("never panicked", |e| e.panics.push("thread 'x' panicked at y".into()));
}

#[test]
fn a_vm_that_a_storm_or_its_boots_hold_back_says_so() {
    let mut silent = honest();
    silent.end.running.retain(|vmid| *vmid != 103);
    let of_103 = |e: &mut Evidence, change: &dyn Fn(&mut EndVm)| e.end.vms.iter_mut().filter(|vm| vm.vmid == 103).for_each(change);
    of_103(&mut silent, &|vm| vm.state = "Silent".into());
    assert_eq!(violated(&silent).len(), 1);
    for reason in ["StormActive", "BootLoop"] {
        of_103(&mut silent, &|vm| vm.held = reason.into());
        assert_eq!(violated(&silent), Vec::<&str>::new(), "{reason}");
    }
    // It runs, and its reports come: what is said of it is for an hour that it booted too often.
    let mut looping = honest();
    of_103(&mut looping, &|vm| vm.state = "BootLoop".into());
    assert_eq!(violated(&looping), Vec::<&str>::new());
}

#[test]
fn a_controller_that_grows() {
    fails("memory did not grow", |e| {
        for (second, sample) in (0..).zip(&mut e.samples) {
            sample.resident += second * 1_000;
        }
    });
    fails("open files", |e| {
        for (second, sample) in (0..).zip(&mut e.samples) {
            sample.descriptors += second * 2;
        }
    });
}

#[test]
fn a_run_in_which_nothing_was_reset_proves_nothing() {
    fails("there were resets", |e| {
        e.posts.clear();
        e.guests.clear();
        e.end.resets.clear();
    });
    fails("there were resets", |e| e.deeds[1].time = t(20.0));
}
