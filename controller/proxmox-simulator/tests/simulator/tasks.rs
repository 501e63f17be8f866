//! Tasks: UPIDs, lists, logs, who sees what.

use std::time::Duration;

use pve_sim::Upid;
use serde_json::json;

use crate::lab::{ADMIN, Lab, config, guest, token};

#[tokio::test]
async fn a_task_is_found_by_raw_and_encoded_upid_on_its_own_node_only() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let upid = lab.post("pve2", "/nodes/pve1/qemu/100/status/reset").await.upid();
    let parsed: Upid = upid.parse().unwrap();
    assert_eq!(
        (parsed.node.as_str(), parsed.kind.as_str(), parsed.id.as_str()),
        ("pve1", "qmreset", "100")
    );
    assert_eq!(parsed.user, ADMIN);
    assert_eq!(lab.outcome(&upid).await, "OK");
    let encoded = upid.replace(':', "%3A").replace('@', "%40").replace('!', "%21");
    let status = lab.get("pve3", &format!("/nodes/pve1/tasks/{encoded}/status")).await.data();
    assert_eq!(status["upid"], upid.as_str());
    assert_eq!((&status["user"], &status["tokenid"]), (&json!("admin@pve"), &json!("test")));
    assert_eq!((&status["status"], &status["exitstatus"]), (&json!("stopped"), &json!("OK")));
    assert_eq!(
        (&status["pid"], &status["starttime"]),
        (&json!(parsed.pid), &json!(parsed.starttime))
    );
    let log = lab.get("pve1", &format!("/nodes/pve1/tasks/{upid}/log")).await.json();
    assert_eq!(log, json!({ "data": [{ "n": 1, "t": "TASK OK" }], "total": 1 }));
    let elsewhere = lab.get("pve1", &format!("/nodes/pve2/tasks/{upid}/status")).await;
    assert_eq!(elsewhere.json()["errors"], json!({ "upid": "no such task" }));
    let garbage = lab.get("pve1", "/nodes/pve1/tasks/UPID:x/status").await;
    assert_eq!(garbage.json()["errors"], json!({ "upid": "unable to parse worker upid" }));
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn running_tasks_are_listed_on_request() {
    let mut config = config(vec![guest(100, "pve1"), guest(101, "pve1")]);
    config.timing.task = Duration::from_secs(600);
    let lab = Lab::start(config).await;
    let upid = lab.post("pve1", "/nodes/pve1/qemu/100/status/reset").await.upid();
    lab.post("pve1", "/nodes/pve1/qemu/101/status/reset").await.upid();
    let list = async |query: &str| lab.get("pve1", &format!("/nodes/pve1/tasks?{query}")).await.data();
    assert_eq!(list("vmid=100").await, json!([]));
    let rows = list("source=all&vmid=100&typefilter=qmreset").await;
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!((&rows[0]["upid"], &rows[0]["status"]), (&json!(upid), &json!("RUNNING")));
    assert!(rows[0].get("endtime").is_none());
    assert_eq!(list("source=all").await.as_array().unwrap().len(), 2);
    assert_eq!(list("source=all&limit=1").await.as_array().unwrap().len(), 1);
    assert_eq!(list("source=all&typefilter=qmstart").await, json!([]));
    let since = upid.parse::<Upid>().unwrap().starttime;
    assert_eq!(list(&format!("source=all&since={since}")).await.as_array().unwrap().len(), 2);
    assert_eq!(list(&format!("source=all&since={}", since + 3600)).await, json!([]));
    // A running task has an empty log, shown as one line.
    let log = lab.get("pve1", &format!("/nodes/pve1/tasks/{upid}/log")).await.data();
    assert_eq!(log, json!([{ "n": 1, "t": "no content" }]));

    assert_eq!(
        lab.call_as(ADMIN, "pve1", "DELETE", &format!("/nodes/pve1/tasks/{upid}"))
            .await
            .status(),
        200
    );
    assert_eq!(lab.outcome(&upid).await, "received interrupt");
    assert_eq!(list("vmid=100").await[0]["status"], "received interrupt");
    assert_eq!(list("vmid=100&errors=1").await.as_array().unwrap().len(), 1);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_token_sees_its_own_tasks_only() {
    let mut config = config(vec![guest(100, "pve1")]);
    let power: &[(&str, &[&str])] = &[("/vms", &["VM.PowerMgmt", "VM.Audit"])];
    config.tokens.push(token("a@pve!one", power));
    config.tokens.push(token("a@pve!two", power));
    let lab = Lab::start(config).await;
    let upid = lab
        .call_as("a@pve!one", "pve1", "POST", "/nodes/pve1/qemu/100/status/reset")
        .await
        .upid();
    lab.outcome(&upid).await;
    let listed = async |token: &str| {
        lab.call_as(token, "pve1", "GET", "/nodes/pve1/tasks")
            .await
            .data()
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(
        (listed("a@pve!one").await, listed("a@pve!two").await, listed(ADMIN).await),
        (1, 0, 1)
    );
    let path = format!("/nodes/pve1/tasks/{upid}/status");
    assert_eq!(lab.call_as("a@pve!one", "pve1", "GET", &path).await.status(), 200);
    let refused = lab.call_as("a@pve!two", "pve1", "GET", &path).await;
    assert_eq!(refused.status_line, "HTTP/1.1 403 Permission check failed (/nodes/pve1, Sys.Audit)");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn tasks_of_a_node_that_lost_power_end_unexpectedly() {
    let mut config = config(vec![guest(100, "pve1")]);
    config.timing.task = Duration::from_secs(600);
    let lab = Lab::start(config).await;
    lab.guest_pid(100).await;
    let before = lab.vm(100).boot_id;
    let upid = lab.post("pve2", "/nodes/pve1/qemu/100/status/reset").await.upid();
    lab.simulator.node_down("pve1").await.unwrap();
    lab.simulator.node_up("pve1").await.unwrap();
    assert_eq!(lab.outcome(&upid).await, "unexpected status");
    assert_ne!(lab.vm(100).boot_id, before, "it booted with its node");
    lab.simulator.shutdown().await;
}
