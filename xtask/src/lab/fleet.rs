//! The VMs of a lab: as the simulator has them, and as ManagedVMs.

use super::agents;
use super::chart::SECRETS;
use super::kube::apply_text;
use crate::paths::root;
use anyhow::{Context, Result};
use control_plane::ControlPlane;
use serde_json::{Value, json};
use std::path::Path;

/// Namespace of the VMs.
pub const NAMESPACE: &str = "vms";

/// Secret of the lab's API token. It opens a simulator on loopback.
const TOKEN_SECRET: &str = "0d4a4c2e-7f5e-4a57-9f5c-3f6f1d2b8c11";

/// One VM of a lab.
#[derive(Clone, Debug)]
pub struct FleetVm {
    /// VMID.
    pub vmid: u32,
    /// Name of the VM and of its ManagedVM.
    pub name: String,
    /// Node on which it starts.
    pub node: String,
    /// Whether the agent runs in it.
    pub agent: bool,
    /// Whether its agent says that a service manager keeps it.
    pub supervised: bool,
    /// Name of the ManagedVM whose key its agent has; its own by default.
    pub key_of: Option<String>,
    /// More of its configuration in the simulator.
    pub guest: Value,
    /// Spec of its ManagedVM beside `proxmox`.
    pub spec: Value,
}

impl FleetVm {
    /// A VM with an agent and nothing special.
    pub fn new(vmid: u32, name: &str, node: &str) -> Self {
        Self {
            vmid,
            name: name.into(),
            node: node.into(),
            agent: true,
            supervised: true,
            key_of: None,
            guest: json!({}),
            spec: json!({}),
        }
    }
}

/// The twelve VMs of the demo on three nodes.
pub fn demo_fleet() -> Vec<FleetVm> {
    let names = [
        "web-1",
        "web-2",
        "web-3",
        "db-1",
        "db-2",
        "mail",
        "git",
        "wiki",
        "ci",
        "cache",
        "files",
        "appliance",
    ];
    let nodes = ["pve1", "pve2", "pve3"];
    (101u32..)
        .zip(names)
        .zip(nodes.iter().cycle())
        .map(|((vmid, name), node)| FleetVm {
            agent: name != "appliance",
            ..FleetVm::new(vmid, name, node)
        })
        .collect()
}

/// The ManagedVM of a VM.
pub fn manifest(vm: &FleetVm) -> Value {
    let mut spec = vm.spec.clone();
    spec["proxmox"] = json!({ "clusterRef": { "name": "pve" }, "vmid": vm.vmid });
    json!({
        "apiVersion": "defib.dev/v1alpha1", "kind": "ManagedVM",
        "metadata": { "name": vm.name, "namespace": NAMESPACE }, "spec": spec,
    })
}

/// The ManagedVMs.
pub fn manifests(vms: &[FleetVm]) -> Result<String> {
    let mut all = String::new();
    for vm in vms {
        // JSON is YAML.
        all.push_str(&format!("---\n{}\n", serde_json::to_string(&manifest(vm))?));
    }
    Ok(all)
}

/// Where the nodes of a simulator listen, and the authority of their certificates (PEM).
pub fn endpoints(state: &Path) -> Result<(Vec<String>, String)> {
    let endpoints: Value = serde_json::from_str(&std::fs::read_to_string(state.join("endpoints.json"))?)?;
    let ca = std::fs::read_to_string(state.join("pve-root-ca.pem"))?;
    let list = endpoints["endpoints"].as_array().context("endpoints.json has no list")?;
    let urls: Option<Vec<String>> = list.iter().map(|e| e["url"].as_str().map(str::to_owned)).collect();
    Ok((urls.context("endpoints.json has an endpoint without url")?, ca))
}

/// The ProxmoxCluster and its Secrets, at these endpoints.
pub fn cluster(plane: &ControlPlane, urls: &[String], ca_pem: &str) -> Result<()> {
    let [token, ca_secret] = SECRETS;
    let meta = |name: &str| json!({ "name": name, "namespace": NAMESPACE });
    let objects = [
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": meta(token),
                "stringData": { "tokenID": "defib@pve!controller", "secret": TOKEN_SECRET } }),
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": meta(ca_secret), "stringData": { "ca.crt": ca_pem } }),
        json!({ "apiVersion": "defib.dev/v1alpha1", "kind": "ProxmoxCluster", "metadata": meta("pve"),
                "spec": { "endpoints": urls, "tokenSecretRef": { "name": token }, "tls": { "caSecretRef": { "name": ca_secret } } } }),
    ];
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    apply_text(plane, &text.join("\n---\n"))
}

/// The simulator's configuration, as JSON. `folder` is that of the lab, where the configurations of agents are.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn simulator_config(vms: &[FleetVm], folder: &Path) -> Result<String> {
    let script = root().join("agents/linux-agent.sh");
    let guests: Vec<Value> = vms
        .iter()
        .map(|vm| {
            let mut guest = json!({ "vmid": vm.vmid, "name": vm.name, "node": vm.node, "pool": "managed", "bootSeconds": 1 });
            for (field, value) in vm.guest.as_object().into_iter().flatten() {
                guest[field] = value.clone();
            }
            if vm.agent {
                let mut command = vec![
                    json!("bash"),
                    json!(script),
                    json!("--config"),
                    json!(agents::config(folder, vm.vmid)),
                ];
                command.extend(vm.supervised.then(|| json!("--supervised")));
                guest["command"] = json!(command);
            }
            guest
        })
        .collect();
    let config = json!({
        "clusterName": "lab",
        "nodes": [{ "name": "pve1" }, { "name": "pve2" }, { "name": "pve3" }],
        "tokens": [{
            "id": "defib@pve!controller", "secret": TOKEN_SECRET,
            "privs": { "/": ["Sys.Audit"], "/pool/managed": ["VM.Audit", "VM.PowerMgmt", "VM.GuestAgent.Audit"] },
        }],
        // Proxmox shows a VM's state with up to 10 s of delay; the story would only take longer with it.
        "timing": { "statsMillis": 1000 },
        "vms": guests,
    });
    Ok(serde_json::to_string_pretty(&config)?)
}
