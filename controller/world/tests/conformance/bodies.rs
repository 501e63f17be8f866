//! What is written: mostly what the schemas allow, some of what they do not, and nothing that only a CEL rule refuses.

use crate::random::Random;
use crate::steps::Kind;
use serde_json::{Value, json};

/// A spec, or what a kind has instead, that is accepted.
pub fn base(kind: Kind) -> Value {
    match kind {
        Kind::ManagedVm => json!({"spec": {"proxmox": {"clusterRef": {"name": "pve"}, "vmid": 101}}}),
        Kind::HealthPolicy => json!({"spec": {"heartbeat": {"reportSeconds": 30}}}),
        Kind::ProxmoxCluster => json!({"spec": {
            "endpoints": ["https://pve1:8006"], "tokenSecretRef": {"name": "t"}, "tls": {"verify": "System"},
        }}),
        Kind::VmReset => json!({"spec": {
            "vmRef": {"name": "a"}, "action": "Reset", "trigger": "Manual", "notAfter": "2030-01-01T00:00:00Z",
        }}),
        Kind::Lease => json!({"spec": {"holderIdentity": "defib-0", "leaseDurationSeconds": 15}}),
        Kind::Secret => json!({"type": "Opaque", "data": {"key": "c2VjcmV0"}}),
    }
}

/// A merge patch of what is not metadata and not status.
pub fn change(kind: Kind, r: &mut Random) -> Value {
    if r.percent(5) {
        return json!({"colour": "red", "spec": {"colour": "red"}});
    }
    match kind {
        Kind::ManagedVm => json!({"spec": vm(r)}),
        Kind::HealthPolicy => json!({"spec": policy(r)}),
        Kind::ProxmoxCluster => json!({"spec": cluster(r)}),
        // A VMReset cannot be changed: what is not refused by the schema leaves it as it is.
        Kind::VmReset => r.pick(&[
            json!({"spec": {"action": "Reset"}}),
            json!({"spec": {"action": "Explode"}}),
            json!({"spec": {"vmRef": {"name": ""}}}),
            json!({"spec": {"vmRef": {"name": "a", "shape": "round"}}}),
            json!({"spec": {"trigger": null}}),
            json!({"spec": {"notAfter": "later"}}),
            json!({"spec": null}),
        ]),
        Kind::Lease => r.pick(&[
            json!({"spec": {"holderIdentity": "defib-0"}}),
            json!({"spec": {"holderIdentity": "defib-1"}}),
            json!({"spec": {"holderIdentity": null}}),
            json!({"spec": {"leaseTransitions": 1}}),
            json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}),
            json!({"spec": {"leaseDurationSeconds": 0}}),
            json!({"spec": {"leaseDurationSeconds": 30}}),
            json!({"spec": {"leaseTransitions": -1}}),
            json!({"spec": {"holderIdentity": ""}}),
        ]),
        Kind::Secret => r.pick(&[
            json!({"data": {"key": "b3RoZXI="}}),
            // A null here in a replacement is stored, and gone with the next write that changes nothing: too odd to imitate.
            json!({"data": {"more": "bW9yZQ=="}}),
            json!({"stringData": {"plain": "text"}}),
            json!({"type": "Other"}),
            json!({"type": null}),
            json!({"data": {"bad key": "b3RoZXI="}}),
        ]),
    }
}

fn vm(r: &mut Random) -> Value {
    let pause = |owner: &str| json!({"owner": owner, "reason": "migration"});
    match r.below(30) {
        0 => json!({"identity": "Trust"}),
        1 => json!({"identity": "Verify"}),
        2 => json!({"identity": null}),
        3 => json!({"policyRef": {"name": r.pick(&["x", "y"])}}),
        4 => json!({"policyRef": null}),
        5 => json!({"agent": {"keyGeneration": 1 + r.below(3)}}),
        // Any two of these fit the rule that compares them.
        6 => json!({"heartbeat": {"reportSeconds": 1 + r.below(50)}}),
        7 => json!({"heartbeat": {"timeoutSeconds": 200 + r.below(50)}}),
        8 => json!({"heartbeat": null}),
        9 => json!({"pauses": [pause("a")]}),
        10 => json!({"pauses": [pause("b"), pause("a")]}),
        11 => json!({"pauses": []}),
        12 => json!({"pauses": null}),
        13 => json!({"thresholds": [{"metric": "CPU", "action": "Alert", "percent": 80, "durationSeconds": 60}]}),
        14 => json!({"proxmox": {"shape": "round"}, "colour": {"deep": [1, null]}}),
        15 => json!({"pauses": [{"owner": "a", "reason": "r", "expiresAt": "2026-01-01T00:00:00Z", "colour": "red"}]}),
        16 => json!({"pauses": [{"owner": "\u{e4}".repeat(63), "reason": "r", "expiresAt": null}]}),
        17 => json!({"identity": "Sometimes"}),
        18 => json!({"identity": 7}),
        19 => json!({"agent": {"keyGeneration": 0}}),
        20 => json!({"agent": {"keyGeneration": 1.5}}),
        21 => json!({"agent": "x"}),
        22 => json!({"proxmox": null}),
        23 => json!({"pauses": [pause("a"), pause("b"), pause("a")]}),
        24 => json!({"pauses": [{"owner": "a"}]}),
        25 => json!({"pauses": [null]}),
        26 => json!({"pauses": [pause(&"\u{e4}".repeat(64))]}),
        27 => json!({"pauses": (0..17).map(|n| pause(&n.to_string())).collect::<Vec<_>>()}),
        28 => json!({"pauses": [{"owner": "a", "reason": "r", "expiresAt": "soon"}]}),
        _ => r.pick(&[json!(null), json!("x"), json!({"heartbeat": []}), json!({"pauses": {}}), json!({})]),
    }
}

fn policy(r: &mut Random) -> Value {
    match r.below(12) {
        0 => json!({"budget": {"maxInFlight": 1 + r.below(3)}}),
        1 => json!({"budget": {"maxUnhealthy": "20%"}}),
        2 => json!({"budget": {"maxUnhealthy": 3}}),
        3 => json!({"budget": {"maxUnhealthy": null}}),
        4 => json!({"budget": {"maxUnhealthy": true}}),
        5 => json!({"budget": {"maxInFlight": 101}}),
        6 => json!({"heartbeat": {"reportSeconds": 1 + r.below(50)}}),
        7 => json!({"heartbeat": {"reportSeconds": 3601}}),
        8 => json!({"heartbeat": {"timeoutSeconds": 2}}),
        9 => json!({"budget": null, "heartbeat": null}),
        10 => json!({"maintenanceWindows": [{"schedule": "0 3 * * 6", "durationSeconds": 3600}]}),
        _ => json!({"maintenanceWindows": [{"schedule": "x", "durationSeconds": 3600}]}),
    }
}

fn cluster(r: &mut Random) -> Value {
    match r.below(10) {
        0 => json!({"endpoints": ["https://pve1:8006", "https://pve2:8006"]}),
        1 => json!({"endpoints": []}),
        2 => json!({"endpoints": ["https:"]}),
        3 => json!({"maxRequestsPerNode": 1 + r.below(8)}),
        4 => json!({"maxRequestsPerNode": 9}),
        5 => json!({"tls": {"verify": "None", "fingerprints": null}}),
        6 => json!({"tls": {"verify": "Perhaps"}}),
        7 => json!({"tls": {"verify": null, "fingerprints": [vec!["AB"; 32].join(":")]}}),
        8 => json!({"tls": {"verify": null, "fingerprints": ["AB:CD"]}}),
        _ => json!({"tls": null}),
    }
}

/// A merge patch of the status.
pub fn status(kind: Kind, r: &mut Random) -> Value {
    let condition = |name: &str, status: &str, reason: &str| json!({"type": name, "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let common = [
        json!({"conditions": [condition("Ready", "True", "Fine")]}),
        json!({"conditions": [condition("Ready", "False", "Bad"), condition("Other", "True", "Fine")]}),
        json!({"conditions": [condition("Ready", "True", "Fine"), condition("Ready", "False", "Bad")]}),
        json!({"conditions": [condition("Ready", "Perhaps", "Fine")]}),
        json!({"conditions": [condition("Ready", "True", "no reason")]}),
        json!({"conditions": [{"type": "Ready"}]}),
        json!({"conditions": null}),
        json!({"colour": "red"}),
        json!({}),
        json!(null),
        json!("x"),
        json!([]),
    ];
    if kind != Kind::ManagedVm || r.percent(30) {
        return json!({"status": r.pick(&common)});
    }
    let reset = json!({
        "name": r.pick(&["a-1", "a-2"]), "holder": "defib-0", "step": 1, "action": "Reset", "attempt": 1, "trigger": "Automatic",
        "intentTime": "2026-01-01T00:00:00Z", "node": "pve1", "recoveryDeadlineSeconds": 600, "stabilizationSeconds": 60,
    });
    let recent = |name: &str| json!({"name": name, "time": "2026-01-01T00:00:00.123Z"});
    let status = match r.below(14) {
        0 | 1 => json!({"currentReset": reset, "recentResets": [recent("a-1")]}),
        2 => json!({"currentReset": null}),
        3 => json!({"currentReset": {"name": "a-3"}}),
        4 => json!({"currentReset": {"name": ""}}),
        5 => json!({"currentReset": {"step": -1}}),
        6 => json!({"recentResets": [recent("b"), recent("a"), recent("b")]}),
        7 => json!({"recentResets": []}),
        8 => json!({"node": r.pick(&["pve1", "pve2"])}),
        9 => json!({"node": null}),
        10 => json!({"heartbeat": {"lastReceivedTime": "2026-01-01T00:00:00Z", "state": "Running", "supervised": true}}),
        11 => json!({"heartbeat": {"state": "Idle"}}),
        12 => json!({"usage": {"cpuPercent": r.below(100), "disks": [{"mount": "/", "usedBytes": 1, "totalBytes": 2}]}}),
        _ => json!({"node": "n".repeat(64)}),
    };
    json!({"status": status})
}

/// A merge patch of the metadata.
pub fn metadata(r: &mut Random) -> Value {
    let meta = match r.below(26) {
        0 => json!({"labels": {"env": "prod"}}),
        1 => json!({"labels": {"env": "test", "tier": "1"}}),
        2 => json!({"labels": {"env": null}}),
        3 => json!({"labels": null}),
        4 => json!({"labels": {"env": "not a value"}}),
        5 => json!({"labels": {"not/a/key": "x"}}),
        6 => json!({"labels": {"env": 7}}),
        7 => json!({"annotations": {"defib.dev/note": "text of any kind"}}),
        8 => json!({"annotations": {"a b": "x"}}),
        9 => json!({"annotations": null}),
        10 => json!({"finalizers": ["defib.dev/a"]}),
        11 => json!({"finalizers": ["defib.dev/a", "defib.dev/b"]}),
        12..=14 => json!({"finalizers": null}),
        15 => json!({"finalizers": []}),
        16 => json!({"uid": "$uid"}),
        17 => json!({"uid": "11111111-1111-1111-1111-111111111111"}),
        18 => json!({"resourceVersion": "$version"}),
        19 => json!({"resourceVersion": "$stale"}),
        20 => json!({"resourceVersion": null}),
        21 => json!({"generation": 77, "creationTimestamp": "2020-01-01T00:00:00Z"}),
        22 => json!({"name": "other"}),
        23 => json!({"namespace": "other"}),
        24 => json!({"ownerReferences": [owner(r)]}),
        _ => r.pick(&[
            json!({"ownerReferences": null}),
            json!({"colour": "red"}),
            json!({"deletionTimestamp": "2020-01-01T00:00:00Z"}),
            json!({"resourceVersion": "soon"}),
            json!({"generateName": "x"}),
            json!(null),
        ]),
    };
    json!({"metadata": meta})
}

/// A reference to an object that stays, or one that no server takes: what names something that is gone, the real garbage collector would delete.
fn owner(r: &mut Random) -> Value {
    let whole = json!({"apiVersion": "v1", "kind": "Secret", "name": "keeper", "uid": "$keeper"});
    let mut owner = whole.clone();
    match r.below(4) {
        0 => owner["uid"] = json!(""),
        1 => owner["kind"] = json!(""),
        2 => owner["controller"] = json!(true),
        _ => {}
    }
    owner
}
