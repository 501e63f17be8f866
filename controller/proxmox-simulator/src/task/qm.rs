//! Workers that act on QEMU at once: start, stop, reset, suspend, resume.

use super::worker::{Worker, check_lock, check_running};
use crate::audit::GuestEventKind;
use crate::vm::{Lock, QmpStatus};

/// `qmstart`.
pub(crate) async fn start(worker: Worker) -> Result<(), String> {
    let _lock = worker.lock_config().await?;
    // A backup of a stopped VM runs in a QEMU that does not execute: starting means resuming that one.
    let in_backup = worker.with_vm(|vm| Ok(vm.lock == Some(Lock::Backup) && vm.is_running()))?;
    if in_backup {
        return cont(&worker).await;
    }
    let pid = worker.cluster.new_qemu_pid();
    worker.change_vm(
        GuestEventKind::PowerOn,
        |vm| {
            if vm.config.template {
                return Err("you can't start a vm if it's a template".to_owned());
            }
            // Starting is how a VM that was suspended to disk comes back.
            check_lock(vm, Some(Lock::Suspended))?;
            if vm.is_running() {
                return Err(format!("VM {} already running", vm.config.vmid));
            }
            Ok(())
        },
        |vm| {
            vm.lock = None;
            vm.power_on(pid);
        },
    )
}

/// `qmstop`: QMP `quit`, and signals where that does not help.
pub(crate) async fn stop(worker: Worker, overrule_shutdown: bool) -> Result<(), String> {
    if overrule_shutdown {
        let overruled = worker.cluster.tasks().interrupt_all("qmshutdown", &worker.vmid.to_string());
        if !overruled.is_empty() {
            let names: Vec<String> = overruled.iter().map(ToString::to_string).collect();
            worker.log(format!("overruled qmshutdown tasks: {}", names.join(", ")));
        }
    }
    let _lock = worker.lock_config().await?;
    let (running, hung) = worker.with_vm(|vm| Ok((vm.is_running(), vm.monitor_hung)))?;
    if !running {
        return Ok(());
    }
    worker.with_vm(|vm| check_lock(vm, None))?;
    if hung {
        tokio::time::sleep(worker.cluster.config.timing.qmp).await;
        worker.log("VM quit/powerdown failed - terminating now with SIGTERM");
    }
    worker.change_vm(
        GuestEventKind::PowerOff,
        |_| Ok(()),
        |vm| {
            // A new QEMU process has a new monitor.
            vm.monitor_hung = false;
            vm.power_off();
        },
    )
}

/// `qmreset`: QMP `system_reset`.
pub(crate) async fn reset(worker: Worker) -> Result<(), String> {
    let _lock = worker.lock_config().await?;
    let hung = worker.with_vm(|vm| {
        check_lock(vm, None)?;
        check_running(vm)?;
        Ok(vm.monitor_hung)
    })?;
    if hung {
        return worker.qmp_timeout("system_reset").await;
    }
    worker.change_vm(GuestEventKind::Reset, check_running, crate::vm::Vm::system_reset)
}

/// `qmpause`, or `qmsuspend` when the state goes to disk.
pub(crate) async fn suspend(worker: Worker, to_disk: bool) -> Result<(), String> {
    let _lock = worker.lock_config().await?;
    let hung = worker.with_vm(|vm| {
        check_lock(vm, (!to_disk).then_some(Lock::Backup))?;
        check_running(vm)?;
        Ok(vm.monitor_hung)
    })?;
    if hung {
        return worker.qmp_timeout(if to_disk { "savevm-start" } else { "stop" }).await;
    }
    if to_disk {
        worker.log("State saved, quitting");
        return worker.change_vm(GuestEventKind::PowerOff, check_running, |vm| {
            vm.power_off();
            vm.lock = Some(Lock::Suspended);
        });
    }
    worker.change_vm(GuestEventKind::Pause, check_running, |vm| vm.set_qmp_status(QmpStatus::Paused))
}

/// `qmresume`: QMP `cont`.
pub(crate) async fn resume(worker: Worker) -> Result<(), String> {
    let suspended = worker.with_vm(|vm| Ok(vm.lock == Some(Lock::Suspended)))?;
    if suspended {
        return start(worker).await;
    }
    let _lock = worker.lock_config().await?;
    cont(&worker).await
}

async fn cont(worker: &Worker) -> Result<(), String> {
    let (hung, status) = worker.with_vm(|vm| {
        check_running(vm)?;
        Ok((vm.monitor_hung, vm.qemu.as_ref().map(|qemu| qemu.status)))
    })?;
    if hung {
        return worker.qmp_timeout("query-status").await;
    }
    if status == Some(QmpStatus::Running) {
        return Ok(());
    }
    worker.with_vm(|vm| check_lock(vm, Some(Lock::Backup)))?;
    worker.change_vm(GuestEventKind::Resume, check_running, |vm| vm.set_qmp_status(QmpStatus::Running))
}
