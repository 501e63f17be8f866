//! Workers that ask the guest to end: shutdown and reboot.

use std::time::{Duration, Instant};

use super::worker::{Worker, check_lock};
use crate::audit::GuestEventKind;

/// How often the end of the guest is looked for.
const POLL: Duration = Duration::from_millis(25);

/// `qmshutdown`: the power button, then a wait with the file lock held.
pub(crate) async fn shutdown(worker: Worker, timeout: Duration, force: bool) -> Result<(), String> {
    let _lock = worker.lock_config().await?;
    end_guest(&worker, timeout, force).await
}

/// `qmreboot`: a shutdown, after which qmeventd starts the VM again.
pub(crate) async fn reboot(worker: Worker, timeout: Duration) -> Result<(), String> {
    let _lock = worker.lock_config().await?;
    if !worker.with_vm(|vm| Ok(vm.is_running()))? {
        return Ok(());
    }
    end_guest(&worker, timeout, false).await?;
    let pid = worker.cluster.new_qemu_pid();
    worker.change_vm(GuestEventKind::PowerOn, |_| Ok(()), |vm| vm.power_on(pid))
}

async fn end_guest(worker: &Worker, timeout: Duration, force: bool) -> Result<(), String> {
    let running = worker.with_vm(|vm| {
        if vm.is_running() {
            check_lock(vm, None)?;
        }
        Ok(vm.is_running())
    })?;
    if !running {
        return Ok(());
    }
    if worker.with_vm(|vm| Ok(vm.monitor_hung))? {
        tokio::time::sleep(worker.cluster.config.timing.qmp).await;
        if !force {
            return Err("VM quit/powerdown failed".to_owned());
        }
        worker.log("VM quit/powerdown failed - terminating now with SIGTERM");
        return power_off(worker);
    }
    worker.with_vm(|vm| {
        vm.guest.press_power_button();
        Ok(())
    })?;
    let pressed = Instant::now();
    // What does not end by itself is killed by the guest's own init, long before QEMU's time is up.
    let patience = worker.cluster.config.timing.guest_shutdown;
    loop {
        let (running, down, responds) = worker.with_vm(|vm| Ok((vm.is_running(), vm.guest.has_shut_down(), vm.guest.responds())))?;
        if !running {
            return Ok(());
        }
        if down || (responds && pressed.elapsed() >= patience) {
            return power_off(worker);
        }
        if pressed.elapsed() >= timeout {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    if !force {
        return Err("VM quit/powerdown failed - got timeout".to_owned());
    }
    worker.log("VM still running - terminating now with SIGTERM");
    power_off(worker)
}

fn power_off(worker: &Worker) -> Result<(), String> {
    worker.change_vm(
        GuestEventKind::PowerOff,
        |_| Ok(()),
        |vm| {
            vm.monitor_hung = false;
            vm.power_off();
        },
    )
}
