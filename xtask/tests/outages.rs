//! What Defib must bear without resetting anything that lives: its own restarts, an outage of the API server or of the way of the agents, a process that stands
//! still, a crash in the middle of a reset.
//!
//! Each test has a lab of its own: control plane, simulator, real agents, and the controller as a process with the rights of its chart.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};
use xtask::lab::wait::{never, until};
use xtask::lab::{FleetVm, Lab, Options};

/// Silence that the policy of these tests bears.
const TIMEOUT: Duration = Duration::from_secs(8);
/// No test waits for as long when all is well.
const PATIENCE: Duration = Duration::from_secs(90);

const POLICY: &str = "
apiVersion: defib.dev/v1alpha1
kind: HealthPolicy
metadata: {name: default, namespace: vms}
spec:
  heartbeat: {reportSeconds: 1, timeoutSeconds: 8, startupGraceSeconds: 2}
  resetPolicy:
    mode: Enforce
    steps: [{action: Reset, maxAttempts: 2, recoveryDeadlineSeconds: 20}]
    maxResets: 5
    windowSeconds: 3600
    stabilizationSeconds: 2
  budget: {maxUnhealthy: 100%, maxInFlight: 1, stormCooldownSeconds: 3}
";

/// Six VMs that all report, and a controller whose own limits leave the budget to the policy.
fn lab() -> Result<Lab> {
    let fleet: Vec<FleetVm> = (101..=106)
        .map(|id| {
            let mut vm = FleetVm::new(id, &format!("vm-{id}"), &format!("pve{}", id % 3 + 1));
            // Of several that hang at once, only those are reset that are proved to hang.
            vm.guest = json!({ "guestAgent": "running" });
            vm
        })
        .collect();
    let lab = Lab::start(
        Options {
            fleet,
            controller_args: vec!["--max-unhealthy=100%".into()],
            ..Options::default()
        },
        &|_| {},
    )?;
    lab.apply(POLICY)?;
    healthy(&lab, &[101, 102, 103, 104, 105, 106])?;
    lab.wait_guest_agents(6, PATIENCE)?;
    Ok(lab)
}

fn healthy(lab: &Lab, vms: &[u32]) -> Result<()> {
    for vm in vms {
        lab.wait_state(&format!("vm-{vm}"), &["Healthy"], PATIENCE)?;
    }
    Ok(())
}

/// VMIDs of all resets that the simulator received, in order.
fn resets(lab: &Lab) -> Result<Vec<u64>> {
    Ok(lab
        .requests()?
        .iter()
        .filter(|row| row["action"] == "reset")
        .filter_map(|row| row["vmid"].as_u64())
        .collect())
}

/// Fails as soon as anything at all is reset.
fn no_reset(lab: &Lab, during: Duration) -> Result<()> {
    never(during, "a reset", || {
        let seen = resets(lab)?;
        Ok(if seen.is_empty() {
            Ok(())
        } else {
            Err(format!("Proxmox got resets of {seen:?}\n{}", lab.controller_log(30)))
        })
    })
}

#[test]
fn controller_restarted_resets_nothing() -> Result<()> {
    let mut lab = lab()?;
    lab.kill_controller()?;
    sleep(2 * TIMEOUT);
    lab.start_controller()?;
    no_reset(&lab, 2 * TIMEOUT)?;
    healthy(&lab, &[101, 102, 103, 104, 105, 106])?;

    // And it still works: one that falls silent now is reset, once.
    lab.pve(&["hang", "103"])?;
    until(PATIENCE, "vm-103 is reset", || {
        Ok(if resets(&lab)? == [103] {
            Ok(())
        } else {
            Err(format!("resets: {:?}", resets(&lab)?))
        })
    })?;
    healthy(&lab, &[103])?;
    ensure!(resets(&lab)? == [103], "exactly one reset");
    lab.stop()
}

#[test]
fn a_vm_that_died_while_the_controller_was_down_is_reset_after_a_witnessed_timeout() -> Result<()> {
    let mut lab = lab()?;
    lab.stop_controller()?;
    lab.pve(&["hang", "104"])?;
    sleep(2 * TIMEOUT);
    let started = Instant::now();
    lab.start_controller()?;
    until(PATIENCE, "vm-104 is reset", || {
        Ok(if resets(&lab)? == [104] { Ok(()) } else { Err("not yet".into()) })
    })?;
    ensure!(
        started.elapsed() >= TIMEOUT,
        "its silence was counted from the new process's start, not from before"
    );
    healthy(&lab, &[104])?;
    lab.stop()
}

/// A metric of the controller.
fn metric(lab: &Lab, name: &str) -> Result<f64> {
    let text = xtask::lab::http_get(lab.metrics_port, "/metrics")?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).context("no such metric")?;
    Ok(line.trim().parse()?)
}

#[test]
fn heartbeats_wake_no_reconcile() -> Result<()> {
    let lab = lab()?;
    let beats = || metric(&lab, "defib_reports_total{result=\"accepted\"}");
    let looks = || metric(&lab, "defib_vm_reconciles_total");
    let (beats_before, looks_before) = (beats()?, looks()?);
    until(PATIENCE, "200 heartbeats", || {
        let came = beats()? - beats_before;
        Ok(if came >= 200.0 { Ok(()) } else { Err(format!("{came} came")) })
    })?;
    let (came, looked) = (beats()? - beats_before, looks()? - looks_before);
    // One look a VM and time-out is due: 8 beats each.
    ensure!(looked <= came / 3.0, "{looked} looks at {came} heartbeats");
    lab.stop()
}

#[test]
fn frozen_controller_resets_nothing() -> Result<()> {
    let mut lab = lab()?;
    lab.controller()?.freeze();
    sleep(2 * TIMEOUT);
    lab.controller()?.thaw();
    no_reset(&lab, 2 * TIMEOUT)?;
    healthy(&lab, &[101, 102, 103, 104, 105, 106])?;
    lab.stop()
}

#[test]
fn api_server_outage_with_half_cut() -> Result<()> {
    let mut lab = lab()?;
    lab.control_plane.kill_apiserver()?;
    for vm in ["101", "102", "103"] {
        lab.pve(&["hang", vm])?;
    }
    sleep(2 * TIMEOUT);
    ensure!(resets(&lab)?.is_empty(), "nothing is reset while it cannot be journaled");
    let back = Instant::now();
    lab.control_plane.start_apiserver()?;

    let cut = BTreeSet::from([101, 102, 103]);
    let mut in_flight_at_once = 0;
    let mut first = None;
    until(2 * PATIENCE, "the three that were cut are healthy again", || {
        let seen = resets(&lab)?;
        if first.is_none() && !seen.is_empty() {
            first = Some(back.elapsed());
        }
        let flying = lab
            .list("managedvms.defib.dev")?
            .iter()
            .filter(|vm| vm["status"]["currentReset"]["sentTime"].is_string())
            .count();
        in_flight_at_once = in_flight_at_once.max(flying);
        ensure!(seen.iter().all(|vm| cut.contains(vm)), "only those that were cut: {seen:?}");
        let states: Vec<String> = (101..=103).map(|vm| lab.state(&format!("vm-{vm}"))).collect::<Result<_>>()?;
        let done = seen.iter().copied().collect::<BTreeSet<_>>() == cut && states.iter().all(|s| s == "Healthy");
        Ok(if done {
            Ok(())
        } else {
            Err(format!("resets {seen:?}, states {states:?}"))
        })
    })?;
    let first = first.unwrap_or_default();
    ensure!(
        first >= TIMEOUT,
        "the first reset came {first:?} after the API server was back: a healthy observer has not witnessed a whole time-out"
    );
    ensure!(in_flight_at_once <= 1, "{in_flight_at_once} resets at once, the budget is 1");
    ensure!(resets(&lab)?.len() == 3, "one reset each: {:?}", resets(&lab)?);
    lab.stop()
}

#[test]
fn killed_in_the_middle_of_a_reset() -> Result<()> {
    let mut lab = lab()?;
    // The answer to the POST is held back, so that the process dies when the reset is done and nobody was told.
    lab.pve(&[
        "fault",
        "add",
        "--method",
        "POST",
        "--path-contains",
        "status/reset",
        "--kind",
        "delay-after:20000",
        "--count",
        "1",
    ])?;
    lab.pve(&["hang", "105"])?;
    until(PATIENCE, "the reset of vm-105 has reached Proxmox", || {
        let reset = lab.guest_events()?.iter().any(|row| row["vmid"] == 105 && row["event"] == "reset");
        Ok(if reset { Ok(()) } else { Err("not yet".into()) })
    })?;
    lab.kill_controller()?;
    let journal = lab.get("managedvms.defib.dev", "vm-105")?["status"]["currentReset"].clone();
    ensure!(
        journal["upid"].is_null() && journal["name"].is_string(),
        "it died between the POST and its answer: {journal}"
    );
    lab.start_controller()?;
    until(PATIENCE, "the reset has ended", || {
        let outcome = lab
            .list("vmresets")?
            .first()
            .map(|r| r["status"]["outcome"].clone())
            .unwrap_or_default();
        Ok(if outcome.is_string() {
            Ok(())
        } else {
            Err("it is under way".into())
        })
    })?;
    healthy(&lab, &[105])?;
    ensure!(
        lab.resets_of(105)? == 1,
        "the task was found, and the reset not repeated: {} POSTs",
        lab.resets_of(105)?
    );
    let records = lab.list("vmresets")?;
    ensure!(records.len() == 1, "one record: {}", json!(records));
    ensure!(
        records[0]["status"]["outcome"] == "Recovered" && records[0]["status"]["upid"].is_string(),
        "it tells the task and the recovery: {}",
        records[0]["status"]
    );
    lab.stop()
}

#[test]
fn a_whole_fleet_cut_off_at_once_resets_nothing() -> Result<()> {
    // The built-in budget: a fifth. To Proxmox all run; what was cut is the way of their reports.
    let lab = lab()?;
    lab.kubectl(&[
        "patch",
        "hp",
        "default",
        "-n",
        "vms",
        "--type",
        "merge",
        "-p",
        r#"{"spec":{"budget":{"maxUnhealthy":"20%"}}}"#,
    ])?;
    until(PATIENCE, "the policy's budget is taken", || {
        let policy = lab.get("healthpolicy", "default")?;
        let taken = policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
        Ok(if taken { Ok(()) } else { Err("not yet".into()) })
    })?;
    for vm in ["101", "102", "103", "104", "105", "106"] {
        lab.pve(&["hang", vm])?;
    }
    for vm in 101..=106 {
        lab.wait_state(&format!("vm-{vm}"), &["Silent"], PATIENCE)?;
    }
    no_reset(&lab, 2 * TIMEOUT)?;
    let (reason, message) = xtask::lab::condition(&lab.get("managedvms.defib.dev", "vm-101")?, "ResetAllowed");
    ensure!(reason == "MaxUnhealthy" && message.contains("6 of 6"), "{reason}: {message}");
    lab.stop()
}

/// A time-out that begins after the outage was noticed, and nothing that would hold a reset back but the witness: two VMs are no storm, their guest agents are
/// not asked, and what their guests move delays a reset by a second.
const PUBLIC_TIMEOUT: Duration = Duration::from_secs(24);
const PUBLIC_POLICY: &str = "
apiVersion: defib.dev/v1alpha1
kind: HealthPolicy
metadata: {name: default, namespace: vms}
spec:
  heartbeat: {reportSeconds: 2, timeoutSeconds: 24, startupGraceSeconds: 2}
  resetPolicy:
    mode: Enforce
    steps: [{action: Reset, maxAttempts: 2, recoveryDeadlineSeconds: 20}]
    maxResets: 5
    windowSeconds: 3600
    stabilizationSeconds: 2
    corroborate: {guestAgent: Ignore, ioQuietSeconds: 1, maxVetoSeconds: 1}
  budget: {maxUnhealthy: 100%, maxInFlight: 2, stormCooldownSeconds: 3}
";

#[test]
fn while_the_way_of_the_agents_is_broken_nothing_is_reset() -> Result<()> {
    let lab = Lab::start(
        Options {
            fleet: vec![FleetVm::new(101, "vm-101", "pve1"), FleetVm::new(102, "vm-102", "pve2")],
            controller_args: vec!["--max-unhealthy=100%".into()],
            public_url: true,
            ..Options::default()
        },
        &|_| {},
    )?;
    lab.apply(PUBLIC_POLICY)?;
    healthy(&lab, &[101, 102])?;
    let came = || metric(&lab, "defib_public_url_reports_total{result=\"ok\"}");
    until(PATIENCE, "Defib hears itself through the public URL", || {
        Ok(if came()? >= 1.0 { Ok(()) } else { Err("not yet".into()) })
    })?;

    lab.cut_public_url(true)?;
    no_reset(&lab, 2 * PUBLIC_TIMEOUT)?;
    for vm in ["vm-101", "vm-102"] {
        until(PATIENCE, &format!("{vm} says why it is not reset"), || {
            let (reason, message) = xtask::lab::condition(&lab.get("managedvms.defib.dev", vm)?, "ResetAllowed");
            let url = format!("http://127.0.0.1:{}/api/health/report", lab.port);
            Ok(if reason == "ObserverNotServing" && message.contains(&url) {
                Ok(())
            } else {
                Err(format!("{reason}: {message}"))
            })
        })?;
    }
    ensure!(
        metric(&lab, "defib_observer_trouble_total{reason=\"PublicURLFailed\"}")? == 1.0,
        "one outage is one trouble"
    );

    // Of two that fell silent together, one hung meanwhile. Its silence is counted from the end of the outage.
    lab.pve(&["hang", "101"])?;
    let mended = Instant::now();
    lab.cut_public_url(false)?;
    until(2 * PATIENCE, "vm-101 is reset", || {
        let seen = resets(&lab)?;
        Ok(if seen == [101] { Ok(()) } else { Err(format!("resets: {seen:?}")) })
    })?;
    ensure!(
        mended.elapsed() >= PUBLIC_TIMEOUT,
        "it was reset {:?} after the agents could be heard again",
        mended.elapsed()
    );
    healthy(&lab, &[101, 102])?;
    ensure!(resets(&lab)? == [101], "one reset: {:?}", resets(&lab)?);
    lab.stop()
}
