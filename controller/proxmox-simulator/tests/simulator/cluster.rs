//! Entry at any node, nodes that fail, HA.

use std::time::Duration;

use pve_sim::config::VmConfig;
use pve_sim::{Control, GuestState, HaState};

use crate::lab::{DEADLINE, Lab, config, eventually, group_members, guest};

#[tokio::test]
async fn any_node_serves_the_whole_cluster() {
    let lab = Lab::with(vec![guest(100, "pve3")]).await;
    lab.guest_pid(100).await;
    for entry in ["pve1", "pve2", "pve3"] {
        let status = lab.get(entry, "/nodes/pve3/qemu/100/status/current").await.data();
        assert_eq!(status["status"], "running");
        let upid = lab.post(entry, "/nodes/pve3/qemu/100/status/reset").await.upid();
        assert!(upid.starts_with("UPID:pve3:"), "{upid}");
        assert_eq!(lab.outcome(&upid).await, "OK");
    }
    let answer = lab.get("pve1", "/nodes/elsewhere/qemu").await;
    assert_eq!(
        answer.status_line,
        "HTTP/1.1 500 hostname lookup 'elsewhere' failed - failed to get address info for: elsewhere: Name or service not known"
    );
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_node_without_power_takes_its_guests_along() {
    let lab = Lab::with(vec![guest(100, "pve2"), guest(101, "pve1")]).await;
    let pid = lab.guest_pid(100).await;
    let mut open = lab.connect("pve2").await.unwrap();
    lab.simulator.node_down("pve2").await.unwrap();
    assert!(open.is_closed().await);
    assert!(lab.connect("pve2").await.is_err());
    eventually(|| group_members(pid).is_empty()).await;
    // Delivered to nobody, empty body, and before the schema is looked at.
    let answer = lab.post("pve1", "/nodes/pve2/qemu/100/status/reset?skiplock=maybe").await;
    assert_eq!(
        (answer.status_line.as_str(), answer.body.as_str()),
        ("HTTP/1.1 595 No route to host", "")
    );
    let nodes = lab.get("pve1", "/cluster/status").await.data();
    assert_eq!((&nodes[0]["quorate"], &nodes[2]["online"]), (&1.into(), &0.into()));
    let rows = lab.get("pve1", "/cluster/resources?type=vm").await.data();
    assert_eq!(rows[0]["status"], "running", "the others go on showing what they saw last");
    assert_eq!(lab.get("pve1", "/cluster/resources?type=node").await.data()[1]["status"], "offline");

    lab.simulator.node_up("pve2").await.unwrap();
    lab.guest_pid(100).await;
    assert_eq!(
        lab.get("pve2", "/nodes/pve2/qemu/100/status/current").await.data()["status"],
        "running"
    );
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn an_unreachable_node_keeps_its_guests() {
    let lab = Lab::with(vec![guest(100, "pve2")]).await;
    let pid = lab.guest_pid(100).await;
    lab.simulator
        .control(Control::NodeDown {
            node: "pve2".to_owned(),
            keep_guests: true,
        })
        .await
        .unwrap();
    let answer = lab.get("pve1", "/nodes/pve2/qemu/100/status/current").await;
    assert_eq!(answer.status_line, "HTTP/1.1 595 Connection refused");
    assert_eq!(lab.vm(100).guest_pid, Some(pid));
    lab.simulator.node_up("pve2").await.unwrap();
    assert_eq!(lab.vm(100).guest_pid, Some(pid));
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn quorum_goes_with_the_majority() {
    let lab = Lab::with(vec![]).await;
    assert!(lab.simulator.snapshot().quorate);
    lab.simulator.node_down("pve2").await.unwrap();
    assert!(lab.simulator.snapshot().quorate);
    lab.simulator.node_down("pve3").await.unwrap();
    assert_eq!(lab.get("pve1", "/cluster/status").await.data()[0]["quorate"], 0);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_vm_of_a_dead_node_can_be_recovered_elsewhere() {
    let lab = Lab::with(vec![guest(100, "pve2")]).await;
    lab.guest_pid(100).await;
    let before = lab.vm(100).boot_id;
    lab.simulator.node_down("pve2").await.unwrap();
    lab.simulator.migrate(100, "pve1").await.unwrap();
    lab.guest_pid(100).await;
    assert_ne!(lab.vm(100).boot_id, before);
    lab.simulator.node_up("pve2").await.unwrap();
    assert_eq!(lab.vm(100).node, "pve1");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_live_migration_locks_the_vm_meanwhile() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let pid = lab.guest_pid(100).await;
    let migration = lab.simulator.control(Control::Migrate {
        vmid: 100,
        node: "pve2".to_owned(),
        seconds: 1.0,
    });
    let reset = async {
        eventually(|| lab.vm(100).lock.is_some()).await;
        lab.act("pve1", 100, "reset").await
    };
    let (migration, reset) = tokio::join!(migration, reset);
    migration.unwrap();
    assert_eq!(reset, "VM is locked (migrate)");
    assert_eq!(
        (lab.vm(100).node.as_str(), lab.vm(100).lock, lab.vm(100).guest_pid),
        ("pve2", None, Some(pid))
    );
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn ha_acts_later_than_its_tasks_end() {
    let mut config = config(vec![VmConfig {
        ha: Some(HaState::Started),
        ..guest(100, "pve1")
    }]);
    config.timing.ha = Duration::from_secs(1);
    let lab = Lab::start(config).await;
    lab.guest_pid(100).await;
    let upid = lab.post("pve1", "/nodes/pve1/qemu/100/status/stop").await.upid();
    assert!(upid.contains(":hastop:100:"), "{upid}");
    assert_eq!(lab.outcome(&upid).await, "OK");
    let log = lab.get("pve1", &format!("/nodes/pve1/tasks/{upid}/log")).await.data();
    assert_eq!(log[0]["t"], "Requesting HA stop for VM 100");
    eventually(|| !lab.vm(100).running).await;
    assert_eq!(lab.vm(100).ha, Some(HaState::Stopped));
    let upid = lab.post("pve1", "/nodes/pve1/qemu/100/status/start").await.upid();
    assert!(upid.contains(":hastart:100:"), "{upid}");
    eventually(|| lab.vm(100).running).await;

    lab.simulator.set_ha(100, Some(HaState::Error)).await.unwrap();
    let outcome = lab.act("pve1", 100, "stop").await;
    assert_eq!(outcome, "command 'ha-manager crm-command stop vm:100 0' failed: exit code 255");
    let overrule = lab.post("pve1", "/nodes/pve1/qemu/100/status/stop?overrule-shutdown=1").await;
    assert_eq!(overrule.json()["errors"]["overrule-shutdown"], "Not applicable for HA resources.");
    let status = lab.status("pve1", 100).await;
    assert_eq!(status["ha"], serde_json::json!({ "managed": 1, "state": "error" }));
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn the_guest_agent_tells_a_live_guest_from_a_dead_one() {
    let with_agent = VmConfig {
        guest_agent: pve_sim::GuestAgent::Running,
        ..guest(100, "pve1")
    };
    let stopped = VmConfig {
        running: false,
        ..VmConfig::new(102, "pve1")
    };
    let lab = Lab::with(vec![with_agent, guest(101, "pve1"), stopped]).await;
    lab.guest_pid(100).await;
    let ping = async |vmid: u32| lab.post("pve1", &format!("/nodes/pve1/qemu/{vmid}/agent/ping")).await;
    assert_eq!(ping(100).await.data(), serde_json::json!({ "result": {} }));
    assert_eq!(ping(101).await.status_line, "HTTP/1.1 500 No QEMU guest agent configured");
    assert_eq!(ping(102).await.status_line, "HTTP/1.1 500 VM 102 is not running");
    lab.simulator.hang(100).await.unwrap();
    assert_eq!(ping(100).await.status_line, "HTTP/1.1 500 QEMU guest agent is not running");
    lab.simulator.thaw(100).await.unwrap();
    assert_eq!(ping(100).await.status(), 200);
    lab.simulator.crash(100).await.unwrap();
    assert_eq!(lab.vm(100).guest, GuestState::Crashed);
    assert_eq!(ping(100).await.status_line, "HTTP/1.1 500 QEMU guest agent is not running");
    assert_eq!(
        lab.status("pve1", 100).await["qmpstatus"],
        "running",
        "Proxmox VE sees nothing of it"
    );
    tokio::time::timeout(DEADLINE, lab.simulator.shutdown()).await.unwrap();
}
