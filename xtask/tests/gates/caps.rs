//! Caps on resets, and what people ask for.

use super::*;
use xtask::lab::wait::never;

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
