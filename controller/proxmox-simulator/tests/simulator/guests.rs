//! Guests are real processes: hung, killed, restarted.

use std::time::Duration;

use pve_sim::config::{SmbiosUuid, VmConfig};
use pve_sim::{Control, GuestState};
use uuid::Uuid;

use crate::lab::{Lab, config, eventually, group_members, guest, process_state};

/// A guest that writes down that it lives, with the boot id it reads.
fn beating(vmid: u32) -> VmConfig {
    let script = "trap 'echo goodbye >> $HOME/beats; exit 0' TERM
        while :; do cat $DEFIB_PROC_ROOT/sys/kernel/random/boot_id >> $HOME/beats; sleep 0.02; done";
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    VmConfig {
        command,
        ..VmConfig::new(vmid, "pve1")
    }
}

fn beats(lab: &Lab, vmid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(lab.file(&format!("guests/{vmid}/beats"))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_hung_guest_stands_still_and_goes_on_when_thawed() {
    let lab = Lab::with(vec![beating(100)]).await;
    let pid = lab.guest_pid(100).await;
    eventually(|| !beats(&lab, 100).is_empty()).await;
    lab.simulator.hang(100).await.unwrap();
    // Each process of the group stops when it is scheduled next, so the leader may stand still first.
    let stopped = |member: &u32| process_state(*member).is_none_or(|state| state == 'T');
    eventually(|| process_state(pid) == Some('T') && group_members(pid).iter().all(stopped)).await;
    assert_eq!(lab.vm(100).guest, GuestState::Hung);
    let counted = beats(&lab, 100).len();
    let proc_uptime = lab.read("guests/100/proc/uptime");
    // Several refreshes and beats would fit in here.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(beats(&lab, 100).len(), counted);
    assert_eq!(lab.read("guests/100/proc/uptime"), proc_uptime);
    lab.simulator.thaw(100).await.unwrap();
    eventually(|| beats(&lab, 100).len() > counted && lab.read("guests/100/proc/uptime") != proc_uptime).await;
    assert_eq!(lab.vm(100).guest_pid, Some(pid));
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_reset_kills_the_whole_group_and_starts_another_boot() {
    let lab = Lab::with(vec![beating(100)]).await;
    let pid = lab.guest_pid(100).await;
    eventually(|| !beats(&lab, 100).is_empty()).await;
    let first = lab.vm(100).boot_id.unwrap().to_string();
    assert_eq!(beats(&lab, 100)[0], first);
    lab.simulator.hang(100).await.unwrap();
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    eventually(|| group_members(pid).is_empty()).await;
    let second = lab.vm(100).boot_id.unwrap().to_string();
    assert_ne!(first, second);
    eventually(|| beats(&lab, 100).last() == Some(&second)).await;
    let seen = beats(&lab, 100);
    let turn = seen.iter().position(|beat| *beat == second).unwrap();
    assert!(
        seen[turn..].iter().all(|beat| *beat == second),
        "the old boot beats on after the new one began"
    );
    assert!(!seen.contains(&"goodbye".to_owned()), "a reset is no orderly end");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_crashed_guest_has_no_processes_under_a_running_qemu() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let pid = lab.guest_pid(100).await;
    lab.simulator.crash(100).await.unwrap();
    eventually(|| group_members(pid).is_empty()).await;
    assert!(lab.vm(100).running);
    assert_eq!(lab.status("pve1", 100).await["status"], "running");
    assert_eq!(lab.act("pve1", 100, "reset").await, "OK");
    assert_ne!(lab.guest_pid(100).await, pid);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn stop_kills_and_start_is_a_new_machine_run() {
    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let pid = lab.guest_pid(100).await;
    let before = lab.vm(100);
    assert_eq!(lab.act("pve1", 100, "stop").await, "OK");
    eventually(|| group_members(pid).is_empty()).await;
    assert_eq!((lab.vm(100).guest, lab.vm(100).boot_id), (GuestState::Off, None));
    assert_eq!(lab.act("pve1", 100, "start").await, "OK");
    assert_eq!(lab.act("pve1", 100, "start").await, "VM 100 already running");
    lab.guest_pid(100).await;
    assert_ne!(lab.vm(100).qemu_pid, before.qemu_pid);
    assert_ne!(lab.vm(100).boot_id, before.boot_id);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_lets_the_guest_say_goodbye_and_a_hung_one_does_not_hear_it() {
    let lab = Lab::with(vec![beating(100), beating(101)]).await;
    for vmid in [100, 101] {
        lab.guest_pid(vmid).await;
        eventually(|| !beats(&lab, vmid).is_empty()).await;
    }
    assert_eq!(lab.act("pve1", 100, "shutdown").await, "OK");
    assert!(!lab.vm(100).running);
    assert_eq!(beats(&lab, 100).last().unwrap(), "goodbye");
    let before = lab.vm(101);
    assert_eq!(lab.act("pve1", 101, "reboot").await, "OK");
    eventually(|| lab.vm(101).guest == GuestState::Running).await;
    assert_ne!(lab.vm(101).qemu_pid, before.qemu_pid, "a reboot starts a new QEMU");
    lab.simulator.hang(101).await.unwrap();
    for action in ["shutdown", "reboot"] {
        assert_eq!(lab.act("pve1", 101, action).await, "VM quit/powerdown failed - got timeout");
    }
    assert!(lab.vm(101).running);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn the_command_starts_only_after_the_boot_delay() {
    let lab = Lab::with(vec![VmConfig {
        boot_seconds: 600.0,
        ..guest(100, "pve1")
    }])
    .await;
    assert_eq!((lab.vm(100).guest, lab.vm(100).guest_pid), (GuestState::Booting, None));
    assert_eq!(lab.status("pve1", 100).await["qmpstatus"], "running");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_command_that_ends_by_itself_leaves_a_living_machine() {
    let command = ["/bin/sh", "-c", "exit 3"].map(str::to_owned).to_vec();
    let lab = Lab::with(vec![VmConfig {
        command,
        ..VmConfig::new(100, "pve1")
    }])
    .await;
    eventually(|| lab.vm(100).guest == GuestState::AgentExited).await;
    assert!(lab.vm(100).running && lab.vm(100).guest.healthy());
    assert_eq!(lab.vm(100).guest_pid, None);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_command_that_cannot_start_is_not_fatal() {
    let command = vec!["/no/such/program".to_owned()];
    let lab = Lab::with(vec![VmConfig {
        command,
        ..VmConfig::new(100, "pve1")
    }])
    .await;
    eventually(|| lab.vm(100).guest == GuestState::AgentExited).await;
    assert!(lab.read("guests/100/console.log").contains("/no/such/program"));
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn the_guest_reads_the_uuid_proxmox_holds_unless_told_otherwise() {
    let other = Uuid::from_u128(7);
    let fixed = Uuid::from_u128(8);
    let lab = Lab::with(vec![
        guest(100, "pve1"),
        VmConfig {
            guest_uuid: Some(other),
            ..guest(101, "pve1")
        },
        VmConfig {
            smbios_uuid: SmbiosUuid::Fixed(fixed),
            ..guest(102, "pve1")
        },
        VmConfig {
            smbios_uuid: SmbiosUuid::Absent,
            ..guest(103, "pve1")
        },
    ])
    .await;
    let smbios = async |vmid: u32| lab.get("pve1", &format!("/nodes/pve1/qemu/{vmid}/config")).await.data()["smbios1"].clone();
    let seen = |vmid: u32| lab.read(&format!("guests/{vmid}/sys/class/dmi/id/product_uuid")).trim().to_owned();
    assert_eq!(smbios(100).await, format!("uuid={}", seen(100)));
    assert_eq!(seen(101), other.to_string());
    assert_ne!(smbios(101).await, format!("uuid={other}"));
    assert_eq!(smbios(102).await, format!("uuid={fixed}"));
    assert_eq!(seen(102), fixed.to_string());
    assert!(smbios(103).await.is_null());
    assert!(!lab.file("guests/103/sys/class/dmi/id/product_uuid").exists());

    let before = lab.vm(100);
    lab.simulator.control(Control::Recreate { vmid: 100 }).await.unwrap();
    lab.guest_pid(100).await;
    assert_ne!(lab.vm(100).smbios_uuid, before.smbios_uuid);
    assert_eq!(smbios(100).await, format!("uuid={}", seen(100)));
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn the_environment_is_the_guests_own() {
    let command = ["/bin/sh", "-c", "env > $HOME/env; sleep 60"].map(str::to_owned).to_vec();
    let env = [("GREETING".to_owned(), "hello".to_owned())].into();
    let lab = Lab::with(vec![VmConfig {
        command,
        env,
        ..VmConfig::new(100, "pve1")
    }])
    .await;
    lab.guest_pid(100).await;
    let file = lab.file("guests/100/env");
    eventually(|| std::fs::read_to_string(&file).unwrap_or_default().contains("GREETING=hello")).await;
    let text = lab.read("guests/100/env");
    let root = lab.file("guests/100");
    assert!(text.contains(&format!("DEFIB_PROC_ROOT={}/proc\n", root.display())), "{text}");
    assert!(text.contains(&format!("DEFIB_SYS_ROOT={}/sys\n", root.display())), "{text}");
    assert!(!text.contains("CARGO"), "the simulator's environment leaks: {text}");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn the_counters_of_a_hung_guest_stand_still_but_for_what_comes_in() {
    let mut config = config(vec![guest(100, "pve1")]);
    config.vms[0].io.net_in = 1e9;
    let lab = Lab::start(config).await;
    lab.guest_pid(100).await;
    let counters = async || {
        let status = lab.status("pve1", 100).await;
        ["netin", "netout", "diskread", "diskwrite"].map(|name| status[name].as_u64().unwrap())
    };
    let mut before = counters().await;
    loop {
        let now = counters().await;
        if now.iter().zip(before).all(|(now, before)| *now > before) {
            break;
        }
        before = before.min(now);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    lab.simulator.hang(100).await.unwrap();
    let before = counters().await;
    let mut now = counters().await;
    while now[0] == before[0] {
        now = counters().await;
    }
    assert_eq!(now[1..], before[1..]);
    lab.simulator.control(Control::Hang { vmid: 100, livelock: true }).await.unwrap();
    while counters().await[3] == before[3] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(counters().await[1], before[1], "a livelocked guest swaps, and sends nothing");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn no_guest_survives_a_shutdown_or_a_drop() {
    let lab = Lab::with(vec![guest(100, "pve1"), guest(101, "pve1")]).await;
    let pids = [lab.guest_pid(100).await, lab.guest_pid(101).await];
    lab.simulator.hang(101).await.unwrap();
    lab.simulator.shutdown().await;
    assert_eq!(pids.map(process_state), [None, None]);

    let lab = Lab::with(vec![guest(100, "pve1")]).await;
    let pid = lab.guest_pid(100).await;
    drop(lab);
    eventually(|| group_members(pid).is_empty()).await;
}
