//! Calls that fail on purpose.

use std::time::{Duration, Instant};

use pve_sim::{Fault, FaultKind};

use crate::lab::{ADMIN, Lab, guest};

const RESET: &str = "/nodes/pve1/qemu/100/status/reset";

async fn lab_with(kind: FaultKind) -> Lab {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    lab.guest_pid(100).await;
    lab.simulator
        .set_fault(Fault::new(kind).method("POST").path_contains("status/reset").count(1))
        .await
        .unwrap();
    lab
}

/// Sends a reset whose connection ends without an answer.
async fn dropped(lab: &Lab) {
    let mut client = lab.connect("pve1").await.unwrap();
    client.send(&(Lab::request("POST", RESET, ADMIN) + "\r\n")).await;
    assert!(client.receive().await.is_none());
}

#[tokio::test]
async fn a_request_dropped_before_does_nothing() {
    let lab = lab_with(FaultKind::DropBefore).await;
    dropped(&lab).await;
    assert_eq!(lab.simulator.tasks(), []);
    let request = &lab.simulator.audit()[0];
    assert_eq!((request.executed, request.status, request.upid.as_deref()), (false, None, None));
    assert_eq!(request.fault.as_deref(), Some("drop-before"));
    assert!(request.answered.is_some());
    // The rule is used up.
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_request_dropped_after_can_be_found_in_the_tasks() {
    let lab = lab_with(FaultKind::DropAfter).await;
    let before = lab.vm(100).boot_id;
    dropped(&lab).await;
    let rows = lab
        .get("pve1", "/nodes/pve1/tasks?source=all&vmid=100&typefilter=qmreset")
        .await
        .data();
    let upid = rows[0]["upid"].as_str().unwrap();
    assert_eq!(lab.outcome(upid).await, "OK");
    assert_ne!(lab.vm(100).boot_id, before);
    let request = &lab.simulator.audit()[0];
    assert_eq!(
        (request.executed, request.status, request.upid.as_deref()),
        (true, None, Some(upid))
    );
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_proxy_error_may_hide_either_outcome() {
    let lab = lab_with("status:596".parse().unwrap()).await;
    let answer = lab.post("pve1", RESET).await;
    assert_eq!(
        (answer.status_line.as_str(), answer.body.as_str()),
        ("HTTP/1.1 596 Connection timed out", "")
    );
    assert_eq!(lab.simulator.tasks(), []);
    lab.simulator
        .set_fault(Fault::new("status-after:596:Broken pipe".parse().unwrap()).count(1))
        .await
        .unwrap();
    assert_eq!(lab.post("pve1", RESET).await.status_line, "HTTP/1.1 596 Broken pipe");
    assert_eq!(lab.simulator.tasks().len(), 1);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_delayed_request_is_carried_out_although_the_client_left() {
    let lab = lab_with(FaultKind::Delay(Duration::from_millis(300))).await;
    let before = lab.vm(100).boot_id;
    let mut client = lab.connect("pve1").await.unwrap();
    client.send(&(Lab::request("POST", RESET, ADMIN) + "\r\n")).await;
    crate::lab::eventually(|| !lab.simulator.audit().is_empty()).await;
    drop(client);
    crate::lab::eventually(|| lab.vm(100).boot_id != before).await;
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn faults_choose_their_requests_and_can_be_cleared() {
    let lab = lab_with(FaultKind::DropBefore).await;
    let slow = Fault::new(FaultKind::DelayAfter(Duration::from_millis(200)))
        .method("GET")
        .node("pve2");
    lab.simulator.set_fault(slow).await.unwrap();
    assert_eq!(lab.get("pve1", "/version").await.status(), 200);
    let start = Instant::now();
    assert_eq!(lab.get("pve2", "/version").await.status(), 200);
    assert!(start.elapsed() >= Duration::from_millis(200));
    lab.simulator.clear_faults().await.unwrap();
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    lab.simulator.shutdown().await;
}
