//! A guest that boots again and again by itself.

use super::*;
use xtask::lab::wait::never;

const VMID: u32 = 101;

fn boot_id(lab: &Lab) -> Result<String> {
    let status = lab.get(VMS, "restless")?["status"].clone();
    Ok(status["heartbeat"]["bootID"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_vm_that_boots_again_and_again_is_left_alone() -> Result<()> {
    let lab = lab(vec![FleetVm::new(VMID, "restless", "pve1")], "")?;
    let vmid = VMID.to_string();
    lab.wait_state("restless", &["Healthy"], PATIENCE)?;
    for n in 1..=4 {
        let before = boot_id(&lab)?;
        let state = lab.state("restless")?;
        ensure!(state == "Healthy", "after {} boots it is {state}", n - 1);
        lab.pve(&["guest-reboot", &vmid])?;
        until(PATIENCE, &format!("boot {n} reports"), || {
            let now = boot_id(&lab)?;
            Ok(if now != before { Ok(()) } else { Err(format!("it is {now}")) })
        })?;
    }
    lab.wait_state("restless", &["BootLoop"], PATIENCE)?;
    let message = wait_reason(&lab, "restless", "ResetAllowed", "BootLoop")?;
    ensure!(message.starts_with("4 boots"), "{message}");

    lab.pve(&["hang", &vmid])?;
    lab.wait_state("restless", &["Silent"], PATIENCE)?;
    never(2 * TIMEOUT, "a reset, or another reason for none", || {
        let (reason, message) = condition(&lab.get(VMS, "restless")?, "ResetAllowed");
        Ok(match lab.resets_of(VMID)? {
            0 if reason == "BootLoop" => Ok(()),
            resets => Err(format!("{resets} resets, {reason}: {message}")),
        })
    })?;
    let events = lab.kubectl(&["get", "events", "-n", NAMESPACE, "-o", "jsonpath={.items[*].reason}"])?;
    ensure!(events.split(' ').filter(|reason| *reason == "BootLoop").count() == 1, "{events}");

    // A person may, and what that causes is no boot of its own.
    lab.apply(&request("by-hand", "restless", "Manual", &moment(600)?))?;
    until(PATIENCE, "the reset by hand has ended", || {
        let seen = outcomes(&lab, "restless")?;
        Ok(if seen == ["Recovered"] { Ok(()) } else { Err(format!("{seen:?}")) })
    })
    .with_context(|| lab.controller_log(15))?;
    lab.wait_state("restless", &["BootLoop"], PATIENCE)?;
    let message = wait_reason(&lab, "restless", "ResetAllowed", "BootLoop")?;
    ensure!(message.starts_with("4 boots"), "{message}");

    // Whoever has mended it says so.
    patch(&lab, "restless", &json!({ "resetPolicy": { "forgiveBefore": moment(0)? } }))?;
    lab.wait_state("restless", &["Healthy"], PATIENCE)?;
    lab.pve(&["hang", &vmid])?;
    wait_recovered(&lab, "restless", VMID, 2)
}
