//! powerState: what somebody switches off stays off, but where it is declared to run.

use super::steps::{is_on, last_event};
use super::*;
use xtask::lab::wait::never;

/// Declared to run, and switched off.
const RUNNING: u32 = 101;
/// Nothing is declared.
const UNMANAGED: u32 = 102;
/// Declared to run, paused, and later not.
const PAUSED: u32 = 103;
/// Declared to run, and Proxmox HA keeps it stopped.
const HA: u32 = 104;

#[test]
fn a_vm_that_is_to_run_is_started_and_others_stay_off() -> Result<()> {
    let vm = |vmid: u32, name: &str| {
        let mut vm = FleetVm::new(vmid, name, &format!("pve{}", vmid % 3 + 1));
        if vmid != UNMANAGED {
            vm.spec = json!({ "powerState": "Running" });
        }
        vm
    };
    let mut paused = vm(PAUSED, "paused");
    paused.spec["pauses"] = json!([{ "owner": "test", "reason": "somebody works on it" }]);
    let mut ha = vm(HA, "ha");
    ha.guest = json!({ "ha": "started" });
    let lab = lab(vec![vm(RUNNING, "running"), vm(UNMANAGED, "unmanaged"), paused, ha], "")?;
    lab.wait_state("paused", &["Paused"], PATIENCE)?;
    for name in ["running", "unmanaged", "ha"] {
        lab.wait_state(name, &["Healthy"], PATIENCE)?;
    }
    for vmid in [RUNNING, UNMANAGED, PAUSED, HA] {
        lab.pve(&["stop", &vmid.to_string()])?;
    }
    lab.pve(&["ha", "104", "stopped"])?;
    let says = |vm: &str, words: &str| {
        until(PATIENCE, &format!("{vm} is Stopped: {words}"), || {
            let (state, message) = condition(&lab.get(VMS, vm)?, "Ready");
            Ok(if state == "Stopped" && message.contains(words) {
                Ok(())
            } else {
                Err(format!("{state}: {message}"))
            })
        })
        .with_context(|| lab.controller_log(15))
    };
    says("unmanaged", "powerState is Unmanaged")?;
    says("running", "JustStopped")?;
    says("paused", "Paused")?;

    until(2 * PATIENCE, "the VM that is to run is on", || {
        let asked = lab.asked(RUNNING)?;
        Ok(if asked == ["start"] && is_on(&lab, RUNNING)? {
            Ok(())
        } else {
            Err(format!("{asked:?}, {}", last_event(&lab, RUNNING)?))
        })
    })
    .with_context(|| lab.controller_log(15))?;
    lab.wait_state("running", &["Healthy"], PATIENCE)?;
    says("ha", "HAManaged")?;
    let starts = lab.get(VMS, "running")?["status"]["recentStarts"].as_array().map_or(0, Vec::len);
    ensure!(
        starts == 1 && records(&lab, "running")?.is_empty(),
        "{starts} starts are counted, and none is a reset"
    );

    // The clock of what was paused starts anew.
    patch(&lab, "paused", &json!({ "pauses": null }))?;
    says("paused", "JustStopped")?;
    until(2 * PATIENCE, "what was paused is on", || {
        Ok(if is_on(&lab, PAUSED)? {
            Ok(())
        } else {
            Err(last_event(&lab, PAUSED)?)
        })
    })
    .with_context(|| lab.controller_log(15))?;
    never(Duration::from_secs(5), "a start of what is to stay off", || {
        let both = [lab.asked(UNMANAGED)?, lab.asked(HA)?];
        Ok(if both.iter().all(Vec::is_empty) {
            Ok(())
        } else {
            Err(format!("{both:?}"))
        })
    })?;
    lab.stop()
}
