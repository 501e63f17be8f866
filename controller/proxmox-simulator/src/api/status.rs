//! The status objects of a VM.

use serde_json::{Map, Value, json};

use crate::cluster::Published;
use crate::vm::{GuestAgent, Qemu, QmpStatus, Vm};

/// `status/current`.
pub(super) fn current(vm: &mut Vm) -> Value {
    let mut row = base(vm);
    monitor(vm, &mut row);
    let ha = match vm.ha_managed() {
        Some(state) => json!({ "managed": 1, "state": state.as_str() }),
        None => json!({ "managed": 0 }),
    };
    row.insert("ha".to_owned(), ha);
    if vm.guest_agent != GuestAgent::Disabled {
        row.insert("agent".to_owned(), 1.into());
    }
    Value::Object(row)
}

/// A row of `/nodes/{node}/qemu`.
pub(super) fn listed(vm: &mut Vm, full: bool) -> Value {
    let mut row = base(vm);
    if full {
        monitor(vm, &mut row);
    }
    Value::Object(row)
}

/// What the host knows without asking QEMU.
fn base(vm: &mut Vm) -> Map<String, Value> {
    let stats = Published::of(vm);
    let config = &vm.config;
    let mut row = Map::new();
    let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
    set("vmid", config.vmid.into());
    set("name", config.display_name().into());
    set("status", if vm.is_running() { "running" } else { "stopped" }.into());
    set("cpus", config.cores.into());
    set("maxmem", (config.memory * 1024 * 1024).into());
    set("disk", 0.into());
    set("maxdisk", (config.disk * 1024 * 1024 * 1024).into());
    set("uptime", stats.uptime.into());
    set("cpu", stats.cpu.into());
    set("mem", stats.mem.into());
    set("memhost", stats.mem.into());
    set("netin", stats.net_in.into());
    set("netout", stats.net_out.into());
    if let Some(qemu) = &vm.qemu {
        set("pid", qemu.pid.into());
        for name in ["cpusome", "cpufull", "iosome", "iofull", "memorysome", "memoryfull"] {
            set(&format!("pressure{name}"), 0.into());
        }
    }
    if config.template {
        set("template", 1.into());
    }
    if let Some(lock) = vm.lock {
        set("lock", lock.as_str().into());
    }
    if !config.tags.is_empty() {
        set("tags", config.tags.join(";").into());
    }
    row
}

/// What the QEMU monitor says. One that hangs says nothing, and the state of the process stands in.
fn monitor(vm: &Vm, row: &mut Map<String, Value>) {
    let mut set = |name: &str, value: Value| row.insert(name.to_owned(), value);
    let Some(qemu) = vm.qemu.as_ref().filter(|_| !vm.monitor_hung) else {
        let process = if vm.is_running() { "running" } else { "stopped" };
        set("qmpstatus", process.into());
        return;
    };
    set("qmpstatus", qemu.status.as_str().into());
    set("running-machine", "pc-q35-10.0+pve0".into());
    set("running-qemu", "10.0.2".into());
    set(
        "proxmox-support",
        json!({ "pbs-dirty-bitmap": true, "query-bitmap-info": true, "pbs-library-version": "1.5.1" }),
    );
    disks_and_nics(vm, qemu, &mut set);
    let total = vm.config.memory * 1024 * 1024;
    set("balloon", total.into());
    set("ballooninfo", json!({ "actual": total, "max_mem": total, "last_update": 0 }));
    if qemu.status == QmpStatus::Running {
        set("freemem", total.saturating_sub(vm.load().1).into());
    }
}

fn disks_and_nics(vm: &Vm, qemu: &Qemu, set: &mut impl FnMut(&str, Value) -> Option<Value>) {
    let counters = &qemu.counters;
    set("diskread", counters.disk_read().into());
    set("diskwrite", counters.disk_write().into());
    set(
        "blockstat",
        json!({ "scsi0": { "rd_bytes": counters.disk_read(), "wr_bytes": counters.disk_write(), "failed_wr_operations": 0 } }),
    );
    let tap = format!("tap{}i0", vm.config.vmid);
    set("nics", json!({ tap: { "netin": counters.net_in(), "netout": counters.net_out() } }));
}
