//! `/nodes` and `/nodes/{node}/status`.

use serde_json::{Map, Value, json};

use super::Call;
use super::method::{Method, Verb};
use super::schema::NODE;
use crate::cluster::{Node, State};
use crate::http::{ApiError, Data};

/// What every simulated host has.
const CORES: u32 = 16;
const MEMORY: u64 = 64 << 30;
const DISK: u64 = 94 << 30;
const DISK_USED: u64 = 11 << 30;
const CPU: f64 = 0.0371;

pub(super) const METHODS: &[Method] = &[
    Method::new(Verb::Get, "/nodes", |call| Box::pin(async move { Ok::<_, ApiError>(list(&call)) })),
    Method::new(Verb::Get, "/nodes/{node}/status", |call| Box::pin(async move { status(&call) }))
        .needs("/nodes/{node}", &["Sys.Audit"])
        .proxied()
        .takes(&[NODE]),
];

fn list(call: &Call) -> Data {
    let state = call.cluster.state();
    let rows = state.nodes.values().map(|node| {
        let mut row = row(call, &state, node);
        if let Some(fields) = row.as_object_mut() {
            fields.insert("ssl_fingerprint".to_owned(), node.fingerprint.clone().into());
        }
        row
    });
    Value::Array(rows.collect()).into()
}

/// A node's row in `/nodes` and `/cluster/resources`. Metrics need Sys.Audit.
pub(super) fn row(call: &Call, state: &State, node: &Node) -> Value {
    let mut row = Map::new();
    let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
    set("id", format!("node/{}", node.name).into());
    set("node", node.name.clone().into());
    set("type", "node".into());
    set("status", if node.is_up() { "online" } else { "offline" }.into());
    set("level", "".into());
    if call.may(state, &format!("/nodes/{}", node.name), &["Sys.Audit"]) {
        if node.is_up() {
            set("uptime", node.booted.elapsed().as_secs().into());
            set("cpu", CPU.into());
            set("mem", used_memory(state, node).into());
            set("disk", DISK_USED.into());
        }
        set("maxcpu", CORES.into());
        set("maxmem", MEMORY.into());
        set("maxdisk", DISK.into());
    }
    Value::Object(row)
}

fn used_memory(state: &State, node: &Node) -> u64 {
    let guests = state.vms.values().filter(|vm| vm.node == node.name).map(|vm| vm.load().1);
    (2 << 30) + guests.sum::<u64>()
}

fn status(call: &Call) -> Result<Data, ApiError> {
    let state = call.cluster.state();
    let Some(node) = state.nodes.get(&call.node) else {
        return Err(ApiError::died(format!("no such node '{}'", call.node)));
    };
    let used = used_memory(&state, node);
    let release = "6.14.11-4-pve";
    Ok(json!({
        "uptime": node.booted.elapsed().as_secs(),
        "idle": 0,
        "cpu": CPU,
        "wait": 0,
        "loadavg": ["0.42", "0.40", "0.38"],
        "memory": { "total": MEMORY, "used": used, "free": MEMORY.saturating_sub(used), "available": MEMORY.saturating_sub(used) },
        "swap": { "total": 8_u64 << 30, "used": 0, "free": 8_u64 << 30 },
        "rootfs": { "total": DISK, "used": DISK_USED, "free": DISK - DISK_USED, "avail": DISK - DISK_USED },
        "ksm": { "shared": 0 },
        "cpuinfo": {
            "cpus": CORES, "cores": CORES / 2, "sockets": 1, "model": "Simulated CPU", "mhz": "3000.000",
            "hvm": "1", "user_hz": 100, "flags": "vmx",
        },
        "pveversion": format!("pve-manager/{}/14a22df3a4f5c6d7", call.cluster.config.version),
        "kversion": format!("Linux {release} #1 SMP PREEMPT_DYNAMIC"),
        "current-kernel": { "sysname": "Linux", "release": release, "version": "#1 SMP PREEMPT_DYNAMIC", "machine": "x86_64" },
        "boot-info": { "mode": "efi", "secureboot": 0 },
    })
    .into())
}
