//! **Gates**, the first failing one is the reason of `ResetAllowed=False`, with its arithmetic; none costs an attempt: mode, pause or window, deleting, valid policy /
//! armed and silent / observer healthy / other contact / Proxmox reachable and saying running, unlocked, HA state harmless, same identity, node not in maintenance /
//! corroboration / cap / budgets at three widths. (Corroboration: `rule_04_corroboration.rs`; cap and budgets: `rule_04_budgets.rs`.)

use crate::common::*;
use defib_api::{GuestAgentState, HeartbeatSettings, Mode, ResetPolicy};
use defib_core::conditions::{Is, kind};
use defib_core::decide::Next;
use defib_core::observer::Trouble;
use defib_core::storm::{Burst, Weather};
use defib_core::time::Mono;
use defib_core::window::Windows;

/// A gate that blocks: in plain words, the scene, the reason, and what the message must say.
type Blocks = (&'static str, Scene, &'static str, &'static str);

fn check_blocking(cases: Vec<Blocks>) {
    for (case, scene, reason, says) in cases {
        let decision = scene.decide();
        assert_eq!(decision.next, Next::Nothing, "{case}");
        let allowed = condition(&decision, kind::RESET_ALLOWED);
        assert_eq!((allowed.is, allowed.reason), (Is::False, reason), "{case}");
        assert!(
            allowed.message.contains(says),
            "{case}: {:?} does not say {says:?}",
            allowed.message
        );
    }
}

#[test]
fn with_every_gate_open_a_reset_begins() {
    check(vec![
        ("by the cache alone: first look closer", silent(), "Look"),
        ("looked at", due(), "Reset Automatic"),
    ]);
}

#[test]
fn what_is_declared_blocks() {
    let soon = wall(NOW as i64 + 300);
    check_blocking(vec![
        (
            "nothing declares a mode",
            healthy().reset_policy(|p| p.mode = None),
            "ObserveOnly",
            "set it to Enforce",
        ),
        (
            "Defib was started so",
            healthy().with(|s| s.observe_only = true),
            "ObserveOnly",
            "--observe-only",
        ),
        (
            "a pause on the VM",
            due().spec(|s| s.pauses = vec![pause("backup-team", None)]),
            "Paused",
            "this ManagedVM is paused by backup-team: storage migration (until it is removed)",
        ),
        (
            "a pause on the policy",
            due().with(|s| s.policy.pauses = vec![pause("ops", Some(soon))]),
            "Paused",
            "its HealthPolicy is paused by ops: storage migration (until 2027-01-16T11:51:40Z)",
        ),
        (
            "a pause on the cluster",
            due().with(|s| s.cluster.pauses = vec![pause("ops", None)]),
            "Paused",
            "its ProxmoxCluster is paused by ops",
        ),
        (
            "of two pauses, one has expired",
            due().spec(|s| s.pauses = vec![pause("a", Some(wall(NOW as i64))), pause("b", Some(soon))]),
            "Paused",
            "paused by b",
        ),
        (
            "a maintenance window is open",
            due().with(|s| {
                s.windows = Windows::Open {
                    schedule: "30 2 * * SUN".into(),
                    closes: soon,
                }
            }),
            "MaintenanceWindow",
            "a maintenance window of its HealthPolicy is open (30 2 * * SUN), until 2027-01-16T11:51:40Z",
        ),
        (
            "a maintenance window that nobody understands",
            due().with(|s| s.windows = Windows::Invalid { message: "what?".into() }),
            "InvalidPolicy",
            "what?",
        ),
        ("the ManagedVM is being deleted", due().deleting(), "Deleting", "left alone"),
        (
            "the named policy is missing, the VM says Enforce",
            due().with(|s| s.policy_is_missing = true).spec(|s| {
                s.reset_policy = Some(ResetPolicy {
                    mode: Some(Mode::Enforce),
                    ..ResetPolicy::default()
                });
            }),
            "PolicyNotFound",
            "\"default\"",
        ),
        (
            "the merged settings contradict each other: both sources are named",
            due().spec(|s| {
                s.heartbeat = Some(HeartbeatSettings {
                    report_seconds: Some(16),
                    ..HeartbeatSettings::default()
                });
            }),
            "InvalidPolicy",
            "timeoutSeconds 60 (from HealthPolicy \"default\") must be at least 4 times reportSeconds 16 (from the ManagedVM)",
        ),
        (
            "a budget that is no budget",
            due().budget("0%", 1),
            "InvalidPolicy",
            "maxUnhealthy of HealthPolicy \"default\"",
        ),
    ]);
}

#[test]
fn what_is_declared_lifts() {
    let vm_enforces = |s: &mut defib_api::ManagedVMSpec| {
        s.reset_policy = Some(ResetPolicy {
            mode: Some(Mode::Enforce),
            ..ResetPolicy::default()
        });
    };
    check(vec![
        (
            "the VM says Enforce, against its policy",
            due().reset_policy(|p| p.mode = Some(Mode::Observe)).spec(vm_enforces),
            "Reset Automatic",
        ),
        (
            "a pause that ends this very moment",
            due().spec(|s| s.pauses = vec![pause("a", Some(wall(NOW as i64)))]),
            "Reset Automatic",
        ),
        (
            "exactly four times the report's period",
            due().spec(|s| {
                s.heartbeat = Some(HeartbeatSettings {
                    report_seconds: Some(15),
                    ..HeartbeatSettings::default()
                });
            }),
            "Reset Automatic",
        ),
    ]);
}

#[test]
fn a_guest_that_booted_a_moment_ago_has_its_grace() {
    // Heard at NOW - 70, over the time-out of 60 s, with an uptime such that it booted so long ago.
    let booted_ago = |s: u64| healthy().heard(report("boot-a", s as f64 - 70.0), NOW - 70);
    check(vec![
        ("119 s ago, of 120", booted_ago(GRACE - 1), "StartupGrace"),
        ("120 s ago", booted_ago(GRACE), "Look"),
        (
            "119 s ago, as published by an earlier process",
            healthy()
                .empty_ledger()
                .published(NOW as i64 - 70, |h| h.boot_time = Some(wall((NOW - GRACE + 1) as i64))),
            "StartupGrace",
        ),
        (
            "120 s ago, as published",
            healthy()
                .empty_ledger()
                .published(NOW as i64 - 70, |h| h.boot_time = Some(wall((NOW - GRACE) as i64))),
            "Look",
        ),
        (
            "Proxmox started it 119 s ago",
            due().look(|l| l.uptime = secs(GRACE - 1)),
            "StartupGrace",
        ),
        (
            "Proxmox started it 120 s ago",
            due().look(|l| l.uptime = secs(GRACE)),
            "Reset Automatic",
        ),
    ]);
    let check_after = |left: u64| booted_ago(GRACE - left).decide().check_after;
    assert_eq!(
        check_after(30),
        secs(15),
        "looked at a moment before the grace ends, to ask the guest agent"
    );
    assert_eq!(check_after(15), secs(15), "and when it ends");
}

#[test]
fn a_bad_witness_blocks() {
    check_blocking(vec![
        (
            "the lease is not held",
            due().trouble(Trouble::LeaseNotHeld),
            "ObserverNotServing",
            "does not hold the lease",
        ),
        (
            "reports may still wait in the sockets",
            due().with(|s| s.observer.settling = true),
            "ObserverSettling",
            "read first",
        ),
        (
            "another Defib writes the status",
            due().with(|s| s.foreign_heartbeat = true),
            "ManagedByAnother",
            "newer heartbeat",
        ),
    ]);
}

#[test]
fn what_proxmox_says_blocks() {
    check_blocking(vec![
        (
            "Proxmox does not answer",
            due().look_failed("ProxmoxUnreachable", "no endpoint answers"),
            "ProxmoxUnreachable",
            "no endpoint answers",
        ),
        (
            "it is stopped",
            due().look(|l| l.qmp_status = "stopped".into()),
            "NotRunning",
            "is stopped",
        ),
        (
            "it is paused",
            due().look(|l| l.qmp_status = "paused".into()),
            "NotRunning",
            "is paused",
        ),
        (
            "a backup runs",
            due().look(|l| l.lock = Some("backup".into())),
            "Locked",
            "(backup)",
        ),
        (
            "HA migrates it",
            due().look(|l| l.ha_state = Some("migrate".into())),
            "HABusy",
            "state migrate",
        ),
        (
            "HA has fenced it",
            due().look(|l| l.ha_state = Some("fence".into())),
            "HABusy",
            "state fence",
        ),
        (
            "the VMID belongs to another machine now",
            due().look(|l| l.uuid = Some(OTHER_MACHINE)),
            "IdentityChanged",
            "VMID 101 now belongs to another machine: its SMBIOS UUID is 00000000-0000-0000-0000-000000000007, recorded was 00112233-4455-6677-8899-aabbccddeeff",
        ),
        (
            "Proxmox tells no uuid",
            due().look(|l| l.uuid = None),
            "IdentityUnknown",
            "spec.identity to Trust",
        ),
        (
            "Trust does not excuse a changed identity",
            due().trusting().look(|l| l.uuid = Some(OTHER_MACHINE)),
            "IdentityChanged",
            "recorded was",
        ),
        ("a reset would stop it", due().look(|l| l.no_reboot = true), "NoReboot", "reboot: 0"),
        (
            "its node is down",
            due().look(|l| l.node_status = "offline".into()),
            "NodeNotOnline",
            "node pve1 is offline",
        ),
        (
            "somebody works on its node",
            due().look(|l| l.node_in_maintenance = true),
            "NodeMaintenance",
            "node pve1 is in maintenance",
        ),
        ("the cluster is torn", due().look(|l| l.no_quorum = true), "NoQuorum", "no quorum"),
        (
            "an older ManagedVM has this machine",
            due().with(|s| s.duplicate_of = Some("web-0".into())),
            "DuplicateMachine",
            "ManagedVM web-0",
        ),
        (
            "the machine reports with the key of another ManagedVM",
            due().with(|s| s.alive_as = Some("vms/web-new".into())),
            "ReportsAsAnother",
            "it reports as ManagedVM vms/web-new",
        ),
        (
            "Defib runs in it",
            due().with(|s| s.own_node = Some(MACHINE)),
            "OwnHost",
            "never reset automatically",
        ),
    ]);
}

#[test]
fn what_proxmox_says_lifts() {
    let harmless = |state: &'static str| due().look(move |l| l.ha_state = Some(state.into()));
    check(vec![
        ("HA: started", harmless("started"), "Reset Automatic"),
        ("HA: ignored", harmless("ignored"), "Reset Automatic"),
        ("HA: disabled", harmless("disabled"), "Reset Automatic"),
        ("HA: stopped", harmless("stopped"), "Reset Automatic"),
        (
            "Trust, and Proxmox tells no uuid",
            due().trusting().look(|l| l.uuid = None),
            "Reset Automatic",
        ),
    ]);
}

#[test]
fn the_first_gate_that_fails_is_the_reason() {
    // All gates fail at once; each row repairs the one that was named before it.
    let mut scene = healthy()
        .empty_ledger()
        .booted_at(vec![mono(NOW - 900); 4])
        .resets_ago(&[300, 200, 100])
        .with(|s| {
            s.observer.trouble = Some(Trouble::Shed);
            s.observer.settling = true;
            s.foreign_heartbeat = true;
            s.policy.heartbeat.as_mut().unwrap().report_seconds = Some(60);
            s.duplicate_of = Some("web-0".into());
            s.alive_as = Some("web-2".into());
            s.own_node = Some(MACHINE);
            s.windows = Windows::Open {
                schedule: "* * * * *".into(),
                closes: wall(NOW as i64 + 60),
            };
        })
        .spec(|s| s.pauses = vec![pause("a", None)])
        .reset_policy(|p| p.mode = None)
        .deleting();
    scene.weather = Weather::Storm {
        width: "all of Defib",
        burst: Burst {
            from: wall(0),
            to: wall(1),
            lost: 3,
            timeout: secs(TIMEOUT),
        },
        population: 10,
        own: true,
    };
    scene = scene
        .look(|l| {
            l.qmp_status = "stopped".into();
            l.lock = Some("backup".into());
            l.ha_state = Some("migrate".into());
            l.uuid = Some(OTHER_MACHINE);
            l.no_reboot = true;
            l.node_status = "offline".into();
            l.node_in_maintenance = true;
            l.no_quorum = true;
            l.uptime = secs(1);
        })
        .quiet_for(0)
        .closer(|c| c.guest_agent = Some(GuestAgentState::Answers))
        .fleet(|f| f.policy.in_flight = 1);
    fn look_of(scene: &mut Scene) -> &mut defib_core::gate::Look {
        scene.closer.as_mut().unwrap().look.as_mut().unwrap()
    }
    type Repair = fn(&mut Scene);
    let order: [(&str, Repair); 26] = [
        ("ObserveOnly", |s| {
            s.policy.reset_policy.as_mut().unwrap().mode = Some(Mode::Enforce)
        }),
        ("Paused", |s| s.vm.spec.pauses.clear()),
        ("MaintenanceWindow", |s| s.windows = Windows::Closed { opens: None }),
        ("Deleting", |s| s.vm.metadata.deletion_timestamp = None),
        ("InvalidPolicy", |s| s.policy.heartbeat.as_mut().unwrap().report_seconds = Some(10)),
        ("BootLoop", |s| s.heartbeat.boots = Default::default()),
        ("NeverReported", |s| {
            s.hear(report("boot-a", 3_600.0), NOW - 200);
            s.heartbeat.wrong_key = Some((mono(NOW - 1), mono(NOW - 1)));
        }),
        ("ObserverNotServing", |s| s.observer.trouble = None),
        ("ObserverSettling", |s| s.observer.settling = false),
        ("ManagedByAnother", |s| s.foreign_heartbeat = false),
        ("ReportsAsAnother", |s| s.alive_as = None),
        ("WrongKey", |s| s.heartbeat.wrong_key = None),
        ("NotRunning", |s| look_of(s).qmp_status = "running".into()),
        ("Locked", |s| look_of(s).lock = None),
        ("HABusy", |s| look_of(s).ha_state = None),
        ("IdentityChanged", |s| look_of(s).uuid = Some(MACHINE)),
        ("NodeNotOnline", |s| look_of(s).node_status = "online".into()),
        ("NodeMaintenance", |s| look_of(s).node_in_maintenance = false),
        ("NoQuorum", |s| look_of(s).no_quorum = false),
        ("DuplicateMachine", |s| s.duplicate_of = None),
        ("OwnHost", |s| s.own_node = None),
        ("StartupGrace", |s| look_of(s).uptime = secs(9_000)),
        ("NoReboot", |s| look_of(s).no_reboot = false),
        ("GuestAgentAnswers", |s| {
            s.closer.as_mut().unwrap().guest_agent = Some(GuestAgentState::Silent)
        }),
        ("GuestIO", |s| s.closer.as_mut().unwrap().io = Some(quiet_for(s.now.mono, 30))),
        ("ResetsExhausted", |s| s.vm.status.as_mut().unwrap().recent_resets.clear()),
    ];
    for (reason, repair) in order {
        assert_eq!(scene.verdict(), reason);
        repair(&mut scene);
    }
    assert_eq!(scene.verdict(), "MaxInFlight");
    scene.closer.as_mut().unwrap().fleet.policy.in_flight = 0;
    assert_eq!(scene.verdict(), "StormActive");
    scene.weather = Weather::Calm { since: Mono(0) };
    assert_eq!(scene.verdict(), "Reset Automatic");
}
