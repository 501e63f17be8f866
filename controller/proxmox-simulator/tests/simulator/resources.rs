//! What `/cluster/resources` shows, and how late.

use std::time::Duration;

use pve_sim::config::VmConfig;
use pve_sim::{Control, HaState, QmpStatus};
use serde_json::{Value, json};

use crate::lab::{Lab, config, guest};

async fn row(lab: &Lab) -> Value {
    lab.get("pve1", "/cluster/resources?type=vm").await.data()[0].clone()
}

#[tokio::test]
async fn a_row_has_the_fields_proxmox_has() {
    let vm = VmConfig {
        name: Some("web1".to_owned()),
        tags: vec!["a".to_owned(), "b".to_owned()],
        ha: Some(HaState::Started),
        ..guest(100, "pve2")
    };
    let lab = Lab::with(vec![vm]).await;
    let row = row(&lab).await;
    let wanted = json!({
        "id": "qemu/100", "vmid": 100, "type": "qemu", "node": "pve2", "status": "running", "name": "web1",
        "template": 0, "maxcpu": 2, "maxmem": 2_147_483_648_u64, "tags": "a;b", "hastate": "started",
    });
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(row[name], *value, "{name}");
    }
    for number in [
        "uptime",
        "cpu",
        "mem",
        "memhost",
        "disk",
        "maxdisk",
        "netin",
        "netout",
        "diskread",
        "diskwrite",
    ] {
        assert!(row[number].is_number(), "{number} in {row}");
    }
    assert!(row.get("lock").is_none());
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn the_status_is_qemus_when_it_is_known() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    lab.simulator
        .control(Control::Qmp {
            vmid: 100,
            status: QmpStatus::IoError,
        })
        .await
        .unwrap();
    assert_eq!(row(&lab).await["status"], "io-error");
    assert_eq!(lab.status("pve1", 100).await["status"], "running");
    lab.simulator.monitor_hang(100).await.unwrap();
    assert_eq!(row(&lab).await["status"], "running");
    lab.simulator.stop(100).await.unwrap();
    assert_eq!(row(&lab).await["status"], "stopped");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn node_and_lock_are_current_while_the_status_lags() {
    let mut config = config(vec![guest(100, "pve1")]);
    config.timing.stats = Duration::from_secs(3600);
    let lab = Lab::start(config).await;
    lab.simulator.stop(100).await.unwrap();
    lab.simulator.migrate(100, "pve3").await.unwrap();
    lab.simulator.lock(100, pve_sim::Lock::Backup).await.unwrap();
    let row = row(&lab).await;
    assert_eq!(
        (&row["status"], &row["node"], &row["lock"]),
        (&json!("running"), &json!("pve3"), &json!("backup"))
    );
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn old_statistics_become_unknown() {
    let mut config = config(vec![guest(100, "pve2")]);
    config.timing.stats_expiry = Duration::from_millis(50);
    let lab = Lab::start(config).await;
    lab.simulator.node_down("pve2").await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let row = row(&lab).await;
    let names: Vec<&String> = row.as_object().unwrap().keys().collect();
    assert_eq!(names, ["id", "node", "status", "type", "vmid"]);
    assert_eq!(row["status"], "unknown");
    lab.simulator.shutdown().await;
}
