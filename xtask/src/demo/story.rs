//! The story of the demo. Each step is checked, against the API server and against what the simulator saw.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use std::sync::mpsc::Receiver;
use std::time::Duration;
use xtask::lab::wait::{never, until};
use xtask::lab::{Lab, NAMESPACE, condition};

/// Long enough on a busy machine; nothing waits for as long when all is well.
const PATIENCE: Duration = Duration::from_secs(90);
/// Two of the demo's time-outs and some: long enough to see that nothing happens.
const WHILE: Duration = Duration::from_secs(12);

type Step = fn(&Lab) -> Result<()>;

pub fn play(lab: &Lab, say: &dyn Fn(&str), interrupted: &Receiver<()>) -> Result<()> {
    let steps: [(&str, Step); 7] = [
        (
            "Twelve VMs on three nodes. Eleven run the agent, and are healthy; one has none.",
            all_healthy,
        ),
        (
            "web-1 (101) hangs: its processes stop, QEMU goes on. To Proxmox it looks well.",
            hang_web_1,
        ),
        (
            "Its heartbeat is missing. Defib resets it, and believes in it only when it reports from a new boot.",
            web_1_comes_back,
        ),
        ("The record of it:", record),
        (
            "db-1 (104) hangs while a backup holds its lock: the reset waits for the backup.",
            locked_one_waits,
        ),
        (
            "wiki (108) is paused by its owner, then hangs: it is left alone. appliance (112) never had an agent: it is never touched.",
            left_alone,
        ),
        ("A person asks for a reset of git (107), which is healthy.", manual),
    ];
    for (text, step) in steps {
        if super::was_interrupted(interrupted) {
            bail!("interrupted");
        }
        println!();
        say(text);
        step(lab)?;
    }
    Ok(())
}

fn table(lab: &Lab, what: &[&str]) -> Result<()> {
    let mut args = vec!["get", "-n", NAMESPACE];
    args.extend_from_slice(what);
    println!("{}", lab.kubectl(&args)?.trim_end());
    Ok(())
}

fn all_healthy(lab: &Lab) -> Result<()> {
    until(PATIENCE, "all VMs with an agent are healthy", || {
        let vms = lab.list("managedvms.defib.dev")?;
        let states: Vec<String> = vms.iter().map(|vm| condition(vm, "Ready").0).collect();
        let healthy = states.iter().filter(|s| *s == "Healthy").count();
        Ok(if healthy == 11 {
            Ok(())
        } else {
            Err(format!("{healthy} of 11 are: {states:?}"))
        })
    })?;
    ensure!(
        lab.state("appliance")? == "NeverReported",
        "the VM without an agent is shown as such"
    );
    // The rest of the row comes with the publisher's next round.
    until(PATIENCE, "usage is published", || {
        let vm = lab.get("managedvms.defib.dev", "web-1")?;
        Ok(if vm["status"]["usage"]["memoryPercent"].is_u64() {
            Ok(())
        } else {
            Err("not yet".into())
        })
    })?;
    table(lab, &["vms.defib.dev"])
}

fn boot_id(lab: &Lab, vm: &str) -> Result<String> {
    let vm = lab.get("managedvms.defib.dev", vm)?;
    Ok(vm["status"]["heartbeat"]["bootID"].as_str().unwrap_or_default().to_owned())
}

fn hang_web_1(lab: &Lab) -> Result<()> {
    lab.pve(&["hang", "101"])?;
    lab.wait_state("web-1", &["Silent", "Resetting", "Recovering"], PATIENCE)?;
    table(lab, &["vms.defib.dev", "web-1"])
}

fn web_1_comes_back(lab: &Lab) -> Result<()> {
    lab.wait_state("web-1", &["Healthy"], PATIENCE)?;
    ensure!(
        lab.resets_of(101)? == 1,
        "Proxmox got exactly one reset of 101, not {}",
        lab.resets_of(101)?
    );
    table(lab, &["vms.defib.dev", "web-1"])
}

fn newest_reset(lab: &Lab, vm: &str) -> Result<Value> {
    let of_vm = |r: &Value| r["spec"]["vmRef"]["name"] == vm;
    let newest = lab
        .list("vmresets")?
        .into_iter()
        .filter(of_vm)
        .max_by_key(|r| r["metadata"]["creationTimestamp"].to_string());
    newest.ok_or_else(|| anyhow::anyhow!("no VMReset of {vm}"))
}

fn record(lab: &Lab) -> Result<()> {
    let reset = newest_reset(lab, "web-1")?;
    let status = &reset["status"];
    ensure!(status["outcome"] == "Recovered", "the outcome is {}", status["outcome"]);
    ensure!(
        status["bootIDBefore"] != status["bootIDAfter"] && status["bootIDAfter"].is_string(),
        "the boot id is a new one"
    );
    ensure!(
        status["bootIDAfter"] == boot_id(lab, "web-1")?,
        "the boot id that proved it is the one that the VM reports"
    );
    table(lab, &["vmresets"])?;
    println!("   {}", status["message"].as_str().unwrap_or_default());
    println!(
        "   before {}\n   after  {}",
        status["bootIDBefore"].as_str().unwrap_or_default(),
        status["bootIDAfter"].as_str().unwrap_or_default()
    );
    let events = lab.kubectl(&["events", "-n", NAMESPACE, "--for", "managedvm/web-1", "--no-headers"])?;
    println!("{}", events.trim_end());
    for expected in ["Silent", "ResetSent", "Recovered"] {
        ensure!(events.contains(expected), "an event {expected} tells of it");
    }
    Ok(())
}

fn locked_one_waits(lab: &Lab) -> Result<()> {
    lab.pve(&["lock", "104", "backup"])?;
    lab.pve(&["hang", "104"])?;
    until(PATIENCE, "the lock is what blocks the reset", || {
        let (reason, message) = condition(&lab.get("managedvms.defib.dev", "db-1")?, "ResetAllowed");
        Ok(if reason == "Locked" {
            Ok(message)
        } else {
            Err(format!("{reason}: {message}"))
        })
    })
    .map(|message| println!("   ResetAllowed=False, Locked: {message}"))?;
    never(WHILE, "a reset of a locked VM", || {
        Ok(if lab.resets_of(104)? == 0 {
            Ok(())
        } else {
            Err("Proxmox got one".into())
        })
    })?;
    println!("   the backup ends");
    lab.pve(&["unlock", "104"])?;
    lab.wait_state("db-1", &["Healthy"], PATIENCE)?;
    ensure!(lab.resets_of(104)? == 1, "one reset after the lock was gone");
    table(lab, &["vms.defib.dev", "db-1"])
}

fn left_alone(lab: &Lab) -> Result<()> {
    let pause = json!({ "spec": { "pauses": [{ "owner": "wiki-team", "reason": "storage migration" }] } }).to_string();
    lab.kubectl(&["patch", "mvm", "wiki", "-n", NAMESPACE, "--type", "merge", "-p", &pause])?;
    lab.wait_state("wiki", &["Paused"], PATIENCE)?;
    lab.pve(&["hang", "108"])?;
    lab.pve(&["hang", "112"])?;
    lab.wait_state("wiki", &["Silent"], PATIENCE)?;
    never(WHILE, "a reset of a paused VM, or of one without an agent", || {
        Ok(if lab.resets_of(108)? + lab.resets_of(112)? == 0 {
            Ok(())
        } else {
            Err("Proxmox got one".into())
        })
    })?;
    table(lab, &["vms.defib.dev", "wiki", "appliance", "-o", "wide"])?;
    let (reason, message) = condition(&lab.get("managedvms.defib.dev", "wiki")?, "ResetAllowed");
    ensure!(reason == "Paused", "the pause is the reason, not {reason}");
    println!("   wiki: {message}");
    Ok(())
}

fn manual(lab: &Lab) -> Result<()> {
    let before = boot_id(lab, "git")?;
    let not_after = in_minutes(5)?;
    let request = json!({
        "apiVersion": "defib.dev/v1alpha1", "kind": "VMReset", "metadata": { "name": "git-by-hand", "namespace": NAMESPACE },
        "spec": { "vmRef": { "name": "git" }, "action": "Auto", "trigger": "Manual", "reason": "after the kernel update", "requestedBy": "alice", "notAfter": not_after },
    });
    lab.apply(&request.to_string())?;
    until(PATIENCE, "the requested reset has ended", || {
        let reset = lab.get("vmreset", "git-by-hand")?;
        let outcome = reset["status"]["outcome"].as_str().unwrap_or("none yet");
        Ok(if outcome == "Recovered" {
            Ok(())
        } else {
            Err(format!("its outcome is {outcome}: {}", reset["status"]["message"]))
        })
    })?;
    ensure!(
        boot_id(lab, "git")? != before || lab.resets_of(107)? == 1,
        "git reports from a new boot"
    );
    table(lab, &["vmresets"])
}

fn in_minutes(minutes: u64) -> Result<String> {
    let out = std::process::Command::new("date")
        .args(["-u", "-d", &format!("+{minutes} minutes"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output()?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}
