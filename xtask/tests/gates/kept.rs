//! Gates: VMs that hang, or worse, and that nothing may reset, and what holds a reset for a while.

use super::*;
use xtask::lab::wait::never;

/// A VM that hangs, or worse, and that nothing may reset.
struct Kept {
    vm: FleetVm,
    /// What is done to it, in words of `pve-sim ctl`; the VMID goes second.
    harm: &'static [&'static [&'static str]],
    /// Reason of HeartbeatFresh before the harm.
    before: &'static str,
    /// Reason of HeartbeatFresh after it.
    after: &'static str,
    /// Reason of ResetAllowed after it.
    gate: &'static str,
}

const HANG: &[&[&str]] = &[&["hang"]];

fn kept(vmid: u32, name: &str, gate: &'static str) -> Kept {
    Kept {
        vm: FleetVm::new(vmid, name, &format!("pve{}", vmid % 3 + 1)),
        harm: HANG,
        before: "Fresh",
        after: "Silent",
        gate,
    }
}

impl Kept {
    fn spec(mut self, spec: Value) -> Self {
        self.vm.spec = spec;
        self
    }

    fn guest(mut self, guest: Value) -> Self {
        self.vm.guest = guest;
        self
    }

    fn harm(mut self, harm: &'static [&'static [&'static str]]) -> Self {
        self.harm = harm;
        self
    }

    fn heartbeat(mut self, before: &'static str, after: &'static str) -> Self {
        (self.before, self.after) = (before, after);
        self
    }

    fn unsupervised(mut self) -> Self {
        self.vm.supervised = false;
        self
    }

    fn without_agent(mut self) -> Self {
        self.vm.agent = false;
        self
    }

    fn key_of(mut self, other: &str) -> Self {
        self.vm.key_of = Some(other.into());
        self
    }
}

/// Every VM that nothing may reset.
fn all_kept() -> Vec<Kept> {
    let heartbeat = json!({ "reportSeconds": 1, "timeoutSeconds": 6, "startupGraceSeconds": 2 });
    vec![
        kept(101, "observed", "ObserveOnly")
            .spec(json!({ "resetPolicy": { "mode": "Observe" } }))
            .guest(json!({ "guestAgent": "running" })),
        // It says itself that it may be reset: without its policy that must not count.
        kept(102, "policy-missing", "PolicyNotFound")
            .spec(json!({ "policyRef": { "name": "nowhere" }, "heartbeat": heartbeat, "resetPolicy": { "mode": "Enforce" } })),
        // Valid, as the policy is; together they bear only three missed reports.
        kept(103, "contradiction", "InvalidPolicy").spec(json!({ "heartbeat": { "reportSeconds": 2 } })),
        kept(104, "by-hand", "Unsupervised")
            .unsupervised()
            .heartbeat("Unsupervised", "Unsupervised"),
        kept(105, "other-machine", "WrongMachine")
            .guest(json!({ "guestUuid": "6a3f0c52-9d0e-4b0b-8d5e-2f1f64d1c0a7" }))
            .heartbeat("WrongMachine", "WrongMachine"),
        // A clone with the key of `original`. It goes on reporting, and must not pass for it.
        kept(106, "clone", "NeverReported")
            .key_of("original")
            .harm(&[])
            .heartbeat("NeverReported", "NeverReported"),
        kept(107, "no-agent", "NeverReported")
            .without_agent()
            .heartbeat("NeverReported", "NeverReported"),
        kept(108, "ha-busy", "HABusy").harm(&[&["ha", "fence"], &["hang"]]),
        kept(109, "locked", "Locked").harm(&[&["lock", "backup"], &["hang"]]),
        kept(110, "halted", "NotRunning").harm(&[&["qmp", "paused"]]),
        kept(111, "stopped", "NotRunning").harm(&[&["stop"]]),
        kept(112, "no-reboot", "NoReboot").guest(json!({ "reboot": false })),
        kept(113, "replaced", "IdentityChanged").harm(&[&["recreate"], &["hang"]]),
        // An older ManagedVM of the same machine is in the manifest.
        kept(114, "twin-b", "DuplicateMachine"),
        // Only Defib's agent dies; the guests work on.
        kept(LIVES, "lives", "GuestAgentAnswers")
            .guest(json!({ "guestAgent": "running" }))
            .harm(&[]),
        kept(BUSY, "busy", "GuestIO").harm(&[]),
    ]
}

const OLDER_TWIN: &str = "
apiVersion: defib.dev/v1alpha1
kind: ManagedVM
metadata: {name: twin-a, namespace: vms}
spec: {proxmox: {clusterRef: {name: pve}, vmid: 114}}
";

const GOODBYE: u32 = 115;
const PAUSED: u32 = 116;
const ORIGINAL: u32 = 117;
const CONTROL: u32 = 118;
const LIVES: u32 = 119;
const BUSY: u32 = 120;

#[test]
fn what_must_not_be_reset_is_not() -> Result<()> {
    let cases = all_kept();
    let mut fleet: Vec<FleetVm> = cases.iter().map(|case| case.vm.clone()).collect();
    for (vmid, name) in [
        (GOODBYE, "goodbye"),
        (PAUSED, "paused"),
        (ORIGINAL, "original"),
        (CONTROL, "control"),
    ] {
        let mut vm = FleetVm::new(vmid, name, "pve1");
        // So many at once are a storm, in which only those are reset that are proved to hang.
        vm.guest = json!({ "guestAgent": "running" });
        fleet.push(vm);
    }
    let lab = lab(fleet, OLDER_TWIN)?;
    for case in &cases {
        wait_reason(&lab, &case.vm.name, "HeartbeatFresh", case.before)?;
    }
    for vm in ["goodbye", "paused", "original", "control"] {
        lab.wait_state(vm, &["Healthy"], PATIENCE)?;
    }
    lab.wait_guest_agents(6, PATIENCE)?;

    let expires = moment(40)?;
    patch(
        &lab,
        "paused",
        &json!({ "pauses": [{ "owner": "team-a", "reason": "restore of its disk", "expiresAt": expires }] }),
    )?;
    wait_reason(&lab, "paused", "ResetAllowed", "Paused")?;
    for case in &cases {
        let vmid = case.vm.vmid.to_string();
        for harm in case.harm {
            let control: Vec<&str> = harm[..1]
                .iter()
                .copied()
                .chain([vmid.as_str()])
                .chain(harm[1..].iter().copied())
                .collect();
            lab.pve(&control)?;
        }
    }
    lab.signal_agent(GOODBYE, "TERM")?;
    for vmid in [LIVES, BUSY] {
        lab.signal_agent(vmid, "KILL")?;
    }
    for vmid in [PAUSED, ORIGINAL, CONTROL] {
        lab.pve(&["hang", &vmid.to_string()])?;
    }

    until(PATIENCE, "each VM shows what holds its reset back", || {
        let mut others = Vec::new();
        for case in &cases {
            let vm = lab.get(VMS, &case.vm.name)?;
            let (fresh, gate) = (condition(&vm, "HeartbeatFresh").0, condition(&vm, "ResetAllowed").0);
            if (fresh.as_str(), gate.as_str()) != (case.after, case.gate) {
                others.push(format!(
                    "{} shows {fresh} and {gate} instead of {} and {}",
                    case.vm.name, case.after, case.gate
                ));
            }
        }
        Ok(if others.is_empty() { Ok(()) } else { Err(others.join("; ")) })
    })
    .with_context(|| lab.controller_log(15))?;
    wait_reason(&lab, "goodbye", "ResetAllowed", "Stopping")?;
    let contradiction = wait_reason(&lab, "contradiction", "ResetAllowed", "InvalidPolicy")?;
    ensure!(
        contradiction.contains("the ManagedVM") && contradiction.contains("HealthPolicy \"default\""),
        "it names both halves: {contradiction}"
    );
    lab.wait_state("stopped", &["Stopped"], PATIENCE)?;
    let twin = wait_reason(&lab, "twin-b", "Adopted", "DuplicateMachine")?;
    ensure!(twin.contains("vms/twin-a"), "it names the one that decides: {twin}");

    let untouchable: Vec<u32> = cases.iter().map(|case| case.vm.vmid).chain([GOODBYE]).collect();
    never(2 * TIMEOUT, "a reset of what must not be reset", || {
        let hit: Vec<Value> = lab
            .requests()?
            .into_iter()
            .filter(|row| untouchable.iter().any(|vmid| row["vmid"] == *vmid))
            .collect();
        Ok(if hit.is_empty() {
            Ok(())
        } else {
            Err(format!("Proxmox got {hit:?}\n{}", lab.controller_log(30)))
        })
    })?;

    // Defib was able to reset all that time.
    wait_recovered(&lab, "control", CONTROL, 1)?;
    wait_recovered(&lab, "original", ORIGINAL, 1)?;
    // The pause ends by itself, and the silence is counted from there.
    wait_recovered(&lab, "paused", PAUSED, 1)?;
    let record = records(&lab, "paused")?;
    let decided = record
        .first()
        .and_then(|r| r["status"]["intentTime"].as_str())
        .context("no record of the reset")?;
    // Both are RFC 3339 in UTC, so the first 19 characters sort as the seconds do.
    let earliest = expires.get(..19).unwrap_or_default();
    ensure!(
        decided.get(..19).unwrap_or_default() >= earliest,
        "decided at {decided}, paused until {expires}"
    );
    for vmid in untouchable {
        ensure!(lab.resets_of(vmid)? == 0, "VM {vmid} was reset");
    }
    // What is only observed has a record of what would have been done, and one.
    let observed = records(&lab, "observed")?;
    ensure!(
        observed.len() == 1
            && observed[0]["status"]["outcome"] == "WouldReset"
            && observed[0]["status"]["evidence"]["qmpStatus"] == "running",
        "one record that it would have been reset: {}",
        json!(observed)
    );
    let object = lab.get(VMS, "observed")?;
    ensure!(
        object["status"]["recentResets"].is_null() && object["status"]["episode"]["attempts"] == 0,
        "it costs nothing: {}",
        object["status"]
    );

    // And what was seen is in the record.
    let hung = evidence(&lab, "control")?;
    ensure!(
        hung["guestAgent"] == "Silent" && hung["ioQuietSeconds"].as_u64() >= Some(3),
        "evidence of a hang: {hung}"
    );
    lab.stop()
}

#[test]
fn what_holds_a_reset_by_itself_lets_it_go_again_and_looks_at_the_guest_can_be_opted_out_of() -> Result<()> {
    let mut lives = FleetVm::new(LIVES, "lives", "pve1");
    lives.guest = json!({ "guestAgent": "running" });
    let lab = lab(vec![lives, FleetVm::new(BUSY, "busy", "pve2")], "")?;
    for (vm, vmid, gate) in [("lives", LIVES, "GuestAgentAnswers"), ("busy", BUSY, "GuestIO")] {
        lab.wait_state(vm, &["Healthy"], PATIENCE)?;
        // Somebody works on its node, then the cluster is torn.
        let node = format!("pve{}", vmid - LIVES + 1);
        lab.pve(&["node-maintenance", &node])?;
        lab.signal_agent(vmid, "KILL")?;
        let message = wait_reason(&lab, vm, "ResetAllowed", "NodeMaintenance")?;
        ensure!(message.contains(&node), "it names the node: {message}");
        lab.pve(&["quorum", "lost"])?;
        lab.pve(&["node-maintenance", &node, "--off"])?;
        wait_reason(&lab, vm, "ResetAllowed", "NoQuorum")?;
        lab.pve(&["quorum", "auto"])?;
        wait_reason(&lab, vm, "ResetAllowed", gate)?;
        let none = json!({ "resetPolicy": { "corroborate": { "guestAgent": "Ignore", "maxVetoSeconds": 0 } } });
        patch(&lab, vm, &none)?;
        wait_recovered(&lab, vm, vmid, 1)?;
    }
    let busy = evidence(&lab, "busy")?;
    ensure!(busy["ioQuietSeconds"].as_u64() < Some(3), "evidence of a busy guest: {busy}");
    lab.stop()
}
