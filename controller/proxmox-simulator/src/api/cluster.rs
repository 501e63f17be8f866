//! `/version` and `/cluster`.

use serde_json::{Map, Value, json};

use super::method::{Method, Verb};
use super::schema::{Kind, Parameter};
use super::{Call, nodes};
use crate::cluster::{Published, State};
use crate::http::{ApiError, Data};
use crate::vm::Vm;

pub(super) const METHODS: &[Method] = &[
    Method::new(Verb::Get, "/version", |call| Box::pin(async move { Ok(version(&call)) })),
    Method::new(Verb::Get, "/cluster/resources", |call| {
        Box::pin(async move { Ok(resources(&call)) })
    })
    .takes(&[Parameter::optional("type", Kind::OneOf(&["vm", "storage", "node", "sdn"]))]),
    Method::new(Verb::Get, "/cluster/status", |call| {
        Box::pin(async move { Ok::<_, ApiError>(status(&call)) })
    })
    .needs("/", &["Sys.Audit"]),
    Method::new(Verb::Get, "/cluster/ha/status/current", |call| {
        Box::pin(async move { Ok::<_, ApiError>(ha_status(&call)) })
    })
    .needs("/", &["Sys.Audit"]),
];

fn version(call: &Call) -> Data {
    let version = &call.cluster.config.version;
    let release = version.rsplit_once('.').map_or(version.as_str(), |(release, _)| release);
    json!({ "version": version, "release": release, "repoid": "14a22df3a4f5c6d7", "console": "html5" }).into()
}

fn status(call: &Call) -> Data {
    let state = call.cluster.state();
    let mut rows = Vec::new();
    if state.nodes.len() > 1 {
        rows.push(json!({
            "type": "cluster",
            "id": "cluster",
            "name": call.cluster.config.cluster_name,
            "nodes": state.nodes.len(),
            "version": state.nodes.len(),
            "quorate": u8::from(state.is_quorate()),
        }));
    }
    for node in state.nodes.values() {
        rows.push(json!({
            "type": "node",
            "id": format!("node/{}", node.name),
            "name": node.name,
            "nodeid": if state.nodes.len() > 1 { node.id } else { 0 },
            "ip": node.address.ip().to_string(),
            "local": u8::from(node.name == call.entry),
            "online": u8::from(node.is_up()),
            "level": "",
        }));
    }
    Value::Array(rows).into()
}

/// Rows of type quorum, lrm and service, with what Proxmox writes into them for people.
fn ha_status(call: &Call) -> Data {
    let state = call.cluster.state();
    let quorate = state.is_quorate();
    let text = if quorate {
        "OK".to_owned()
    } else {
        format!("No quorum on node '{}'!", call.entry)
    };
    let mut rows = vec![json!({
        "id": "quorum", "type": "quorum", "node": call.entry, "status": text, "quorate": u8::from(quorate),
    })];
    for node in state.nodes.values() {
        let mode = match (node.is_up(), node.maintenance) {
            (false, _) => "old timestamp - dead?",
            (true, true) => "maintenance mode",
            (true, false) => "idle",
        };
        rows.push(json!({
            "id": format!("lrm:{}", node.name), "type": "lrm", "node": node.name,
            "status": format!("{} ({mode}, watchdog standby, Thu Nov 26 12:00:00 2026)", node.name),
        }));
    }
    for vm in state.vms.values() {
        if let Some(ha) = vm.ha {
            let sid = format!("vm:{}", vm.config.vmid);
            rows.push(json!({
                "id": format!("service:{sid}"), "type": "service", "sid": sid, "node": vm.node, "state": ha.as_str(),
                "status": format!("{sid} ({}, {})", vm.node, ha.as_str()),
            }));
        }
    }
    Value::Array(rows).into()
}

fn resources(call: &Call) -> Data {
    let wanted = call.text("type");
    let mut state = call.cluster.state();
    let timing = &call.cluster.config.timing;
    if timing.stats.is_zero() {
        state.publish();
    }
    let mut rows = Vec::new();
    if wanted.is_none_or(|wanted| wanted == "vm") {
        for vm in state.vms.values() {
            if call.may(&state, &format!("/vms/{}", vm.config.vmid), &["VM.Audit"]) {
                let fresh = state
                    .published
                    .get(&vm.config.vmid)
                    .filter(|stats| stats.at.elapsed() < timing.stats_expiry);
                rows.push(vm_row(call, &state, vm, fresh));
            }
        }
    }
    if wanted.is_none_or(|wanted| wanted == "node") {
        rows.extend(state.nodes.values().map(|node| nodes::row(call, &state, node)));
    }
    Value::Array(rows).into()
}

/// A VM's row. Node, lock, tags, pool and HA state are always current; the rest is what was published
/// last, and missing when that is too old.
fn vm_row(call: &Call, state: &State, vm: &Vm, stats: Option<&Published>) -> Value {
    let config = &vm.config;
    let mut row = Map::new();
    let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
    set("id", format!("qemu/{}", config.vmid).into());
    set("vmid", config.vmid.into());
    set("type", "qemu".into());
    set("node", vm.node.clone().into());
    set("status", stats.map_or("unknown", |stats| stats.status).into());
    if let Some(stats) = stats {
        set("name", config.display_name().into());
        set("template", u8::from(config.template).into());
        set("uptime", stats.uptime.into());
        set("cpu", stats.cpu.into());
        set("maxcpu", config.cores.into());
        set("mem", stats.mem.into());
        set("maxmem", (config.memory * 1024 * 1024).into());
        set("memhost", stats.mem.into());
        set("disk", 0.into());
        set("maxdisk", (config.disk * 1024 * 1024 * 1024).into());
        set("netin", stats.net_in.into());
        set("netout", stats.net_out.into());
        set("diskread", stats.disk_read.into());
        set("diskwrite", stats.disk_write.into());
    }
    if let Some(lock) = vm.lock {
        set("lock", lock.as_str().into());
    }
    if !config.tags.is_empty() {
        set("tags", config.tags.join(";").into());
    }
    if let Some(pool) = &config.pool
        && call.may(state, &format!("/pool/{pool}"), &["Pool.Audit"])
    {
        set("pool", pool.clone().into());
    }
    if let Some(ha) = vm.ha {
        set("hastate", ha.as_str().into());
    }
    Value::Object(row)
}
