//! A reset from its beginning to its end over bad ways, with two controllers of which one decides: watches that break or tell nothing, commits that are slow,
//! answers that are lost, a decider that dies or stands still at the worst moment. All gates are on.
//!
//! Each test has a lab of its own, whose ways to Kubernetes and to Proxmox go through fault proxies, and breaks it in several ways, one after the other. It is
//! judged by what Proxmox was asked and what happened to guests.

mod takeover;
mod watches;
mod writes;

use anyhow::{Context, Result, ensure};
use fault_proxy::{Faults, Proxies, RuleId, Service};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::runtime::Runtime;
use xtask::lab::wait::until;
use xtask::lab::{FleetVm, Lab, Options, Parts, Server, condition};

/// No step takes as long when all is well.
const PATIENCE: Duration = Duration::from_secs(120);

const VMS: &str = "managedvms.defib.dev";
const RESETS: &str = "vmresets.defib.dev";

/// VMs that hang in the course of a test.
const VICTIMS: [u32; 3] = [101, 102, 103];
/// Only Defib's agent in it dies, at the beginning: its QEMU guest agent answers, and nothing may reset it, whatever goes wrong around it.
const LIVES: u32 = 104;
/// VMs that are well all the time.
const BYSTANDERS: [u32; 2] = [105, 106];

const POLICY: &str = "
apiVersion: defib.dev/v1alpha1
kind: HealthPolicy
metadata: {name: default, namespace: vms}
spec:
  heartbeat: {reportSeconds: 1, timeoutSeconds: 6, startupGraceSeconds: 2}
  resetPolicy:
    mode: Enforce
    steps:
    - {action: Reset, maxAttempts: 1, recoveryDeadlineSeconds: 8}
    - {action: PowerCycle, maxAttempts: 1, recoveryDeadlineSeconds: 60}
    maxResets: 5
    windowSeconds: 3600
    stabilizationSeconds: 2
    corroborate: {ioQuietSeconds: 2, guestAgent: Auto, maxVetoSeconds: 900}
  budget: {maxUnhealthy: 70%, maxInFlight: 1, stormCooldownSeconds: 3}
";

fn name(vmid: u32) -> String {
    format!("vm-{vmid}")
}

/// A lab whose ways go through proxies, and what is expected of it in the end.
struct Story {
    lab: Lab,
    faults: Faults,
    /// What Proxmox must have been asked of each VM that hung, in order, and how its resets must have ended.
    expected: BTreeMap<u32, (Vec<&'static str>, Vec<&'static str>)>,
    _proxies: Proxies,
    _runtime: Runtime,
}

impl Story {
    /// Six VMs that report, of which one then stops to, and two controllers of which the first decides.
    fn begin() -> Result<Self> {
        let fleet: Vec<FleetVm> = VICTIMS
            .into_iter()
            .chain([LIVES])
            .chain(BYSTANDERS)
            .map(|vmid| {
                let mut vm = FleetVm::new(vmid, &name(vmid), &format!("pve{}", vmid % 3 + 1));
                vm.guest = json!({ "guestAgent": "running" });
                vm
            })
            .collect();
        let options = Options {
            fleet,
            controller_args: vec!["--max-unhealthy=70%".into()],
            two_controllers: true,
            ..Options::default()
        };
        let parts = Parts {
            controller: false,
            ..Parts::default()
        };
        let lab = Lab::start_parts(options, parts, &|_| {})?;
        lab.apply(POLICY)?;
        let runtime = Runtime::new()?;
        let faults = Faults::default();
        let mut proxies = Proxies::new(runtime.handle().clone(), faults.clone());
        let (url, ca_pem) = proxies.before(Service::Kubernetes, &lab.control_plane.server_url(), lab.control_plane.ca_pem())?;
        lab.reroute_kubernetes(&Server {
            url: &url,
            ca_pem: &ca_pem,
        })?;
        let (endpoints, pve_ca) = lab.proxmox_endpoints()?;
        let ways = endpoints.iter().map(|url| proxies.before(Service::Proxmox, url, &pve_ca));
        let (urls, authorities): (Vec<String>, Vec<String>) = ways.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        lab.reroute_proxmox(&urls, &authorities.concat())?;
        let mut story = Self {
            lab,
            faults,
            expected: BTreeMap::new(),
            _proxies: proxies,
            _runtime: runtime,
        };
        for index in 0..2 {
            story.lab.nth(index)?.start()?;
        }
        for vmid in VICTIMS.into_iter().chain([LIVES]).chain(BYSTANDERS) {
            story.lab.wait_state(&name(vmid), &["Healthy"], PATIENCE)?;
        }
        story.lab.wait_guest_agents(6, PATIENCE)?;
        story.lab.signal_agent(LIVES, "KILL")?;
        story.wait_reason(LIVES, "GuestAgentAnswers")?;
        Ok(story)
    }

    /// Index of the controller that holds the lease.
    fn holder(&self) -> Result<usize> {
        let lease = [
            "get",
            "lease",
            "defib",
            "-n",
            "defib-system",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ];
        let holder = self.lab.kubectl(&lease)?;
        let index = holder.strip_prefix("defib-").and_then(|n| n.parse().ok());
        index.with_context(|| format!("the holder of the lease is {holder:?}"))
    }

    /// Waits until the other controller holds the lease.
    fn wait_takeover(&self, from: usize) -> Result<()> {
        until(PATIENCE, "the other controller decides", || {
            let holder = self.holder()?;
            Ok(if holder == 1 - from {
                Ok(())
            } else {
                Err(format!("defib-{holder} does"))
            })
        })
    }

    /// Waits until the fault of a rule has happened.
    fn wait_fired(&self, rule: RuleId, what: &str) -> Result<()> {
        until(PATIENCE, what, || {
            Ok(if self.faults.fired(rule) > 0 {
                Ok(())
            } else {
                Err("not yet".into())
            })
        })
        .with_context(|| self.logs())
    }

    fn wait_reason(&self, vmid: u32, reason: &str) -> Result<()> {
        until(PATIENCE, &format!("ResetAllowed of {} is {reason}", name(vmid)), || {
            let (now, message) = condition(&self.lab.get(VMS, &name(vmid))?, "ResetAllowed");
            Ok(if now == reason { Ok(()) } else { Err(format!("{now}: {message}")) })
        })
        .with_context(|| self.logs())
    }

    /// A VM hangs, from whose hang a reset does not help: the next step is PowerCycle.
    fn hang_stubborn(&mut self, vmid: u32) -> Result<()> {
        self.lab.pve(&["unresponsive", &vmid.to_string(), "resets"])?;
        self.lab.pve(&["hang", &vmid.to_string()])?;
        self.expect(vmid, &["reset", "stop", "start"], &["NotRecovered", "Recovered"]);
        Ok(())
    }

    /// A VM hangs that a reset cures.
    fn hang(&mut self, vmid: u32) -> Result<()> {
        self.lab.pve(&["unresponsive", &vmid.to_string(), "never"])?;
        self.lab.pve(&["hang", &vmid.to_string()])?;
        self.expect(vmid, &["reset"], &["Recovered"]);
        Ok(())
    }

    fn expect(&mut self, vmid: u32, asked: &[&'static str], outcomes: &[&'static str]) {
        let (all_asked, all_outcomes) = self.expected.entry(vmid).or_default();
        all_asked.extend(asked);
        all_outcomes.extend(outcomes);
    }

    /// What Proxmox was asked of a VM, in order. A start may be asked for as often as it takes (rule 8): one after the other are one.
    fn asked(&self, vmid: u32) -> Result<Vec<String>> {
        let mut asked = self.lab.asked(vmid)?;
        asked.dedup_by(|later, earlier| later == "start" && earlier == "start");
        Ok(asked)
    }

    /// Waits until a VM that hung was cured as expected: Proxmox was asked for just that, it is healthy, and nothing is under way.
    fn wait_cured(&self, vmid: u32) -> Result<()> {
        let wanted = self.expected.get(&vmid).map(|(asked, _)| asked.as_slice()).unwrap_or_default();
        until(PATIENCE, &format!("{} is cured by {wanted:?}", name(vmid)), || {
            let object = self.lab.get(VMS, &name(vmid))?;
            let (state, message) = condition(&object, "Ready");
            let (asked, under_way) = (self.asked(vmid)?, !object["status"]["currentReset"].is_null());
            Ok(if asked == wanted && state == "Healthy" && !under_way {
                Ok(())
            } else {
                Err(format!(
                    "Proxmox was asked for {asked:?}, under way: {under_way}, {state}: {message}"
                ))
            })
        })
        .with_context(|| self.logs())
    }

    /// Judges all that happened, and ends the lab.
    fn end(self) -> Result<()> {
        self.faults.clear();
        until(PATIENCE, "every start that was owed is paid, and every record has its end", || {
            let open: Vec<Value> = self.lab.list(RESETS)?.into_iter().filter(is_open).collect();
            Ok(if open.is_empty() { Ok(()) } else { Err(json!(open).to_string()) })
        })
        .with_context(|| self.logs())?;
        let events = self.lab.guest_events()?;
        let harmed = events.iter().filter(|event| {
            let ended = event["event"] == "reset" || event["event"] == "power-off";
            let lives = event["healthyBefore"] == true || !VICTIMS.iter().any(|victim| event["vmid"] == *victim);
            ended && event["cause"] != "control" && lives
        });
        let harmed: Vec<&Value> = harmed.collect();
        ensure!(harmed.is_empty(), "VMs were reset that lived: {harmed:?}\n{}", self.logs());
        let records = self.lab.list(RESETS)?;
        for vmid in VICTIMS.into_iter().chain([LIVES]).chain(BYSTANDERS) {
            let (wanted, outcomes) = self.expected.get(&vmid).cloned().unwrap_or_default();
            let asked = self.asked(vmid)?;
            ensure!(
                asked == wanted,
                "of VM {vmid} Proxmox was asked for {asked:?} instead of {wanted:?}\n{}",
                self.logs()
            );
            let last = events.iter().rfind(|event| event["vmid"] == vmid);
            ensure!(last.is_none_or(|event| event["after"] != "off"), "VM {vmid} was left off: {last:?}");
            let of_vm = records.iter().filter(|r| r["spec"]["vmRef"]["name"] == name(vmid));
            let mut told: Vec<(String, String)> = of_vm
                .map(|r| (text(&r["status"]["intentTime"]), text(&r["status"]["outcome"])))
                .collect();
            told.sort();
            let told: Vec<&str> = told.iter().map(|(_, outcome)| outcome.as_str()).collect();
            ensure!(
                told == outcomes,
                "the resets of VM {vmid} ended as {told:?} instead of {outcomes:?}: {}",
                json!(records)
            );
            let vm = self.lab.get(VMS, &name(vmid))?;
            let counted = vm["status"]["recentResets"].as_array().map_or(0, Vec::len);
            ensure!(
                counted == outcomes.len(),
                "{counted} resets of VM {vmid} count towards its cap: {}",
                vm["status"]
            );
        }
        self.lab.stop()
    }

    fn logs(&self) -> String {
        let log = |file: &str| {
            let text = std::fs::read_to_string(self.lab.folder().join(file)).unwrap_or_default();
            // kube tells of each watch that was cut.
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains(" kube_client::")).collect();
            lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
        };
        format!("defib-0:\n{}\ndefib-1:\n{}", log("defib.log"), log("defib-1.log"))
    }
}

/// A record without an end, or whose VM is owed a start.
fn is_open(record: &Value) -> bool {
    record["status"]["outcome"].is_null() || record["metadata"]["finalizers"].is_array()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("none").to_owned()
}
