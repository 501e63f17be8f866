//! powerState: a VM that is off is started only where Running is declared, through gates and under a cap of its own.

use crate::common::*;
use defib_api::*;
use defib_core::conditions::kind;
use defib_core::decide::{Inventory, Next};
use defib_core::observer::Trouble;
use defib_core::window::Windows;

/// Off for ten minutes as Defib sees it, and declared to be on. Its agent said goodbye: the guest was shut down.
fn off() -> Scene {
    healthy()
        .silent_for(700)
        .reporting(|r| r.state = AgentState::Stopping)
        .spec(|s| s.power_state = Some(PowerState::Running))
        .with(|s| {
            s.inventory = Inventory::Row {
                node: "pve1".into(),
                status: "stopped".into(),
            };
            s.off_since = Some(mono(NOW - 600));
        })
}

/// And it was looked at.
fn looked() -> Scene {
    off().look(|l| {
        l.qmp_status = "stopped".into();
        l.uptime = secs(0);
    })
}

fn started_ago(scene: Scene, ago: &[u64]) -> Scene {
    let times = ago.iter().map(|ago| wall((NOW - ago) as i64)).collect();
    scene.status(|s| s.recent_starts = times)
}

#[test]
fn a_vm_that_is_to_run_is_looked_at_and_started() {
    assert_eq!(off().decide().next, Next::LookCloser, "nothing is done by a list that may be old");
    assert_eq!(looked().decide().next, Next::Start);
    let silent = looked().reporting(|r| r.state = AgentState::Running);
    assert_eq!(
        silent.decide().next,
        Next::Start,
        "its power was cut, and its agent could not say goodbye"
    );
    let never = looked().empty_ledger();
    assert_eq!(never.decide().next, Next::Start, "nor does a start need an agent");
}

#[test]
fn what_keeps_it_off_is_said_in_its_state() {
    type Change = fn(Scene) -> Scene;
    let cases: [(&str, &str, Change); 17] = [
        ("nothing is declared", "powerState is Unmanaged", |s| {
            s.spec(|s| s.power_state = None)
        }),
        ("Unmanaged is declared", "powerState is Unmanaged", |s| {
            s.spec(|s| s.power_state = Some(PowerState::Unmanaged))
        }),
        ("it is only observed", "ObserveOnly", |s| {
            s.reset_policy(|p| p.mode = Some(Mode::Observe))
        }),
        ("all are only observed", "ObserveOnly", |s| s.with(|s| s.observe_only = true)),
        ("a pause", "Paused", |s| s.spec(|s| s.pauses = vec![pause("anna", None)])),
        ("a window", "MaintenanceWindow", |s| {
            s.with(|s| {
                s.windows = Windows::Open {
                    schedule: "* * * * *".into(),
                    closes: wall(NOW as i64 + 60),
                }
            })
        }),
        ("off for less than a minute", "JustStopped", |s| {
            s.with(|s| s.off_since = Some(mono(NOW - 59)))
        }),
        ("a hold ended a moment ago", "JustStopped", |s| s.hold_lifted_at(NOW - 59)),
        ("it was started a moment ago", "StartSent", |s| started_ago(s, &[59])),
        ("it was started too often", "StartsExhausted", |s| {
            started_ago(s, &[80_000, 4_000, 70])
        }),
        ("it is on by now", "AlreadyOn", |s| s.look(|_| {})),
        ("a lock", "Locked", |s| {
            s.look(|l| {
                l.qmp_status = "stopped".into();
                l.lock = Some("backup".into());
            })
        }),
        ("HA wants it off", "HAManaged", |s| {
            s.look(|l| {
                l.qmp_status = "stopped".into();
                l.ha_state = Some("stopped".into());
            })
        }),
        ("another machine has its number", "IdentityChanged", |s| {
            s.look(|l| {
                l.qmp_status = "stopped".into();
                l.uuid = Some(OTHER_MACHINE);
            })
        }),
        ("its node is down", "NodeNotOnline", |s| {
            s.look(|l| {
                l.qmp_status = "stopped".into();
                l.node_status = "offline".into();
            })
        }),
        ("somebody works on its node", "NodeMaintenance", |s| {
            s.look(|l| {
                l.qmp_status = "stopped".into();
                l.node_in_maintenance = true;
            })
        }),
        ("the cluster has no quorum", "NoQuorum", |s| {
            s.look(|l| {
                l.qmp_status = "stopped".into();
                l.no_quorum = true;
            })
        }),
    ];
    for (case, said, change) in cases {
        let decision = change(looked()).decide();
        assert_ne!(decision.next, Next::Start, "{case}");
        let ready = condition(&decision, kind::READY);
        assert_eq!(ready.reason, "Stopped", "{case}");
        assert!(ready.message.contains(said), "{case}: {}", ready.message);
    }
}

#[test]
fn since_when_it_is_off_is_said_where_it_was_seen_to_go_off() {
    let was = |power: &str, since: Option<u64>| {
        off().status(|s| {
            s.power = Some(power.into());
            s.power_since = since.map(|at| wall(at as i64));
        })
    };
    let cases = [
        ("it was never seen before", off().status(|s| s.power = None), None),
        ("it went off just now", was("running", Some(NOW - 90_000)), Some(NOW)),
        ("it is off since then", was("stopped", Some(NOW - 600)), Some(NOW - 600)),
        ("it was off when Defib first saw it", was("stopped", None), None),
    ];
    for (case, scene, since) in cases {
        let decision = scene.decide();
        let since = since.map(|at| wall(at as i64));
        assert_eq!(decision.power_since, since, "{case}");
        let said = since.map_or("is stopped;".into(), |at| format!("is stopped since {at};"));
        let ready = condition(&decision, kind::READY);
        assert!(ready.message.contains(&said), "{case}: {}", ready.message);
    }
}

#[test]
fn what_does_not_keep_it_off() {
    let cases = [
        ("the cap of resets is reached", looked().resets_ago(&[5_000, 4_000, 3_000])),
        (
            "starts that left the window",
            started_ago(looked(), &[WINDOW + 2, WINDOW + 1, WINDOW]),
        ),
        (
            "starts that are forgiven",
            started_ago(looked(), &[5_000, 4_000, 3_000]).reset_policy(|p| p.forgive_before = Some(wall(NOW as i64 - 1))),
        ),
        (
            "Defib is deaf: what Proxmox says is heard all the same",
            looked().trouble(Trouble::Loopback),
        ),
    ];
    for (case, scene) in cases {
        assert_eq!(scene.decide().next, Next::Start, "{case}");
    }
}

#[test]
fn starts_share_the_room_with_resets() {
    let decision = looked().fleet(|f| f.policy.in_flight = 1).decide();
    assert!(condition(&decision, kind::READY).message.contains("MaxInFlight"));
}

#[test]
fn a_reset_that_is_under_way_has_its_own_start() {
    assert!(matches!(looked().under_way(task()).decide().next, Next::Continue(_)));
}
