//! `/nodes/{node}/qemu`: lists, status and configuration.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Map, Value};

use super::method::{Method, Verb};
use super::schema::{Kind, NODE, Parameter, VMID};
use super::{Call, status};
use crate::http::{ApiError, Data};
use crate::vm::{GuestAgent, Vm};

pub(super) const METHODS: &[Method] = &[
    Method::new(Verb::Get, "/nodes/{node}/qemu", |call| {
        Box::pin(async move { Ok::<_, ApiError>(list(&call)) })
    })
    .proxied()
    .takes(&[NODE, Parameter::optional("full", Kind::Boolean)]),
    Method::new(Verb::Get, "/nodes/{node}/qemu/{vmid}/status/current", |call| {
        Box::pin(async move { call.with_vm(|vm| status::current(vm).into()) })
    })
    .needs("/vms/{vmid}", &["VM.Audit"])
    .proxied()
    .takes(&[NODE, VMID]),
    Method::new(Verb::Get, "/nodes/{node}/qemu/{vmid}/config", |call| {
        Box::pin(async move { call.with_vm(|vm| config(vm).into()) })
    })
    .needs("/vms/{vmid}", &["VM.Audit"])
    .proxied()
    .takes(&[
        NODE,
        VMID,
        Parameter::optional("current", Kind::Boolean),
        Parameter::optional("snapshot", Kind::Text),
    ]),
];

fn list(call: &Call) -> Data {
    let full = call.flag("full");
    let mut state = call.cluster.state();
    let here = state.vms.values().filter(|vm| vm.node == call.node).map(|vm| vm.config.vmid);
    let visible: Vec<u32> = here
        .filter(|vmid| call.may(&state, &format!("/vms/{vmid}"), &["VM.Audit"]))
        .collect();
    let mut rows = Vec::new();
    for vmid in visible {
        rows.extend(state.vms.get_mut(&vmid).map(|vm| status::listed(vm, full)));
    }
    Value::Array(rows).into()
}

/// The configuration, as `qm config` shows it.
fn config(vm: &Vm) -> Value {
    let config = &vm.config;
    let mut row = Map::new();
    let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
    if let Some(name) = &config.name {
        set("name", name.clone().into());
    }
    if !config.tags.is_empty() {
        set("tags", config.tags.join(";").into());
    }
    if let Some(uuid) = vm.smbios_uuid {
        set("smbios1", format!("uuid={uuid}").into());
    }
    set("vmgenid", vm.vmgenid.to_string().into());
    set("meta", format!("creation-qemu=10.0.2,ctime={}", vm.created).into());
    set("cores", config.cores.into());
    set("sockets", 1.into());
    // Proxmox VE itself mixes numbers and strings here.
    set("memory", config.memory.to_string().into());
    set("ostype", "l26".into());
    set("scsihw", "virtio-scsi-single".into());
    set("scsi0", format!("local-lvm:vm-{}-disk-0,size={}G", config.vmid, config.disk).into());
    set("boot", "order=scsi0".into());
    match vm.guest_agent {
        GuestAgent::Disabled => {}
        GuestAgent::Running | GuestAgent::Stopped => {
            set("agent", "1".into());
        }
    }
    if !config.reboot {
        set("reboot", 0.into());
    }
    if config.template {
        set("template", 1.into());
    }
    if let Some(lock) = vm.lock {
        set("lock", lock.as_str().into());
    }
    let text = Value::Object(row.clone()).to_string();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    row.insert("digest".to_owned(), hash.into());
    Value::Object(row)
}
