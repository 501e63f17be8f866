//! Three VMs that fall silent together: nobody is reset without a proof of a hang, whatever the budgets say, and when the storm has passed all silence is counted anew.

use super::*;
use xtask::lab::wait::never;

/// Fall silent together, and nothing proves that they hang.
const UNPROVED: [u32; 2] = [101, 102];
/// Falls silent with them, and has a guest agent that used to answer.
const PROVED: u32 = 103;
/// Falls silent with them too, and a person sees to it.
const BYSTANDER: u32 = 104;

fn name(vmid: u32) -> String {
    format!("vm-{vmid}")
}

fn fleet() -> Vec<FleetVm> {
    let vm = |vmid: u32| {
        let mut vm = FleetVm::new(vmid, &name(vmid), &format!("pve{}", vmid % 3 + 1));
        if vmid == PROVED {
            vm.guest = json!({ "guestAgent": "running" });
        }
        vm
    };
    (101..=110).map(vm).collect()
}

fn storm_active(lab: &Lab) -> Result<(String, String)> {
    Ok(condition(&lab.get("healthpolicies.defib.dev", "default")?, "StormActive"))
}

#[test]
fn in_a_storm_only_the_proved_hang_is_reset_and_afterwards_silence_is_counted_anew() -> Result<()> {
    let lab = lab(fleet(), "")?;
    for vmid in 101..=110 {
        lab.wait_state(&name(vmid), &["Healthy"], PATIENCE)?;
    }
    lab.wait_guest_agents(1, PATIENCE)?;
    // Four, so that three are left when the proved hang is cured.
    for vmid in [UNPROVED[0], UNPROVED[1], PROVED, BYSTANDER] {
        lab.pve(&["hang", &vmid.to_string()])?;
    }
    wait_recovered(&lab, &name(PROVED), PROVED, 1)?;
    let message = wait_reason(&lab, &name(UNPROVED[0]), "ResetAllowed", "StormActive")?;
    ensure!(
        message.contains("of 10 armed VMs") && message.contains("within 6 s of each other"),
        "the arithmetic: {message}"
    );
    wait_reason(&lab, &name(UNPROVED[1]), "ResetAllowed", "StormActive")?;
    until(PATIENCE, "the policy tells of the storm", || {
        let (reason, message) = storm_active(&lab)?;
        Ok(if reason == "Burst" && message.starts_with("3 of 10 armed VMs") {
            Ok(())
        } else {
            Err(format!("{reason}: {message}"))
        })
    })?;
    let others = [UNPROVED[0], UNPROVED[1], BYSTANDER];
    never(3 * TIMEOUT, "a reset without a proof", || {
        let sent: Vec<usize> = others.iter().map(|vmid| lab.resets_of(*vmid)).collect::<Result<_>>()?;
        Ok(if sent == [0, 0, 0] {
            Ok(())
        } else {
            Err(format!("resets of {others:?}: {sent:?}\n{}", lab.controller_log(30)))
        })
    })?;

    // A person sees to one of the three. Two are no storm.
    lab.apply(&request("by-hand", &name(BYSTANDER), "Manual", &moment(300)?))?;
    wait_recovered(&lab, &name(BYSTANDER), BYSTANDER, 1)?;
    for vmid in UNPROVED {
        wait_recovered(&lab, &name(vmid), vmid, 1)?;
    }
    until(PATIENCE, "the policy tells of the storm's end", || {
        let (reason, message) = storm_active(&lab)?;
        Ok(if reason == "Calm" {
            Ok(())
        } else {
            Err(format!("{reason}: {message}"))
        })
    })?;
    let events = lab.kubectl(&["get", "events", "-n", NAMESPACE, "-o", "jsonpath={.items[*].reason}"])?;
    ensure!(events.contains("StormBegan") && events.contains("StormEnded"), "{events}");
    lab.stop()
}
