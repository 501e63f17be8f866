use super::*;
use defib_api::{Metric, ThresholdAction};

fn vm() -> ManagedVMSpec {
    ManagedVMSpec::new("pve", 101)
}

fn threshold(metric: Metric, percent: u32) -> Threshold {
    Threshold {
        metric,
        action: ThresholdAction::Alert,
        percent,
        duration_seconds: 60,
    }
}

#[test]
fn nothing_declared_anywhere_means_observe() {
    let e = effective(&vm(), Found::None);
    assert_eq!((e.mode, e.problem, e.policy), (Mode::Observe, None, None));
    assert_eq!((e.report, e.timeout), (seconds(30), seconds(300)));
}

/// No schema lets such numbers through, but an object may be older than its schema.
#[test]
fn a_timeout_below_four_reports_is_a_problem_for_the_largest_numbers_too() {
    let vm = ManagedVMSpec {
        heartbeat: Some(HeartbeatSettings {
            report_seconds: Some(u32::MAX),
            timeout_seconds: Some(u32::MAX),
            startup_grace_seconds: None,
        }),
        ..vm()
    };
    assert!(matches!(effective(&vm, Found::None).problem, Some(PolicyProblem::Invalid(_))));
}

#[test]
fn the_vm_wins_over_the_policy_field_by_field() {
    let policy = HealthPolicySpec {
        heartbeat: Some(HeartbeatSettings {
            report_seconds: Some(10),
            timeout_seconds: Some(100),
            startup_grace_seconds: None,
        }),
        thresholds: vec![threshold(Metric::CPU, 80), threshold(Metric::Memory, 90)],
        reset_policy: Some(ResetPolicy {
            mode: Some(Mode::Enforce),
            max_resets: Some(5),
            ..ResetPolicy::default()
        }),
        ..HealthPolicySpec::default()
    };
    let vm = ManagedVMSpec {
        heartbeat: Some(HeartbeatSettings {
            timeout_seconds: Some(60),
            ..HeartbeatSettings::default()
        }),
        thresholds: vec![threshold(Metric::CPU, 95)],
        reset_policy: Some(ResetPolicy {
            max_resets: Some(1),
            ..ResetPolicy::default()
        }),
        ..vm()
    };
    let e = effective(
        &vm,
        Found::Policy {
            name: "default",
            spec: &policy,
        },
    );
    assert_eq!((e.report, e.timeout, e.startup_grace), (seconds(10), seconds(60), seconds(600)));
    assert_eq!((e.mode, e.max_resets), (Mode::Enforce, 1));
    assert_eq!(e.thresholds, [threshold(Metric::CPU, 95), threshold(Metric::Memory, 90)]);
}

#[test]
fn what_is_looked_at_beside_silence_merges_field_by_field() {
    let corroborating = |corroborate| ResetPolicy {
        corroborate: Some(corroborate),
        ..ResetPolicy::default()
    };
    let policy = HealthPolicySpec {
        reset_policy: Some(corroborating(Corroborate {
            io_quiet_seconds: Some(60),
            guest_agent: Some(GuestAgentCheck::Ignore),
            max_veto_seconds: None,
        })),
        ..HealthPolicySpec::default()
    };
    let vm = ManagedVMSpec {
        reset_policy: Some(corroborating(Corroborate {
            io_quiet_seconds: Some(30),
            ..Corroborate::default()
        })),
        ..vm()
    };
    let e = effective(
        &vm,
        Found::Policy {
            name: "default",
            spec: &policy,
        },
    );
    assert_eq!(
        (e.io_quiet, e.guest_agent, e.max_veto),
        (seconds(30), GuestAgentCheck::Ignore, seconds(900))
    );
}

#[test]
fn two_valid_halves_that_contradict_name_both_sources() {
    let policy = HealthPolicySpec {
        heartbeat: Some(HeartbeatSettings {
            report_seconds: Some(60),
            ..HeartbeatSettings::default()
        }),
        ..HealthPolicySpec::default()
    };
    let vm = ManagedVMSpec {
        heartbeat: Some(HeartbeatSettings {
            timeout_seconds: Some(120),
            ..HeartbeatSettings::default()
        }),
        ..vm()
    };
    let problem = effective(
        &vm,
        Found::Policy {
            name: "slow",
            spec: &policy,
        },
    )
    .problem
    .unwrap();
    assert_eq!(problem.reason(), "InvalidPolicy");
    assert_eq!(
        problem.to_string(),
        "timeoutSeconds 120 (from the ManagedVM) must be at least 4 times reportSeconds 60 (from HealthPolicy \"slow\"); change one of them"
    );
}

#[test]
fn a_policy_that_is_named_but_missing_is_a_problem_even_in_enforce() {
    let vm = ManagedVMSpec {
        reset_policy: Some(ResetPolicy {
            mode: Some(Mode::Enforce),
            ..ResetPolicy::default()
        }),
        ..vm()
    };
    assert_eq!(effective(&vm, Found::Missing("gone")).problem.unwrap().reason(), "PolicyNotFound");
}

#[test]
fn percent_rounds_up_and_never_below_one() {
    let p = |t: &str| IntOrPercent::Percent(t.into());
    assert_eq!([1, 4, 5, 6, 12].map(|n| p("20%").of(n).unwrap()), [1, 1, 1, 2, 3]);
    assert_eq!(p("20%").of(0), Some(1));
    assert_eq!(IntOrPercent::Count(3).of(100), Some(3));
    assert_eq!([p("0%").of(9), p("101%").of(9), p("x").of(9), p("%").of(9)], [None; 4]);
}

#[test]
fn an_expired_pause_does_not_stand() {
    let t = |s: &str| s.parse::<Timestamp>().unwrap();
    let pause = |owner: &str, end: Option<&str>| Pause {
        owner: owner.into(),
        reason: "x".into(),
        expires_at: end.map(t),
    };
    let pauses = [pause("a", Some("2026-01-01T00:00:00Z")), pause("b", Some("2026-01-02T00:00:00Z"))];
    assert_eq!(standing_pause(&pauses, t("2026-01-01T12:00:00Z")).unwrap().owner, "b");
    assert!(standing_pause(&pauses, t("2026-01-02T00:00:00Z")).is_none());
}
