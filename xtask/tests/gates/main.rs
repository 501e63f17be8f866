//! What keeps Defib from resetting a VM that hangs, and what lifts it again: every gate, cap, request and storm, each with a VM of its own in a lab.

mod boots;
mod caps;
mod kept;
mod power;
mod steps;
mod storms;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xtask::lab::wait::until;
use xtask::lab::{FleetVm, Lab, NAMESPACE, Options, condition};

/// Silence that the policy of these tests bears.
const TIMEOUT: Duration = Duration::from_secs(6);
/// No test waits for as long when all is well.
const PATIENCE: Duration = Duration::from_secs(90);

const VMS: &str = "managedvms.defib.dev";
const RESETS: &str = "vmresets.defib.dev";

/// Room for all VMs at once, as it is not the budget that these tests are about.
const POLICY: &str = "
apiVersion: defib.dev/v1alpha1
kind: HealthPolicy
metadata: {name: default, namespace: vms}
spec:
  heartbeat: {reportSeconds: 1, timeoutSeconds: 6, startupGraceSeconds: 2}
  resetPolicy:
    mode: Enforce
    steps: [{action: Reset, maxAttempts: 2, recoveryDeadlineSeconds: 10}]
    maxResets: 5
    windowSeconds: 3600
    stabilizationSeconds: 2
  budget: {maxUnhealthy: 100%, maxInFlight: 10, stormCooldownSeconds: 3}
";

fn lab(fleet: Vec<FleetVm>, more: &str) -> Result<Lab> {
    lab_with(fleet, more, &[])
}

fn lab_with(fleet: Vec<FleetVm>, more: &str, arguments: &[&str]) -> Result<Lab> {
    let mut manifest = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    write!(manifest, "{POLICY}---\n{more}\n")?;
    Lab::start(
        Options {
            fleet,
            manifests: vec![manifest.path().to_path_buf()],
            controller_args: ["--max-unhealthy=100%", "--max-in-flight=10"]
                .iter()
                .chain(arguments)
                .map(|argument| (*argument).to_owned())
                .collect(),
            ..Options::default()
        },
        &|_| {},
    )
}

/// The same moment for the API server: seconds from now, which may lie in the past.
fn moment(seconds_from_now: i64) -> Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let at = format!("@{}", now + seconds_from_now);
    let out = Command::new("date").args(["-u", "-d", &at, "+%Y-%m-%dT%H:%M:%SZ"]).output()?;
    ensure!(out.status.success(), "date does not know {at}");
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

/// Waits until a condition of a VM has a reason, and returns its message.
fn wait_reason(lab: &Lab, vm: &str, type_: &str, reason: &str) -> Result<String> {
    until(PATIENCE, &format!("{type_} of {vm} is {reason}"), || {
        let (now, message) = condition(&lab.get(VMS, vm)?, type_);
        Ok(if now == reason {
            Ok(message)
        } else {
            Err(format!("it is {now}: {message}"))
        })
    })
    .with_context(|| lab.controller_log(15))
}

/// Waits until a VM was reset so many times, and is healthy with no reset under way.
fn wait_recovered(lab: &Lab, vm: &str, vmid: u32, resets: usize) -> Result<()> {
    until(PATIENCE, &format!("{vm} has recovered from reset {resets}"), || {
        let object = lab.get(VMS, vm)?;
        let (state, message) = condition(&object, "Ready");
        let sent = lab.resets_of(vmid)?;
        let done = sent == resets && state == "Healthy" && object["status"]["currentReset"].is_null();
        Ok(if done {
            Ok(())
        } else {
            Err(format!("{sent} resets, {state}: {message}"))
        })
    })
    .with_context(|| lab.controller_log(15))
}

/// Records of the resets of a VM, by name.
fn records(lab: &Lab, vm: &str) -> Result<Vec<Value>> {
    let mut of_vm = lab.list(RESETS)?;
    of_vm.retain(|r| r["spec"]["vmRef"]["name"] == vm);
    Ok(of_vm)
}

fn outcomes(lab: &Lab, vm: &str) -> Result<Vec<String>> {
    let mut all: Vec<String> = records(lab, vm)?
        .iter()
        .map(|r| r["status"]["outcome"].as_str().unwrap_or("none").to_owned())
        .collect();
    all.sort();
    Ok(all)
}

/// Changes the spec of a ManagedVM.
fn patch(lab: &Lab, vm: &str, spec: &Value) -> Result<()> {
    let body = json!({ "spec": spec }).to_string();
    lab.kubectl(&["patch", VMS, vm, "-n", NAMESPACE, "--type=merge", "-p", &body])
        .map(|_| ())
}

/// What was seen before the reset of a VM.
fn evidence(lab: &Lab, vm: &str) -> Result<Value> {
    Ok(records(lab, vm)?.first().context("no record")?["status"]["evidence"].clone())
}

/// A person's request, or what pretends to be one.
fn request(name: &str, vm: &str, trigger: &str, not_after: &str) -> String {
    json!({
        "apiVersion": "defib.dev/v1alpha1", "kind": "VMReset",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "vmRef": { "name": vm }, "action": "Reset", "trigger": trigger, "notAfter": not_after, "requestedBy": "test" },
    })
    .to_string()
}

#[test]
fn a_vm_that_moved_since_proxmox_was_read_is_reset_where_it_is() -> Result<()> {
    // Proxmox is read once, at the start: the controller does not learn of the move before the reset is due.
    let lab = lab_with(vec![FleetVm::new(101, "web-1", "pve1")], "", &["--poll-seconds=300"])?;
    lab.wait_state("web-1", &["Healthy"], PATIENCE)?;
    lab.pve(&["migrate", "101", "pve2"])?;
    lab.pve(&["hang", "101"])?;
    wait_recovered(&lab, "web-1", 101, 1)?;
    let requests = lab.requests()?;
    let reset = requests.iter().find(|row| row["action"] == "reset").context("no reset")?;
    ensure!(reset["node"] == "pve2", "the reset went to {}", reset["node"]);
    ensure!(
        lab.get(VMS, "web-1")?["status"]["node"] == "pve1",
        "Proxmox was read again, so this proves nothing"
    );
    lab.stop()
}
