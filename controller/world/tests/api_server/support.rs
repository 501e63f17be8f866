//! A server whose clock is tokio's.

use defib_api::{ManagedVM, ManagedVMSpec};
use defib_world::api_server::ApiServer;
use jiff::Timestamp;
use kube::Api;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout};

pub fn server() -> ApiServer {
    let (began, epoch) = (Instant::now(), Timestamp::from_second(1_800_000_000).unwrap());
    ApiServer::new(move || epoch.checked_add(began.elapsed()).unwrap())
}

pub fn vms(server: &ApiServer, client: &str) -> Api<ManagedVM> {
    Api::namespaced(server.client(client), "vms")
}

pub fn spec(vmid: u32) -> Value {
    json!({"proxmox": {"clusterRef": {"name": "pve"}, "vmid": vmid}})
}

pub fn vm(name: &str) -> ManagedVM {
    let spec: ManagedVMSpec = serde_json::from_value(spec(101)).unwrap();
    ManagedVM::new(name, spec)
}

/// Waits, in virtual time, until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = timeout(Duration::from_secs(600), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "not within ten minutes: {what}");
}

/// The code and the reason of a refusal.
pub fn refusal<T: std::fmt::Debug>(answer: kube::Result<T>) -> (u16, String) {
    match answer {
        Err(kube::Error::Api(status)) => (status.code, status.reason.clone()),
        other => panic!("no refusal: {other:?}"),
    }
}
