//! What keeps Defib from resetting a VM that hangs, and what lifts it again: every gate, cap and request, each with a VM of its own in one lab.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xtask::lab::wait::{never, until};
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

/// A signal to the agent in a guest: `TERM`, as its service manager stops it, or `KILL`.
fn signal_agent(lab: &Lab, vmid: u32, signal: &str) -> Result<()> {
    let listed = lab.pve(&["--output", "json", "list"])?;
    let pid = listed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|vm| vm["vmid"] == vmid)
        .and_then(|vm| vm["guestPid"].as_u64())
        .context("the guest runs no agent")?;
    let killed = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status()?;
    ensure!(killed.success(), "SIG{signal} to agent {pid}");
    Ok(())
}

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
    signal_agent(&lab, GOODBYE, "TERM")?;
    for vmid in [LIVES, BUSY] {
        signal_agent(&lab, vmid, "KILL")?;
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

/// What was seen before the reset of a VM.
fn evidence(lab: &Lab, vm: &str) -> Result<Value> {
    Ok(records(lab, vm)?.first().context("no record")?["status"]["evidence"].clone())
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
        signal_agent(&lab, vmid, "KILL")?;
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

/// A person's request, or what pretends to be one.
fn request(name: &str, vm: &str, trigger: &str, not_after: &str) -> String {
    json!({
        "apiVersion": "defib.dev/v1alpha1", "kind": "VMReset",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": { "vmRef": { "name": vm }, "action": "Reset", "trigger": trigger, "notAfter": not_after, "requestedBy": "test" },
    })
    .to_string()
}

fn wait_outcomes(lab: &Lab, vm: &str, wanted: &[&str]) -> Result<()> {
    until(PATIENCE, &format!("the resets of {vm} end as {wanted:?}"), || {
        let seen = outcomes(lab, vm)?;
        Ok(if seen == wanted {
            Ok(())
        } else {
            Err(format!("they are {seen:?}"))
        })
    })
    .with_context(|| lab.controller_log(15))
}

const CAPPED: u32 = 101;
const HOPELESS: u32 = 102;
const ASKED: u32 = 103;
const LOCKED: u32 = 104;
const TWICE: u32 = 105;
const MOVED: u32 = 106;
const DELETED: u32 = 107;

#[test]
fn caps_and_requests() -> Result<()> {
    let names = [
        (CAPPED, "capped"),
        (HOPELESS, "hopeless"),
        (ASKED, "asked"),
        (LOCKED, "locked"),
        (TWICE, "twice"),
        (MOVED, "moved"),
        (DELETED, "deleted"),
    ];
    let mut fleet: Vec<FleetVm> = names.iter().map(|(vmid, name)| FleetVm::new(*vmid, name, "pve1")).collect();
    for vm in &mut fleet {
        // Four hang at once, which is a storm: their guest agents prove it.
        vm.guest = json!({ "guestAgent": "running" });
    }
    if let Some(capped) = fleet.first_mut() {
        capped.spec = json!({ "resetPolicy": { "maxResets": 1 } });
    }
    if let Some(asked) = fleet.iter_mut().find(|vm| vm.vmid == ASKED) {
        asked.guest = json!({ "guestAgent": "running", "load": { "cpuPercent": 90, "memoryPercent": 45 } });
    }
    let lab = lab(fleet, "")?;
    for (_, name) in names {
        lab.wait_state(name, &["Healthy"], PATIENCE)?;
    }
    lab.wait_guest_agents(names.len(), PATIENCE)?;
    let pve = |control: &str, vmid: u32, more: &[&str]| {
        let vmid = vmid.to_string();
        let words: Vec<&str> = [control, &vmid].into_iter().chain(more.iter().copied()).collect();
        lab.pve(&words)
    };

    // Everything is set going at once.
    pve("hang", CAPPED, &[])?;
    pve("unresponsive", HOPELESS, &["always"])?;
    pve("hang", HOPELESS, &[])?;
    pve("migrate", MOVED, &["pve3"])?;
    pve("hang", MOVED, &[])?;
    for vmid in [LOCKED, TWICE, DELETED] {
        pve("lock", vmid, &["backup"])?;
    }
    pve("hang", DELETED, &[])?;
    let soon = moment(600)?;
    lab.apply(&request("from-a-backup", "asked", "Manual", &moment(-3600)?))?;
    lab.apply(&request("too-far-ahead", "asked", "Manual", &moment(20 * 60)?))?;
    lab.apply(&request("waits-for-the-lock", "locked", "Manual", &soon))
        .context("locked")?;
    // The lock holds both back until both are there.
    let both = ["ann", "bob"].map(|who| request(who, "twice", "Manual", &soon));
    lab.apply(&both.join("\n---\n"))?;

    wait_outcomes(&lab, "asked", &["Expired", "Expired"])?;
    // A record made by hand asks for nothing.
    lab.apply(&request("forged", "asked", "Automatic", &soon))?;

    until(PATIENCE, "the request waits for the lock", || {
        let status = lab.get(RESETS, "waits-for-the-lock")?["status"].clone();
        let message = status["message"].as_str().unwrap_or_default().to_owned();
        Ok(if status["state"] == "Pending" && message.contains("Locked") {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })?;
    ensure!(
        lab.resets_of(LOCKED)? == 0 && lab.resets_of(TWICE)? == 0,
        "a locked VM is not reset, whoever asks"
    );
    pve("unlock", LOCKED, &[])?;
    pve("unlock", TWICE, &[])?;

    // Only the lock keeps this one from being reset; then it is nobody's.
    wait_reason(&lab, "deleted", "ResetAllowed", "Locked")?;
    lab.kubectl(&["delete", VMS, "deleted", "-n", NAMESPACE])?;
    pve("unlock", DELETED, &[])?;

    wait_outcomes(&lab, "locked", &["Recovered"])?;
    wait_outcomes(&lab, "twice", &["Recovered", "Superseded"])?;

    wait_recovered(&lab, "moved", MOVED, 1)?;
    let moved = records(&lab, "moved")?;
    ensure!(
        moved.len() == 1 && moved[0]["status"]["node"] == "pve3" && moved[0]["status"]["outcome"] == "Recovered",
        "one reset, where the VM is now: {moved:?}"
    );

    // One reset is allowed; the next hang waits for a person.
    wait_recovered(&lab, "capped", CAPPED, 1)?;
    pve("hang", CAPPED, &[])?;
    lab.wait_state("capped", &["ResetsExhausted"], PATIENCE)?;

    lab.wait_state("hopeless", &["StepsExhausted"], PATIENCE)?;
    ensure!(
        outcomes(&lab, "hopeless")? == ["NotRecovered", "NotRecovered"],
        "each attempt is told: {:?}",
        outcomes(&lab, "hopeless")?
    );

    let counts = || -> Result<Vec<(u32, usize)>> {
        let all = lab.requests()?;
        let of = |vmid: u32| all.iter().filter(|row| row["action"] == "reset" && row["vmid"] == vmid).count();
        Ok(names.iter().map(|(vmid, _)| (*vmid, of(*vmid))).collect())
    };
    let wanted = vec![
        (CAPPED, 1),
        (HOPELESS, 2),
        (ASKED, 0),
        (LOCKED, 1),
        (TWICE, 1),
        (MOVED, 1),
        (DELETED, 0),
    ];
    never(2 * TIMEOUT, "one reset more than allowed, or one less", || {
        let seen = counts()?;
        Ok(if seen == wanted {
            Ok(())
        } else {
            Err(format!("(VMID, resets): {seen:?}, wanted {wanted:?}\n{}", lab.controller_log(30)))
        })
    })?;
    lab.wait_state("hopeless", &["StepsExhausted"], PATIENCE)?;
    ensure!(lab.state("asked")? == "Healthy", "nobody touched it");

    patch(&lab, "capped", &json!({ "resetPolicy": { "forgiveBefore": moment(0)? } }))?;
    wait_recovered(&lab, "capped", CAPPED, 2)?;

    // Opted in, a VM that is heard of is reset for what it uses: once, as its cap is 1, although the new boot is as busy.
    let reset = json!([{ "metric": "CPU", "action": "Reset", "percent": 50, "durationSeconds": 4 }]);
    patch(&lab, "asked", &json!({ "thresholds": reset, "resetPolicy": { "maxResets": 1 } }))?;
    wait_reason(&lab, "asked", "ResetAllowed", "ResetsExhausted")?;
    lab.wait_state("asked", &["ThresholdExceeded"], PATIENCE)?;
    let mut of_asked = records(&lab, "asked")?;
    of_asked.retain(|r| r["spec"]["trigger"] == "Automatic" && r["metadata"]["name"] != "forged");
    ensure!(
        of_asked.len() == 1
            && of_asked[0]["spec"]["reason"] == "CPU above 50 % for 4 s"
            && of_asked[0]["status"]["outcome"] == "Recovered"
            && lab.resets_of(ASKED)? == 1,
        "one reset, and its reason: {of_asked:?}"
    );
    lab.stop()
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
