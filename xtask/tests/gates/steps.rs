//! What an attempt does: the ladder of steps, and the start that is owed after a stop, whatever becomes of Defib and of the ManagedVM meanwhile.

use super::*;

/// Its resets boot it hung: only power off and on cures it.
const STUBBORN: u32 = 101;
/// Its guest has panicked, which QEMU says.
const PANICKED: u32 = 102;
/// A reset would stop it.
const NO_REBOOT: u32 = 103;

/// Power off and on, and nothing else.
fn power_cycle() -> Value {
    json!({ "resetPolicy": { "steps": [{ "action": "PowerCycle", "maxAttempts": 1, "recoveryDeadlineSeconds": 60 }] } })
}

fn wait_asked(lab: &Lab, vmid: u32, wanted: &[&str]) -> Result<()> {
    until(PATIENCE, &format!("Proxmox is asked for {wanted:?} of VM {vmid}"), || {
        let mut seen = lab.asked(vmid)?;
        // It is told to go on as often as it is seen to stand: QEMU takes a moment.
        seen.dedup_by(|one, before| one == before && one == "resume");
        Ok(if seen == wanted {
            Ok(())
        } else {
            Err(format!("it was asked for {seen:?}"))
        })
    })
    .with_context(|| lab.controller_log(15))
}

/// Waits until a VM is healthy, with nothing under way and no start owed.
fn wait_well(lab: &Lab, vm: &str) -> Result<()> {
    until(PATIENCE, &format!("{vm} is well"), || {
        let object = lab.get(VMS, vm)?;
        let (state, message) = condition(&object, "Ready");
        let held = records(lab, vm)?.iter().any(is_held);
        Ok(if state == "Healthy" && object["status"]["currentReset"].is_null() && !held {
            Ok(())
        } else {
            Err(format!("{state}: {message}; a start is owed: {held}"))
        })
    })
    .with_context(|| lab.controller_log(15))
}

fn is_held(record: &Value) -> bool {
    let finalizers = record["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|all| all.iter().any(|f| f == "defib.dev/start-owed"))
}

/// Whether a VM has a QEMU process.
pub fn is_on(lab: &Lab, vmid: u32) -> Result<bool> {
    let events = lab.guest_events()?;
    let last = events.iter().rfind(|event| event["vmid"] == vmid);
    Ok(last.is_none_or(|event| event["after"] != "off"))
}

pub fn last_event(lab: &Lab, vmid: u32) -> Result<String> {
    let events = lab.guest_events()?;
    let last = events.iter().rfind(|event| event["vmid"] == vmid);
    Ok(last.map_or_else(String::new, ToString::to_string))
}

#[test]
fn the_ladder_is_walked_down_to_what_is_possible_and_helps() -> Result<()> {
    let steps = json!({ "resetPolicy": { "steps": [
        { "action": "Reset", "maxAttempts": 1, "recoveryDeadlineSeconds": 8 },
        { "action": "PowerCycle", "maxAttempts": 1, "recoveryDeadlineSeconds": 60 },
    ] } });
    let vm = |vmid: u32, name: &str, guest: Value| {
        let mut vm = FleetVm::new(vmid, name, &format!("pve{}", vmid % 3 + 1));
        (vm.spec, vm.guest) = (steps.clone(), guest);
        vm
    };
    let lab = lab(
        vec![
            vm(STUBBORN, "stubborn", json!({ "unresponsive": "resets" })),
            vm(PANICKED, "panicked", json!({})),
            vm(NO_REBOOT, "no-reboot", json!({ "reboot": false })),
        ],
        "",
    )?;
    for name in ["stubborn", "panicked", "no-reboot"] {
        lab.wait_state(name, &["Healthy"], PATIENCE)?;
    }
    // Two at once are no storm.
    lab.pve(&["hang", "101"])?;
    lab.pve(&["crash", "102"])?;
    lab.pve(&["qmp", "102", "guest-panicked"])?;
    wait_asked(&lab, PANICKED, &["reset", "resume"])?;
    wait_well(&lab, "panicked")?;
    ensure!(outcomes(&lab, "panicked")? == ["Recovered"], "a reset and a resume are one attempt");

    wait_asked(&lab, STUBBORN, &["reset", "stop", "start"])?;
    wait_well(&lab, "stubborn")?;
    ensure!(outcomes(&lab, "stubborn")? == ["NotRecovered", "Recovered"]);
    let all = records(&lab, "stubborn")?;
    let cycle = all
        .iter()
        .find(|r| r["status"]["action"] == "PowerCycle")
        .context("no record of the PowerCycle")?;
    ensure!(cycle["status"]["step"] == 2 && cycle["status"]["startOwed"].is_null(), "{cycle}");

    lab.pve(&["hang", "103"])?;
    wait_asked(&lab, NO_REBOOT, &["stop", "start"])?;
    wait_well(&lab, "no-reboot")?;
    lab.stop()
}

#[test]
fn a_vm_that_ha_manages_is_stopped_and_started_through_ha_and_a_guest_reboots_at_a_persons_wish() -> Result<()> {
    let mut managed = FleetVm::new(101, "managed", "pve1");
    (managed.spec, managed.guest) = (power_cycle(), json!({ "ha": "started" }));
    let mut asked_for = FleetVm::new(102, "asked", "pve2");
    asked_for.guest = json!({ "guestAgent": "running" });
    let lab = lab(vec![managed, asked_for], "")?;
    for name in ["managed", "asked"] {
        lab.wait_state(name, &["Healthy"], PATIENCE)?;
    }
    lab.pve(&["hang", "101"])?;
    let not_after = moment(600)?;
    lab.apply(&request("please", "asked", "Manual", &not_after).replace(r#""action":"Reset""#, r#""action":"GuestReboot""#))?;
    wait_asked(&lab, 102, &["reboot"])?;
    wait_well(&lab, "asked")?;
    ensure!(outcomes(&lab, "asked")? == ["Recovered"]);
    wait_asked(&lab, 101, &["stop", "start"])?;
    wait_well(&lab, "managed")?;
    ensure!(outcomes(&lab, "managed")? == ["Recovered"]);
    lab.stop()
}

/// Rule 8, the hard way: Defib is killed between stop and start, the ManagedVM is deleted, and the VM is started all the same.
#[test]
fn a_start_is_owed_over_the_death_of_defib_and_of_the_managed_vm() -> Result<()> {
    let mut vm = FleetVm::new(101, "web-1", "pve1");
    vm.spec = power_cycle();
    let mut lab = lab(vec![vm], "")?;
    lab.wait_state("web-1", &["Healthy"], PATIENCE)?;
    lab.pve(&[
        "fault",
        "add",
        "--kind",
        "status:595",
        "--method",
        "POST",
        "--path-contains",
        "status/start",
    ])?;
    lab.pve(&["hang", "101"])?;
    until(PATIENCE, "the VM is off, and Proxmox was asked to start it", || {
        let all = records(&lab, "web-1")?;
        let tried = all
            .iter()
            .any(|r| r["status"]["startOwed"]["attempts"].as_u64().is_some_and(|n| n > 0));
        Ok(if tried && !is_on(&lab, 101)? {
            Ok(())
        } else {
            Err(last_event(&lab, 101)?)
        })
    })
    .with_context(|| lab.controller_log(15))?;
    lab.kill_controller()?;
    lab.kubectl(&["delete", VMS, "web-1", "-n", NAMESPACE, "--timeout=60s"])?;
    until(PATIENCE, "the record is to go with its ManagedVM", || {
        let held = lab.list(RESETS)?;
        let leaving = held.iter().any(|r| is_held(r) && r["metadata"]["deletionTimestamp"].is_string());
        Ok(if leaving { Ok(()) } else { Err(format!("{held:?}")) })
    })?;
    lab.pve(&["fault", "clear"])?;
    lab.start_controller()?;
    until(PATIENCE, "the VM is on again", || {
        Ok(if is_on(&lab, 101)? { Ok(()) } else { Err(last_event(&lab, 101)?) })
    })
    .with_context(|| lab.controller_log(15))?;
    // It runs for a minute before the record is let go.
    until(PATIENCE + PATIENCE, "the record is gone", || {
        let left = lab.list(RESETS)?;
        Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
    })
    .with_context(|| lab.controller_log(15))?;
    ensure!(
        lab.asked(101)?.iter().filter(|what| *what == "stop").count() == 1,
        "it was stopped once"
    );
    lab.stop()
}

/// SIGTERM pays first: a process that is asked to end while a VM is being stopped leaves it running.
#[test]
fn a_process_that_is_asked_to_end_starts_what_it_stopped() -> Result<()> {
    let mut vm = FleetVm::new(101, "web-1", "pve1");
    vm.spec = power_cycle();
    let mut lab = lab(vec![vm], "")?;
    lab.wait_state("web-1", &["Healthy"], PATIENCE)?;
    // Then its stop takes seconds.
    lab.pve(&["monitor-hang", "101"])?;
    lab.pve(&["hang", "101"])?;
    wait_asked(&lab, 101, &["stop"])?;
    lab.stop_controller()?;
    ensure!(is_on(&lab, 101)?, "{}\n{}", last_event(&lab, 101)?, lab.controller_log(30));
    ensure!(lab.asked(101)? == ["stop", "start"], "{:?}", lab.asked(101)?);
    lab.start_controller()?;
    wait_well(&lab, "web-1")?;
    ensure!(outcomes(&lab, "web-1")? == ["Recovered"]);
    lab.stop()
}
