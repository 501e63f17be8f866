//! The audit: every write, exactly.

use pve_sim::{GuestEventKind, GuestState, WriteRequest};
use serde_json::Value;

use crate::lab::{ADMIN, Lab, eventually, guest};

#[tokio::test]
async fn every_write_is_recorded_with_the_state_of_its_guest() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    lab.guest_pid(100).await;
    let boots = [lab.vm(100).boot_id];
    let mut client = lab.connect("pve2").await.unwrap();
    // Two requests on one connection: connection time and request time differ.
    for request in ["GET /api2/json/version", "POST /api2/json/nodes/pve1/qemu/100/status/reset"] {
        let head = format!(
            "{request} HTTP/1.1\r\nHost: pve\r\nAuthorization: PVEAPIToken={ADMIN}={}\r\n\r\n",
            crate::lab::SECRET
        );
        client.send(&head).await;
        assert_eq!(client.receive().await.unwrap().status(), 200);
    }
    eventually(|| lab.simulator.audit()[0].exitstatus.is_some()).await;
    lab.guest_pid(100).await;
    lab.simulator.hang(100).await.unwrap();
    lab.post("pve1", "/nodes/pve3/qemu/100/status/reset").await;
    lab.call_as("nobody@pve!x", "pve1", "POST", "/nodes/pve1/qemu/100/status/stop")
        .await;

    let audit = lab.simulator.audit();
    let [reset, misdirected, foreign] = &audit[..] else {
        panic!("{audit:?}")
    };
    assert_eq!([reset.sequence, misdirected.sequence, foreign.sequence], [1, 2, 3]);
    assert_eq!(
        (reset.method.as_str(), reset.action.as_str(), reset.vmid),
        ("POST", "reset", Some(100))
    );
    assert_eq!((reset.entry.as_str(), reset.node.as_deref()), ("pve2", Some("pve1")));
    assert_eq!(reset.token.as_deref(), Some(ADMIN));
    assert_eq!(
        (reset.guest, reset.healthy, reset.boot_id),
        (Some(GuestState::Running), Some(true), boots[0])
    );
    assert_eq!(
        (reset.status, reset.reason.as_deref(), reset.executed),
        (Some(200), Some("OK"), true)
    );
    assert_eq!(reset.exitstatus.as_deref(), Some("OK"));
    assert_eq!(reset.connection.request, 2);
    assert!(reset.connection.accepted <= reset.connection.secured);
    assert!(reset.connection.secured < reset.time && reset.time <= reset.answered.unwrap());

    assert_eq!((misdirected.guest, misdirected.healthy), (Some(GuestState::Hung), Some(false)));
    assert_eq!(misdirected.status, Some(500));
    assert_eq!(misdirected.upid, None);
    assert_ne!(misdirected.connection.id, reset.connection.id);
    assert_eq!(
        (foreign.status, foreign.token.as_deref(), foreign.executed),
        (Some(401), None, false)
    );

    let events = lab.simulator.guest_events();
    let resets: Vec<_> = events.iter().filter(|event| event.event == GuestEventKind::Reset).collect();
    assert_eq!(resets.len(), 1);
    assert_eq!(Some(&resets[0].cause), reset.upid.as_ref());
    assert!(resets[0].healthy_before);
    assert_eq!(resets[0].boot_id_before, boots[0]);
    assert_ne!(resets[0].boot_id_after, boots[0]);

    // The file says the same, but for how tasks ended.
    let text = lab.read("audit.jsonl");
    let of_kind = |kind: &str| -> Vec<Value> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).collect()
    };
    let written: Vec<WriteRequest> = of_kind("request")
        .into_iter()
        .map(|line| serde_json::from_value(line).unwrap())
        .collect();
    let without_outcome: Vec<WriteRequest> = audit
        .iter()
        .cloned()
        .map(|request| WriteRequest {
            exitstatus: None,
            ..request
        })
        .collect();
    assert_eq!(written, without_outcome);
    assert_eq!(of_kind("guest").len(), events.len());
    lab.simulator.shutdown().await;
}
