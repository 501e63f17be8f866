//! What people see of the kinds with kubectl, and what a ManagedVM weighs.

use defib_api::{
    AgentState, Condition, CurrentReset, DiskUsage, Episode, HeartbeatStatus, ManagedVM, ManagedVMStatus, RecentReset, StepAction,
    TaskResult, Trigger, UsageStatus,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::support::{checkout, kubectl, kubectl_with, namespace};
use crate::with_crds;

/// A moment in the past, to the millisecond, as Defib writes them.
fn ago(seconds: i64) -> Timestamp {
    let now = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap();
    now - SignedDuration::from_secs(seconds)
}

fn condition(kind: &str, status: &str, reason: &str, message: String) -> Condition {
    Condition {
        // Kubernetes writes these to the second.
        last_transition_time: Time(Timestamp::from_second(ago(90).as_second()).unwrap()),
        message,
        observed_generation: Some(12),
        reason: reason.into(),
        status: status.into(),
        type_: kind.into(),
    }
}

/// A ManagedVM's status with everything in it at lengths that occur: full lists, a reset under way, conditions with long messages.
fn full_status(message: usize) -> ManagedVMStatus {
    let boot_id = "2f8d3c1e-7a94-4d0b-9a53-c7b0e1d1f6aa";
    let name = |n: usize| format!("database-primary-1-k7d2mq-{n}");
    let conditions = [
        ("Ready", "False", "Resetting"),
        ("HeartbeatFresh", "False", "Silent"),
        ("WithinThresholds", "False", "ThresholdExceeded"),
        ("ResetAllowed", "False", "ResetUnderWay"),
        ("Resetting", "True", "Verifying"),
        ("Adopted", "True", "Adopted"),
    ];
    ManagedVMStatus {
        observed_generation: Some(12),
        conditions: conditions
            .map(|(kind, status, reason)| condition(kind, status, reason, "m".repeat(message)))
            .into(),
        node: Some("pve-rack2-node07".into()),
        power: Some("running".into()),
        power_since: Some(ago(86_400)),
        recent_starts: (0..10).map(|n| ago(80_000 - n * 1_000)).collect(),
        identity: Some("9c5b94b1-35ad-49bb-b118-8e8fc24abf80".into()),
        heartbeat: Some(HeartbeatStatus {
            report_seconds: Some(30),
            last_received_time: Some(ago(400)),
            boot_id: Some(boot_id.into()),
            boot_time: Some(ago(3 * 86_400 + 3_600)),
            machine_uuid: Some("9c5b94b1-35ad-49bb-b118-8e8fc24abf80".into()),
            state: Some(AgentState::Running),
            supervised: Some(true),
            agent_version: Some("0.1.0".into()),
        }),
        usage: Some(UsageStatus {
            cpu_percent: Some(97),
            memory_percent: Some(93),
            memory_total_bytes: Some(274_877_906_944),
            disk_percent: Some(88),
            disks: (0..16)
                .map(|n| DiskUsage {
                    mount: format!("/var/lib/postgresql/tablespace-{n:02}"),
                    used_bytes: 1_923_847_561_216,
                    total_bytes: 2_199_023_255_552,
                })
                .collect(),
        }),
        episode: Some(Episode {
            id: "k7d2mq".into(),
            start_time: ago(900),
            attempts: 2,
            last_end_time: Some(ago(300)),
        }),
        current_reset: Some(CurrentReset {
            name: name(3),
            request_uid: Some("d1f6aa2f-8d3c-4e7a-944d-0b9a53c7b0e1".into()),
            holder: "defib-0".into(),
            trigger: Trigger::Automatic,
            action: StepAction::Reset,
            step: 1,
            attempt: 3,
            recovery_deadline_seconds: 600,
            stabilization_seconds: 60,
            intent_time: ago(60),
            node: "pve-rack2-node07".into(),
            boot_id_before: Some(boot_id.into()),
            sent_time: Some(ago(59)),
            upid: Some("UPID:pve-rack2-node07:003A1B2C:1F2E3D4C:6723A1B0:qmreset:102:defib@pve!controller:".into()),
            task_end_time: Some(ago(55)),
            task_result: Some(TaskResult::OK),
            answer: Some("a".repeat(200)),
        }),
        recent_resets: (0..12)
            .map(|n| RecentReset {
                name: name(n),
                time: ago(86_400 - 60 * i64::try_from(n).unwrap()),
            })
            .collect(),
        resets_in_window: Some(12),
    }
}

fn set_status(namespace: &str, resource: &str, status: &Value) {
    let patch = json!({ "status": status }).to_string();
    let said = kubectl(&[
        "patch",
        resource,
        "--namespace",
        namespace,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &patch,
    ]);
    assert!(said.ok, "{}", said.err);
}

fn quickstart(name: &str) -> String {
    let namespace = namespace(name);
    let folder = checkout().join("examples/quickstart");
    kubectl(&["create", "--namespace", &namespace, "--filename", &folder.to_string_lossy()]).cleanly();
    namespace
}

/// A printed table: its headings, and its rows by name. Headings are two words at most with one space between them, columns are apart by three.
fn table(printed: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let split = |line: &str| {
        line.split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut lines = printed.lines();
    (split(lines.next().unwrap_or_default()), lines.map(split).collect())
}

#[test]
fn get_vms_prints_the_columns_of_the_design() {
    with_crds();
    let namespace = quickstart("columns");
    set_status(&namespace, "managedvm/db-1", &serde_json::to_value(full_status(80)).unwrap());

    let printed = kubectl(&["get", "vms", "--namespace", &namespace]).cleanly();
    let (headings, rows) = table(&printed);
    assert_eq!(
        headings,
        ["NAME", "STATE", "CPU", "MEM", "DISK", "UP", "LAST SEEN", "RESETS", "NODE", "AGE"]
    );
    let row = rows.iter().find(|row| row[0] == "db-1").unwrap_or_else(|| panic!("{printed}"));
    assert_eq!(row[1..6], ["Resetting", "97", "93", "88", "3d1h"], "{printed}");
    // 400 s, and what has gone by since.
    assert!(row[6].starts_with('6') && row[6].contains('m'), "{printed}");
    assert_eq!(row[7..9], ["12", "pve-rack2-node07"], "{printed}");

    let wide = kubectl(&["get", "managedvms", "--namespace", &namespace, "--output=wide"]).cleanly();
    let (headings, rows) = table(&wide);
    assert_eq!(headings[10..], ["VMID", "POLICY", "REASON"], "{wide}");
    let row = rows.iter().find(|row| row[0] == "db-1").unwrap_or_else(|| panic!("{wide}"));
    // This VM names no policy.
    assert_eq!((row[10].as_str(), row.last().unwrap().as_str()), ("102", "ResetUnderWay"), "{wide}");

    // All names of the kinds.
    for name in ["mvm", "vm", "vms", "defib", "vms.defib.dev"] {
        let names = kubectl(&["get", name, "--namespace", &namespace, "--output=name"]).cleanly();
        assert!(names.contains("managedvm.defib.dev/db-1"), "{name}: {names}");
    }
}

#[test]
fn get_of_the_other_kinds_answers_the_first_question() {
    with_crds();
    let namespace = quickstart("other-kinds");
    let ready = |status: &str, reason: &str| json!([condition("Ready", status, reason, String::new())]);
    let policy = json!({ "managedVMs": 3, "healthyVMs": 2, "inFlight": 1, "resetsAllowed": 0, "conditions": ready("True", "Valid") });
    set_status(&namespace, "healthpolicy/default", &policy);
    let cluster = json!({ "version": "9.1.2", "quorate": true, "nodeCount": 3, "conditions": ready("False", "MissingPrivileges") });
    set_status(&namespace, "proxmoxcluster/pve", &cluster);
    let reset = json!({
        "apiVersion": "defib.dev/v1alpha1", "kind": "VMReset", "metadata": { "name": "db-1-by-hand" },
        "spec": { "vmRef": { "name": "db-1" }, "action": "Auto", "trigger": "Manual", "reason": "it hangs", "notAfter": ago(-600) },
    });
    kubectl_with(&["create", "--namespace", &namespace, "--filename", "-"], &reset.to_string()).cleanly();
    set_status(
        &namespace,
        "vmreset/db-1-by-hand",
        &json!({ "state": "Finished", "outcome": "Recovered", "action": "Reset", "attempt": 1 }),
    );

    let get = |name: &str| {
        let printed = kubectl(&["get", name, "--namespace", &namespace]).cleanly();
        println!("{printed}\n");
        let (headings, mut rows) = table(&printed);
        (headings, rows.remove(0))
    };
    let (headings, row) = get("hp");
    assert_eq!(headings, ["NAME", "MODE", "TIMEOUT", "VMS", "HEALTHY", "IN FLIGHT", "READY", "AGE"]);
    assert_eq!(row[..7], ["default", "Enforce", "300", "3", "2", "1", "True"]);
    let (headings, row) = get("pve");
    assert_eq!(headings, ["NAME", "READY", "REASON", "VERSION", "QUORATE", "NODES", "AGE"]);
    assert_eq!(row[..6], ["pve", "False", "MissingPrivileges", "9.1.2", "true", "3"]);
    let (headings, row) = get("vmr");
    assert_eq!(headings, ["NAME", "VM", "TRIGGER", "ACTION", "STATE", "OUTCOME", "ATTEMPT", "AGE"]);
    assert_eq!(row[..7], ["db-1-by-hand", "db-1", "Manual", "Reset", "Finished", "Recovered", "1"]);
}

#[test]
fn explain_tells_what_a_reader_needs() {
    with_crds();
    // The lines are wrapped where they are long.
    let explain = |path: &str| {
        kubectl(&["explain", path])
            .cleanly()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let policy = explain("mvm.spec.resetPolicy");
    for words in [
        "mode <string> enum: Enforce, Observe",
        "Where neither the VM nor its policy says: Observe.",
        "- Enforce: A silent VM is reset when every gate lets it pass.",
        "- Observe: Watched and shown, never reset by Defib on its own.",
        "steps <[]Object>",
        "Taken as a whole, never merged. Built-in: Reset, 2 attempts, then PowerCycle, 1 attempt, 600 s each.",
        "maxResets <integer>",
        "Built-in: 3.",
        "how a person lifts an exhausted VM",
    ] {
        assert!(policy.contains(words), "{words:?} is not in: {policy}");
    }
    let trigger = explain("vmr.spec.trigger");
    assert!(trigger.contains("ENUM: Manual Automatic DESCRIPTION:"), "{trigger}");
    assert!(trigger.contains("- Manual: A person or a tool, by a VMReset."), "{trigger}");
    // Where there are two texts, of the field and of its type, both are told.
    let verify = explain("pve.spec.tls.verify");
    assert!(
        verify.contains("Trust without") && verify.contains("- System: ") && verify.contains("- None: "),
        "{verify}"
    );
}

#[test]
fn a_full_managed_vm_stays_below_8_kib() {
    with_crds();
    let namespace = namespace("weight");
    let full = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/full/ManagedVM.yaml")).unwrap();
    kubectl_with(&["create", "--namespace", &namespace, "--filename", "-"], &full).cleanly();
    let status = full_status(290);
    set_status(&namespace, "managedvm/full", &serde_json::to_value(&status).unwrap());

    let stored = kubectl(&["get", "managedvm", "full", "--namespace", &namespace, "--output=json"]).cleanly();
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["metadata"].get("managedFields"), None, "kubectl leaves them out");
    let size = stored.to_string().len();
    println!("a full ManagedVM: {size} bytes");
    assert!(size < 8 * 1024, "{size}");

    // Nothing was lost on the way: the schema knows every field of the type.
    let read: ManagedVM = serde_json::from_value(stored).unwrap();
    assert!(read.status.as_ref() == Some(&status), "stored: {:#?}", read.status);
}

/// The journal's count of resets under way: short, whatever the fleet's size.
#[test]
fn resets_under_way_are_found_by_field() {
    with_crds();
    let namespace = quickstart("selector");
    let under_way = || {
        let args = [
            "get",
            "managedvms",
            "--namespace",
            &namespace,
            "--field-selector",
            "status.currentReset.name!=",
            "--output=name",
        ];
        kubectl(&args).cleanly()
    };
    assert_eq!(under_way(), "");
    set_status(
        &namespace,
        "managedvm/db-1",
        &json!({ "currentReset": full_status(0).current_reset }),
    );
    assert_eq!(under_way(), "managedvm.defib.dev/db-1");
    let name = full_status(0).current_reset.unwrap().name;
    let one = [
        "get",
        "managedvms",
        "--namespace",
        &namespace,
        "--field-selector",
        &format!("status.currentReset.name={name}"),
        "--output=name",
    ];
    assert_eq!(kubectl(&one).cleanly(), "managedvm.defib.dev/db-1");
    set_status(&namespace, "managedvm/db-1", &json!({ "currentReset": null }));
    assert_eq!(under_way(), "");
}
