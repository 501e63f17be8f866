//! `/nodes/{node}/qemu/{vmid}/agent`: the QEMU guest agent.

use serde_json::{Value, json};

use super::Call;
use super::method::{Method, Verb};
use super::schema::{NODE, VMID};
use crate::http::{ApiError, Data};
use crate::vm::GuestAgent;

const PRIVILEGES: &[&str] = &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"];

pub(super) const METHODS: &[Method] = &[
    Method::new(Verb::Post, "/nodes/{node}/qemu/{vmid}/agent/ping", |call| {
        Box::pin(async move { ask(&call, json!({})).await })
    })
    .needs("/vms/{vmid}", PRIVILEGES)
    .proxied()
    .takes(&[NODE, VMID]),
    Method::new(Verb::Get, "/nodes/{node}/qemu/{vmid}/agent/get-osinfo", |call| {
        Box::pin(async move {
            let answer = json!({
                "id": "debian", "name": "Debian GNU/Linux", "version": "13 (trixie)", "version-id": "13",
                "pretty-name": "Debian GNU/Linux 13 (trixie)", "kernel-release": "6.12.48+deb13-amd64",
                "kernel-version": "#1 SMP PREEMPT_DYNAMIC Debian", "machine": "x86_64",
            });
            ask(&call, answer).await
        })
    })
    .needs("/vms/{vmid}", PRIVILEGES)
    .proxied()
    .takes(&[NODE, VMID]),
];

/// Asks the agent in the guest. A guest that does not execute, or whose agent is dead, stays silent until the time-out.
async fn ask(call: &Call, answer: Value) -> Result<Data, ApiError> {
    let vmid = call.vmid();
    let (agent, running, responds) = call.with_vm(|vm| (vm.guest_agent, vm.is_running(), vm.guest.responds() && !vm.monitor_hung))?;
    if !running {
        return Err(ApiError::died(format!("VM {vmid} is not running")));
    }
    match agent {
        GuestAgent::Disabled => Err(ApiError::died("No QEMU guest agent configured")),
        GuestAgent::Running if responds => Ok(json!({ "result": answer }).into()),
        GuestAgent::Running | GuestAgent::Stopped => {
            tokio::time::sleep(call.cluster.config.timing.guest_agent).await;
            Err(ApiError::died("QEMU guest agent is not running"))
        }
    }
}
