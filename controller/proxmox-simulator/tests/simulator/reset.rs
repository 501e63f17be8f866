//! What a reset does, situation by situation.

use pve_sim::config::VmConfig;
use pve_sim::{Control, GuestEventKind, GuestState, Lock, QmpStatus, Unresponsive};

use crate::lab::{Lab, eventually, guest};

#[tokio::test]
async fn a_running_vm_boots_anew_in_the_same_qemu() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let old_pid = lab.guest_pid(100).await;
    let before = lab.vm(100);
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    let new_pid = lab.guest_pid(100).await;
    let after = lab.vm(100);
    assert_ne!(before.boot_id, after.boot_id);
    assert_ne!(old_pid, new_pid);
    assert_eq!(before.qemu_pid, after.qemu_pid);
    assert!(after.qemu_uptime >= before.qemu_uptime);
    assert_eq!(lab.status("pve1", 100).await["pid"], before.qemu_pid.unwrap());
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_stopped_vm_is_refused_at_once() {
    let stopped = VmConfig {
        running: false,
        ..VmConfig::new(100, "pve1")
    };
    let template = VmConfig {
        running: false,
        template: true,
        ..VmConfig::new(900, "pve1")
    };
    let lab = Lab::with(vec![stopped, template]).await;
    for vmid in [100, 900] {
        let answer = lab.post("pve1", &format!("/nodes/pve1/qemu/{vmid}/status/reset")).await;
        assert_eq!(answer.status_line, format!("HTTP/1.1 500 VM {vmid} not running"));
    }
    assert_eq!(lab.simulator.tasks(), []);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_vm_that_does_not_execute_stays_so_until_resumed() {
    for status in [
        QmpStatus::Paused,
        QmpStatus::Prelaunch,
        QmpStatus::IoError,
        QmpStatus::InternalError,
        QmpStatus::GuestPanicked,
        QmpStatus::Suspended,
    ] {
        let lab = Lab::with(vec![guest(100, "pve1")]).await;
        lab.guest_pid(100).await;
        lab.simulator.control(Control::Qmp { vmid: 100, status }).await.unwrap();
        let before = lab.vm(100);
        assert_eq!(before.guest, GuestState::Paused);
        assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
        assert_eq!(lab.vm(100).qmp_status, Some(QmpStatus::Prelaunch), "after {status}");
        assert_ne!(lab.vm(100).boot_id, before.boot_id);
        assert_eq!(lab.vm(100).guest_pid, None, "nothing may run before the resume");
        assert_eq!(lab.act("pve1", 100, "resume").await, "OK");
        lab.guest_pid(100).await;
        assert_eq!(lab.vm(100).qmp_status, Some(QmpStatus::Running));
        lab.simulator.shutdown().await;
    }
}

#[tokio::test]
async fn a_config_lock_shows_in_the_task_and_nothing_changes() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let pid = lab.guest_pid(100).await;
    for lock in [
        Lock::Backup,
        Lock::Clone,
        Lock::Create,
        Lock::Migrate,
        Lock::Rollback,
        Lock::Snapshot,
        Lock::SnapshotDelete,
        Lock::Suspending,
        Lock::Suspended,
    ] {
        lab.simulator.lock(100, lock).await.unwrap();
        let upid = lab.post("pve1", "/nodes/pve1/qemu/100/status/reset").await.upid();
        let text = format!("VM is locked ({lock})");
        assert_eq!(lab.outcome(&upid).await, text);
        let log = lab.get("pve1", &format!("/nodes/pve1/tasks/{upid}/log")).await.data();
        assert_eq!(log.as_array().unwrap().last().unwrap()["t"], format!("TASK ERROR: {text}"));
        assert_eq!(lab.status("pve1", 100).await["lock"], lock.as_str());
    }
    assert_eq!(lab.vm(100).guest_pid, Some(pid));
    lab.simulator.unlock(100).await.unwrap();
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_hung_monitor_fails_the_task_and_leaves_the_guest() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let pid = lab.guest_pid(100).await;
    lab.simulator.monitor_hang(100).await.unwrap();
    let upid = lab.post("pve1", "/nodes/pve1/qemu/100/status/reset").await.upid();
    assert_eq!(lab.outcome(&upid).await, "VM 100 qmp command 'system_reset' failed - got timeout");
    assert_eq!(lab.vm(100).guest_pid, Some(pid));
    let status = lab.status("pve1", 100).await;
    assert_eq!(status["qmpstatus"], "running");
    for hint in ["running-qemu", "blockstat", "proxmox-support"] {
        assert!(status.get(hint).is_none(), "{hint}");
    }
    // The process can still be killed, and its successor has a monitor that answers.
    assert_eq!(lab.act("pve1", 100, "stop").await, "OK");
    assert_eq!(lab.act("pve1", 100, "start").await, "OK");
    assert_eq!(lab.status("pve1", 100).await["running-qemu"], "10.0.2");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn no_reboot_means_stopped() {
    let lab = Lab::with(vec![VmConfig {
        reboot: false,
        ..guest(100, "pve1")
    }])
    .await;
    lab.guest_pid(100).await;
    assert_eq!(lab.get("pve1", "/nodes/pve1/qemu/100/config").await.data()["reboot"], 0);
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    let status = lab.status("pve1", 100).await;
    assert_eq!((&status["status"], &status["qmpstatus"]), (&"stopped".into(), &"stopped".into()));
    assert!(status.get("pid").is_none());
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn an_ha_managed_vm_is_reset_without_ha() {
    let lab = Lab::with(vec![VmConfig {
        ha: Some(pve_sim::HaState::Started),
        ..guest(100, "pve1")
    }])
    .await;
    lab.guest_pid(100).await;
    let before = lab.vm(100);
    let upid = lab.post("pve1", "/nodes/pve1/qemu/100/status/reset").await.upid();
    assert!(upid.contains(":qmreset:100:"), "{upid}");
    assert_eq!(lab.outcome(&upid).await, "OK");
    assert_ne!(lab.vm(100).boot_id, before.boot_id);
    assert_eq!(lab.vm(100).ha, before.ha);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn quorum_is_needed_to_start_but_not_to_reset_or_stop() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    lab.simulator
        .control(Control::Quorum {
            state: pve_sim::Quorum::Lost,
        })
        .await
        .unwrap();
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    assert_eq!(lab.act("pve1", 100, "stop").await, "OK");
    let answer = lab.post("pve1", "/nodes/pve1/qemu/100/status/start").await;
    assert_eq!(answer.status_line, "HTTP/1.1 500 cluster not ready - no quorum?");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn the_file_lock_of_a_waiting_shutdown_blocks_a_reset() {
    let mut config = crate::lab::config(vec![guest(100, "pve1")]);
    config.timing.shutdown = std::time::Duration::from_secs(60);
    let lab = Lab::start(config).await;
    lab.guest_pid(100).await;
    lab.simulator.hang(100).await.unwrap();
    let shutdown = lab.post("pve1", "/nodes/pve1/qemu/100/status/shutdown").await.upid();
    let file_lock = "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout";
    // The shutdown's worker may take a moment to take the lock: a reset before that succeeds.
    let mut reset = String::new();
    for _ in 0..50 {
        reset = lab.act("pve1", 100, "reset").await;
        if reset != "OK" {
            break;
        }
        lab.simulator.hang(100).await.unwrap();
    }
    assert_eq!(reset, file_lock);
    let stop = lab
        .post("pve1", "/nodes/pve1/qemu/100/status/stop?overrule-shutdown=1")
        .await
        .upid();
    assert_eq!(lab.outcome(&stop).await, "OK");
    assert_eq!(lab.outcome(&shutdown).await, "received interrupt");
    assert!(!lab.vm(100).running);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_reset_can_be_without_effect() {
    let lab = Lab::with(vec![VmConfig {
        unresponsive: Unresponsive::Resets,
        ..guest(100, "pve1")
    }])
    .await;
    let pid = lab.guest_pid(100).await;
    lab.simulator.hang(100).await.unwrap();
    let before = lab.vm(100);
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    eventually(|| crate::lab::process_state(pid).is_none()).await;
    assert_ne!(lab.vm(100).boot_id, before.boot_id);
    assert_eq!((lab.vm(100).guest, lab.vm(100).guest_pid), (GuestState::Hung, None));
    assert_eq!(lab.act("pve1", 100, "stop").await, "OK");
    assert_eq!(lab.act("pve1", 100, "start").await, "OK");
    lab.guest_pid(100).await;
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_vm_that_moved_is_not_found_where_it_was() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let pid = lab.guest_pid(100).await;
    let before = lab.vm(100);
    lab.simulator.migrate(100, "pve2").await.unwrap();
    let answer = lab.post("pve1", "/nodes/pve1/qemu/100/status/reset").await;
    assert_eq!(
        answer.status_line,
        "HTTP/1.1 500 unable to find configuration file for VM 100 on node 'pve1'"
    );
    let answer = lab.get("pve1", "/nodes/pve1/qemu/100/status/current").await;
    let missing = "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist";
    assert_eq!(answer.status_line, format!("HTTP/1.1 500 {missing}"));
    // Start and stop find out in the task.
    assert_eq!(lab.act("pve1", 100, "start").await, missing);
    assert_eq!(
        lab.act("pve1", 100, "stop").await,
        "unable to find configuration file for VM 100 on node 'pve1'"
    );
    // The guest did not notice the move, but QEMU is another process.
    let after = lab.vm(100);
    assert_eq!((after.boot_id, after.guest_pid), (before.boot_id, Some(pid)));
    assert_ne!(after.qemu_pid, before.qemu_pid);
    assert_eq!(lab.act("pve2", 100, "reset").await, "OK");
    let resets = lab.simulator.guest_events();
    let resets: Vec<_> = resets.iter().filter(|event| event.event == GuestEventKind::Reset).collect();
    assert_eq!(resets.len(), 1);
    assert!(resets[0].cause.starts_with("UPID:pve2:"));
    lab.simulator.shutdown().await;
}
