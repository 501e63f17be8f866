//! Three VMs that fall silent together: nobody is reset without a proof of a hang, whatever the budgets say, and when the storm has passed all silence is counted anew.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::io::Write;
use std::time::Duration;
use xtask::lab::wait::{never, until};
use xtask::lab::{FleetVm, Lab, NAMESPACE, Options, condition};

const TIMEOUT: Duration = Duration::from_secs(6);
/// No test waits for as long when all is well.
const PATIENCE: Duration = Duration::from_secs(90);

const VMS: &str = "managedvms.defib.dev";

/// The budgets leave room for everybody: what holds back here are storms alone.
const POLICY: &str = "
apiVersion: defib.dev/v1alpha1
kind: HealthPolicy
metadata: {name: default, namespace: vms}
spec:
  heartbeat: {reportSeconds: 1, timeoutSeconds: 6, startupGraceSeconds: 2}
  resetPolicy:
    mode: Enforce
    steps: [{action: Reset, maxAttempts: 2, recoveryDeadlineSeconds: 20}]
    stabilizationSeconds: 2
  budget: {maxUnhealthy: 100%, maxInFlight: 10, stormCooldownSeconds: 4}
";

/// Fall silent together, and nothing proves that they hang.
const UNPROVED: [u32; 2] = [101, 102];
/// Falls silent with them, and has a guest agent that used to answer.
const PROVED: u32 = 103;
/// Falls silent with them too, and a person sees to it.
const BYSTANDER: u32 = 104;

fn lab() -> Result<Lab> {
    let vm = |vmid: u32| {
        let mut vm = FleetVm::new(vmid, &format!("vm-{vmid}"), &format!("pve{}", vmid % 3 + 1));
        if vmid == PROVED {
            vm.guest = json!({ "guestAgent": "running" });
        }
        vm
    };
    let mut manifest = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    write!(manifest, "{POLICY}")?;
    let lab = Lab::start(
        Options {
            fleet: (101..=110).map(vm).collect(),
            manifests: vec![manifest.path().to_path_buf()],
            controller_args: vec!["--max-unhealthy=100%".into(), "--max-in-flight=10".into()],
            ..Options::default()
        },
        &|_| {},
    )?;
    for vmid in 101..=110 {
        lab.wait_state(&name(vmid), &["Healthy"], PATIENCE)?;
    }
    lab.wait_guest_agents(1, PATIENCE)?;
    Ok(lab)
}

fn name(vmid: u32) -> String {
    format!("vm-{vmid}")
}

fn wait_gate(lab: &Lab, vmid: u32, reason: &str) -> Result<String> {
    until(PATIENCE, &format!("ResetAllowed of vm-{vmid} is {reason}"), || {
        let (now, message) = condition(&lab.get(VMS, &name(vmid))?, "ResetAllowed");
        Ok(if now == reason {
            Ok(message)
        } else {
            Err(format!("it is {now}: {message}"))
        })
    })
    .with_context(|| lab.controller_log(15))
}

fn wait_reset(lab: &Lab, vmid: u32) -> Result<()> {
    until(PATIENCE, &format!("vm-{vmid} is reset and healthy"), || {
        let (sent, state) = (lab.resets_of(vmid)?, lab.state(&name(vmid))?);
        Ok(if sent == 1 && state == "Healthy" {
            Ok(())
        } else {
            Err(format!("{sent} resets, {state}"))
        })
    })
    .with_context(|| lab.controller_log(15))
}

fn storm_active(lab: &Lab) -> Result<(String, String)> {
    Ok(condition(&lab.get("healthpolicies.defib.dev", "default")?, "StormActive"))
}

#[test]
fn in_a_storm_only_the_proved_hang_is_reset_and_afterwards_silence_is_counted_anew() -> Result<()> {
    let lab = lab()?;
    // Four, so that three are left when the proved hang is cured.
    for vmid in [UNPROVED[0], UNPROVED[1], PROVED, BYSTANDER] {
        lab.pve(&["hang", &vmid.to_string()])?;
    }
    wait_reset(&lab, PROVED)?;
    let message = wait_gate(&lab, UNPROVED[0], "StormActive")?;
    ensure!(
        message.contains("of 10 armed VMs") && message.contains("within 6 s of each other"),
        "the arithmetic: {message}"
    );
    wait_gate(&lab, UNPROVED[1], "StormActive")?;
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
        let hit = others.iter().filter(|vmid| lab.resets_of(**vmid).is_ok_and(|n| n > 0)).count();
        Ok(if hit == 0 { Ok(()) } else { Err(lab.controller_log(30)) })
    })?;

    // A person sees to one of the three. Two are no storm.
    let body = json!({
        "apiVersion": "defib.dev/v1alpha1", "kind": "VMReset",
        "metadata": { "name": "by-hand", "namespace": NAMESPACE },
        "spec": { "vmRef": { "name": name(BYSTANDER) }, "action": "Reset", "trigger": "Manual", "requestedBy": "test",
                  "notAfter": seconds_from_now(300)? },
    });
    lab.apply(&body.to_string())?;
    wait_reset(&lab, BYSTANDER)?;
    for vmid in UNPROVED {
        wait_reset(&lab, vmid)?;
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

/// So many seconds from now, as the API writes it.
fn seconds_from_now(seconds: u32) -> Result<String> {
    let out = std::process::Command::new("date")
        .args(["-u", "-d", &format!("{seconds} seconds"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}
