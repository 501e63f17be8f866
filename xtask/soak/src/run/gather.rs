//! Reads the logs, and how everything stands.

use super::Stage;
use crate::evidence::{End, EndReset, EndVm, Evidence, Heard, Vm as Known, end_reset, end_vm, read_simulator, read_write};
use crate::fleet::{self, MAX_IN_FLIGHT, MAX_UNHEALTHY, Vm};
use anyhow::{Context, Result, bail};
use pve_sim::{Control, GuestState, Reply};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use tokio::runtime::Runtime;
use xtask::lab::Lab;

/// Where the API server logs what it is asked.
pub fn audit_log(folder: &Path) -> PathBuf {
    folder.join("kube-audit.jsonl")
}

/// The ManagedVMs now.
pub fn states(lab: &Lab) -> Result<Vec<EndVm>> {
    Ok(lab.list("managedvms.defib.dev")?.iter().map(end_vm).collect())
}

/// The VMResets now.
pub fn records(lab: &Lab) -> Result<Vec<EndReset>> {
    Ok(lab.list("vmresets.defib.dev")?.iter().map(end_reset).collect())
}

/// VMIDs whose guests run now.
pub fn running(runtime: &Runtime, lab: &Lab) -> Result<Vec<u32>> {
    match runtime.block_on(pve_sim::send(&lab.simulator_state(), &Control::List))? {
        Reply::Vms(vms) => Ok(vms.iter().filter(|vm| vm.guest == GuestState::Running).map(|vm| vm.vmid).collect()),
        other => bail!("the simulator answered {other:?}"),
    }
}

/// How everything stands now.
pub fn end(runtime: &Runtime, lab: &Lab) -> Result<End> {
    Ok(End {
        vms: states(lab)?,
        resets: records(lab)?,
        running: running(runtime, lab)?,
    })
}

/// What the logs tell, with how everything stood at the end.
pub fn evidence(lab: &Lab, stage: &Stage, vms: &[Vm], mut heard: BTreeMap<u32, Vec<Heard>>, end: End) -> Result<Evidence> {
    let mut evidence = Evidence {
        policies: fleet::limits(),
        max_in_flight: MAX_IN_FLIGHT,
        max_unhealthy: MAX_UNHEALTHY,
        ..Evidence::default()
    };
    for vm in vms {
        let known = Known {
            name: vm.lab.name.clone(),
            policy: vm.policy.to_owned(),
            role: vm.role,
        };
        evidence.vms.insert(vm.lab.vmid, known);
    }
    let text = std::fs::read_to_string(lab.simulator_state().join("audit.jsonl"))?;
    (evidence.posts, evidence.guests) = read_simulator(&text).context("cannot read the simulator's audit log")?;
    unanswered(lab, &mut evidence)?;
    for line in BufReader::new(File::open(audit_log(lab.folder()))?).lines() {
        evidence.writes.extend(read_write(&line?));
    }
    evidence.writes.sort_by_key(|write| write.done);
    for reports in heard.values_mut() {
        reports.sort_by_key(|report| report.sent);
    }
    evidence.heard = heard;
    evidence.deeds = std::mem::take(&mut *stage.deeds.lock().unwrap_or_else(PoisonError::into_inner));
    evidence.deeds.sort_by_key(|deed| deed.time);
    evidence.samples = std::mem::take(&mut *stage.samples.lock().unwrap_or_else(PoisonError::into_inner));
    evidence.end = end;
    let log = File::open(lab.folder().join("defib.log"))?;
    for line in BufReader::new(log).lines().map_while(Result::ok) {
        if line.contains("panicked at") {
            evidence.panics.push(line);
        }
    }
    Ok(evidence)
}

/// Requests that were never answered are not in the file, but the simulator remembers the newest ones.
fn unanswered(lab: &Lab, evidence: &mut Evidence) -> Result<()> {
    for row in lab.requests()? {
        let request: pve_sim::WriteRequest = serde_json::from_value(row)?;
        if request.action == "reset" && !evidence.posts.iter().any(|post| post.sequence == request.sequence) {
            evidence.posts.push(request);
        }
    }
    evidence.posts.sort_by_key(|post| post.sequence);
    Ok(())
}
