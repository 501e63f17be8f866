//! Objects as the API server may have stored them: whatever reads as its kind has a policy and a decision, however little sense it makes. The schema lets
//! most of this through nowhere; an object that was stored before a schema changed is not judged again.

use crate::common::*;
use crate::generate::present;
use defib_api::{HealthPolicySpec, IntOrPercent, ManagedVM, ProxmoxClusterSpec, VMReset};
use defib_core::conditions::merge;
use defib_core::policy::{effective, policy_problem};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Numbers and texts that break things more often than others.
fn scalar() -> BoxedStrategy<Value> {
    let number = prop::sample::select(vec![0_u64, 1, 3, 60, 1 << 31, u64::from(u32::MAX), 1 << 32, 1 << 63, u64::MAX]);
    let text = prop::sample::select(vec![
        "",
        "0%",
        "20%",
        "100%",
        "101%",
        "-1%",
        "18446744073709551616%",
        "%",
        "Enforce",
        "Observe",
        "Reset",
        "Automatic",
        "Manual",
        "Running",
        "Stopping",
        "CPU",
        "Disk",
        "Alert",
        "Trust",
        "True",
        "OK",
        "Unknown",
        "stopped",
        "defib-0",
        "boot-a",
        "-009999-01-02T01:59:59Z",
        "9999-12-30T22:00:00.999999999Z",
        "1970-01-01T00:00:00Z",
        "2027-01-15T08:00:00Z",
        "00112233-4455-6677-8899-aabbccddeeff",
    ]);
    prop_oneof![
        2 => number.prop_map(Value::from),
        3 => text.prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => "\\PC{0,300}".prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => Just(json!({})),
        1 => Just(json!([])),
    ]
    .boxed()
}

/// A whole object of each kind, with every field that a decision looks at.
fn whole() -> Value {
    let time = "2027-01-15T08:00:00Z";
    let settings = json!({"reportSeconds": 10, "timeoutSeconds": 60, "startupGraceSeconds": 120});
    let policy = json!({"mode": "Enforce", "steps": [{"action": "Reset", "maxAttempts": 2, "recoveryDeadlineSeconds": 600}], "maxResets": 3,
        "windowSeconds": 86400, "stabilizationSeconds": 30, "forgiveBefore": time});
    let thresholds = json!([{"metric": "CPU", "action": "Alert", "percent": 80, "durationSeconds": 60}]);
    let pauses = json!([{"owner": "ops", "reason": "migration", "expiresAt": time}]);
    json!({
        "vm": {"apiVersion": "defib.dev/v1alpha1", "kind": "ManagedVM", "metadata": {"name": "web-1", "namespace": "default", "generation": 1},
            "spec": {"proxmox": {"clusterRef": {"name": "pve"}, "vmid": 101}, "identity": "Verify", "agent": {"keyGeneration": 1},
                "heartbeat": settings, "thresholds": thresholds, "resetPolicy": policy, "pauses": pauses},
            "status": {"observedGeneration": 1, "node": "pve1", "power": "running", "identity": MACHINE.to_string(),
                "conditions": [{"type": "HeartbeatFresh", "status": "True", "reason": "Fresh", "message": "", "lastTransitionTime": time}],
                "heartbeat": {"lastReceivedTime": time, "bootID": "boot-a", "bootTime": time, "machineUUID": MACHINE.to_string(), "state": "Running",
                    "supervised": true, "reportSeconds": 10},
                "usage": {"cpuPercent": 1},
                "episode": {"id": "e1", "startTime": time, "attempts": 1, "lastEndTime": time},
                "currentReset": {"name": "web-1-e1-1", "holder": ME, "trigger": "Automatic", "action": "Reset", "step": 1, "attempt": 1,
                    "recoveryDeadlineSeconds": 600, "stabilizationSeconds": 30, "intentTime": time, "node": "pve1", "bootIDBefore": "boot-a",
                    "sentTime": time, "upid": "UPID:", "taskEndTime": time, "taskResult": "OK", "answer": "OK"},
                "recentResets": [{"name": "web-1-e1-1", "time": time}], "resetsInWindow": 1}},
        "policy": {"heartbeat": settings, "thresholds": thresholds, "resetPolicy": policy, "pauses": pauses,
            "budget": {"maxUnhealthy": "20%", "maxInFlight": 1}, "resetHistoryLimit": 10},
        "cluster": {"endpoints": ["https://pve1:8006"], "tokenSecretRef": {"name": "t"}, "tls": {"verify": "System"}, "maxRequestsPerNode": 2,
            "pauses": pauses},
        "request": {"apiVersion": "defib.dev/v1alpha1", "kind": "VMReset", "metadata": {"name": "please", "uid": "u"},
            "spec": {"vmRef": {"name": "web-1"}, "action": "Auto", "reason": "hangs", "requestedBy": "anna", "trigger": "Manual", "notAfter": time},
            "status": {"state": "Pending", "message": "waits"}},
    })
}

/// Every place of a value, as a JSON pointer.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    let mut below = |name: &str, inner: &Value| {
        let place = format!("{at}/{name}");
        all.push(place.clone());
        places(inner, &place, all);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, inner)| below(name, inner)),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, inner)| below(&n.to_string(), inner)),
        _ => {}
    }
}

/// All four objects, with some of their fields changed and some left out.
fn stored() -> impl Strategy<Value = Value> {
    let mut all = Vec::new();
    places(&whole(), "", &mut all);
    let change = (prop::sample::select(all), prop::option::weighted(0.8, scalar()));
    prop::collection::vec(change, 0..6).prop_map(|changes| {
        let mut objects = whole();
        for (place, value) in changes {
            let (parent, name) = place.rsplit_once('/').unwrap();
            match (value, objects.pointer_mut(parent)) {
                (Some(value), Some(_)) => {
                    if let Some(field) = objects.pointer_mut(&place) {
                        *field = value;
                    }
                }
                (None, Some(Value::Object(fields))) => drop(fields.remove(name)),
                _ => {}
            }
        }
        objects
    })
}

fn read<T: DeserializeOwned>(objects: &Value, kind: &str) -> Option<T> {
    serde_json::from_value(objects[kind].clone()).ok()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn whatever_reads_as_its_kind_has_a_decision(objects in stored(), now in present(), late in any::<bool>(), looked in any::<bool>()) {
        let mut scene = if looked { due() } else { silent() };
        if late {
            scene.now = now;
        }
        // What is malformed is left as it was: one bad object must not hide what the others do.
        if let Some(vm) = read::<ManagedVM>(&objects, "vm") {
            scene.vm = vm;
        }
        if let Some(policy) = read::<HealthPolicySpec>(&objects, "policy") {
            let _ = policy_problem("default", &policy);
            scene.policy = policy;
        }
        if let Some(cluster) = read::<ProxmoxClusterSpec>(&objects, "cluster") {
            scene.cluster = cluster;
        }
        scene.manual = read::<VMReset>(&objects, "request");
        let decision = scene.decide();
        prop_assert!(decision.check_after > Duration::ZERO);
        prop_assert_eq!(decision.conditions.len(), 6);
        for c in &decision.conditions {
            prop_assert!(c.message.chars().count() <= 32_768, "the API server would refuse it: {:?}", c);
        }
        let effective = effective(&scene.vm.spec, defib_core::policy::Found::None);
        prop_assert!(!effective.steps.is_empty());
        let status = scene.vm.status.clone().unwrap_or_default();
        let merged = merge(&status.conditions, &decision.conditions, Some(1), scene.now.wall);
        prop_assert_eq!(merged.len(), 6);
    }

    #[test]
    fn a_share_is_within_its_population_or_no_share(text in "[0-9]{0,22}%?|\\PC{0,8}", count in any::<u32>(), population in any::<u32>()) {
        prop_assert_eq!(IntOrPercent::Count(count).of(population), Some(count));
        if let Some(allowed) = IntOrPercent::Percent(text.clone()).of(population) {
            prop_assert!(text.ends_with('%') && (1..=population.max(1)).contains(&allowed), "{} of {}: {}", text, population, allowed);
        }
    }
}

/// The property is about something: most changed objects still read as their kind.
#[test]
fn most_changed_objects_still_read() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let vms = (0..500).filter(|_| {
        let objects = stored().new_tree(&mut runner).unwrap().current();
        read::<ManagedVM>(&objects, "vm").is_some()
    });
    assert!(vms.count() > 150);
    assert!(whole().as_object().is_some_and(|o: &Map<String, Value>| o.len() == 4));
}
