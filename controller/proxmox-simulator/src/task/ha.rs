//! Requests to the HA manager, and what it does about them later.

use super::Worker;
use crate::audit::GuestEventKind;
use crate::vm::HaState;

/// What is asked of the HA manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Stop,
}

/// `hastart` or `hastop`: files the request and ends. The VM changes when the HA manager gets to it.
pub(crate) async fn request(worker: Worker, request: Request) -> Result<(), String> {
    let vmid = worker.vmid;
    let (word, command, during) = match request {
        Request::Start => ("start", format!("set vm:{vmid} --state started"), HaState::RequestStart),
        Request::Stop => ("stop", format!("crm-command stop vm:{vmid} 0"), HaState::RequestStop),
    };
    worker.log(format!("Requesting HA {word} for VM {vmid}"));
    worker.with_vm(|vm| {
        if vm.ha == Some(HaState::Error) {
            return Err(format!("command 'ha-manager {command}' failed: exit code 255"));
        }
        vm.ha = Some(during);
        Ok(())
    })?;
    let cluster = worker.cluster.clone();
    worker.cluster.running.spawn(async move {
        let wait = tokio::time::sleep(cluster.config.timing.ha);
        if cluster.shutdown.run_until_cancelled(wait).await.is_none() {
            return;
        }
        let mut state = cluster.state();
        let Some(vm) = state.vms.get_mut(&vmid).filter(|vm| vm.ha == Some(during)) else {
            return;
        };
        match request {
            Request::Start => {
                vm.ha = Some(HaState::Started);
                if !vm.is_running() && vm.lock.is_none() {
                    let pid = cluster.new_qemu_pid();
                    cluster.change_locked(vm, GuestEventKind::PowerOn, "ha", |vm| vm.power_on(pid));
                }
            }
            Request::Stop => {
                vm.ha = Some(HaState::Stopped);
                if vm.is_running() {
                    cluster.change_locked(vm, GuestEventKind::PowerOff, "ha", |vm| {
                        vm.monitor_hung = false;
                        vm.power_off();
                    });
                }
            }
        }
    });
    Ok(())
}
