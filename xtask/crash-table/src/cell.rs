//! A lab with proxies before Kubernetes and Proxmox, in which stories are played one after the other.

use crate::judge::{Ending, judge, state};
use crate::story::{BYSTANDER, BYSTANDER_ID, Point, VICTIM, VICTIM_ID, is_write, label};
use anyhow::{Context, Result, bail};
use defib_api::{ManagedVM, VMReset};
use fault_proxy::{Faults, Proxies, Service};
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use pve_sim::{GuestEvent, WriteRequest};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use xtask::lab::wait::until;
use xtask::lab::{FleetVm, Lab, NAMESPACE, Options, Server};

/// Silence that the policy bears. Twice what a loaded machine of two cores has been seen to delay an agent by.
const TIMEOUT: Duration = Duration::from_secs(6);
/// How long a stopped process stands still: far longer than an intent lives (10 s), the lease is held (15 s), and Proxmox keeps an idle connection (5 s).
const STANDSTILL: Duration = Duration::from_secs(60);
/// No step takes as long when all is well.
const PATIENCE: Duration = Duration::from_secs(90);
/// Longest story: an answer that was lost is searched for 100 s, an intent of another process is left alone for 60 s, and a recovery may take 20 s.
const STORY: Duration = Duration::from_secs(300);
/// The end is the end when nothing has changed for so long.
const SETTLED: Duration = Duration::from_secs(3);

const POLICY: &str = "
apiVersion: defib.dev/v1alpha1
kind: HealthPolicy
metadata: {name: default, namespace: vms}
spec:
  heartbeat: {reportSeconds: 1, timeoutSeconds: 6, startupGraceSeconds: 2}
  resetPolicy:
    mode: Enforce
    steps: [{action: ACTION, maxAttempts: 1, recoveryDeadlineSeconds: 20}]
    maxResets: 5
    windowSeconds: 3600
    stabilizationSeconds: 2
  budget: {maxUnhealthy: 100%, maxInFlight: 1}
";

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it was interfered; none for the story itself.
    pub point: Option<Point>,
    /// Whether the write came at all.
    pub met: bool,
    /// How it ended.
    pub outcome: &'static str,
    /// What is wrong with that.
    pub wrong: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// The writes of the story, in order.
    pub writes: Vec<String>,
}

/// A lab with proxies.
pub struct Cell {
    lab: Lab,
    faults: Faults,
    _proxies: Proxies,
    runtime: Handle,
    vms: Api<ManagedVM>,
    resets: Api<VMReset>,
    two: bool,
}

impl Cell {
    /// Starts one. It takes half a minute.
    ///
    /// # Errors
    /// When a part does not start.
    pub fn start(runtime: Handle, two: bool, power_cycle: bool) -> Result<Self> {
        let fleet = vec![
            FleetVm::new(VICTIM_ID, VICTIM, "pve1"),
            FleetVm::new(BYSTANDER_ID, BYSTANDER, "pve2"),
        ];
        let options = Options {
            fleet,
            controller_args: vec!["--max-unhealthy=100%".into()],
            two_controllers: two,
            ..Options::default()
        };
        let mut lab = Lab::start(options, &|_| {})?;
        let faults = Faults::default();
        let mut proxies = Proxies::new(runtime.clone(), faults.clone());
        let (url, ca) = proxies.before(Service::Kubernetes, &lab.control_plane.server_url(), lab.control_plane.ca_pem())?;
        lab.reroute_kubernetes(&Server { url: &url, ca_pem: &ca })?;
        let (endpoints, pve_ca) = lab.proxmox_endpoints()?;
        let pairs = endpoints
            .iter()
            .map(|url| proxies.before(Service::Proxmox, url, &pve_ca))
            .collect::<Result<Vec<_>, _>>()?;
        let (urls, authorities): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        lab.reroute_proxmox(&urls, &authorities.concat())?;
        let action = if power_cycle { "PowerCycle" } else { "Reset" };
        lab.apply(&POLICY.replace("ACTION", action))?;
        lab.stop_controller()?;
        let client = runtime.block_on(client(lab.control_plane.kubeconfig_yaml()))?;
        let mut cell = Self {
            lab,
            faults,
            _proxies: proxies,
            runtime,
            vms: Api::namespaced(client.clone(), NAMESPACE),
            resets: Api::namespaced(client, NAMESPACE),
            two,
        };
        cell.start_controllers()?;
        Ok(cell)
    }

    fn controllers(&self) -> usize {
        if self.two { 2 } else { 1 }
    }

    /// Starts the controllers that do not run.
    fn start_controllers(&mut self) -> Result<()> {
        for index in 0..self.controllers() {
            if self.lab.nth(index)?.process().is_err() {
                self.lab.nth(index)?.start()?;
            }
        }
        Ok(())
    }

    /// The controller that decides, by the Lease.
    fn holder(&mut self) -> Result<usize> {
        if !self.two {
            return Ok(0);
        }
        let lab = &self.lab;
        until(PATIENCE, "one of the controllers holds the lease", || {
            let holder = lab.kubectl(&[
                "get",
                "lease",
                "defib",
                "-n",
                "defib-system",
                "-o",
                "jsonpath={.spec.holderIdentity}",
            ])?;
            Ok(match holder.strip_prefix("defib-").and_then(|n| n.parse().ok()) {
                Some(index) => Ok(index),
                None => Err(format!("the holder is {holder:?}")),
            })
        })
    }

    /// Plays the story once.
    ///
    /// # Errors
    /// When it could not be played; one that ended wrongly is a row that says so.
    pub fn play(&mut self, point: Option<Point>) -> Result<Row> {
        self.prepare()?;
        let (requests_before, events_before) = (self.lab.requests()?.len(), self.lab.guest_events()?.len());
        let holder = self.holder()?;
        let pid = self.lab.nth(holder)?.process()?.pid();
        self.faults.target(pid);
        let first = self.faults.newest();
        let rule = point.as_ref().map(|p| self.faults.add(p.rule()));
        let began = Instant::now();
        self.lab.pve(&["hang", &VICTIM_ID.to_string()])?;

        let mut quiet = None;
        let mut last: Option<(String, Instant)> = None;
        let mut interfered = false;
        loop {
            if !interfered
                && let Some((point, rule)) = point.as_ref().zip(rule)
                && self.faults.fired(rule) > 0
            {
                interfered = true;
                quiet = self.after(point, holder)?;
            }
            let (victim, records) = self.runtime.block_on(async {
                let victim = self.vms.get(VICTIM).await?;
                let records = self.resets.list(&ListParams::default()).await?;
                Ok::<_, kube::Error>((victim, records.items))
            })?;
            let shown = serde_json::to_string(&(&victim.status.as_ref().map(|s| (&s.current_reset, &s.conditions)), &records))?;
            match &last {
                Some((before, since)) if *before == shown => {
                    if over(&victim, &records) && since.elapsed() >= SETTLED {
                        break;
                    }
                }
                _ => last = Some((shown, Instant::now())),
            }
            if began.elapsed() > STORY {
                break;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        self.faults.clear();

        let writes: Vec<String> = self
            .faults
            .record()
            .iter()
            .filter(|e| e.number > first && is_write(&e.request))
            .map(|e| label(&e.request))
            .collect();
        let ending = Ending {
            requests: typed::<WriteRequest>(self.lab.requests()?, requests_before)?,
            events: typed::<GuestEvent>(self.lab.guest_events()?, events_before)?,
            records: self.runtime.block_on(self.resets.list(&ListParams::default()))?.items,
            victim: self.runtime.block_on(self.vms.get_opt(VICTIM))?,
            bystander: self.runtime.block_on(self.vms.get_opt(BYSTANDER))?,
            quiet,
        };
        let (outcome, mut wrong) = judge(&ending);
        if began.elapsed() > STORY {
            wrong.push(format!("it did not end in {} s", STORY.as_secs()));
        }
        Ok(Row {
            point,
            met: interfered,
            outcome,
            wrong,
            took: began.elapsed(),
            writes,
        })
    }

    /// What follows once the harm is done. For a process that stood still: from when until when nothing may be sent.
    fn after(&mut self, point: &Point, holder: usize) -> Result<Option<(Timestamp, Timestamp)>> {
        match point.harm {
            crate::story::Harm::Kill => {
                self.lab.nth(holder)?.kill()?;
                // The other of two takes over; the one that died comes back for the next story.
                if !self.two {
                    self.lab.nth(holder)?.start()?;
                }
                Ok(None)
            }
            harm if harm.stops() => {
                std::thread::sleep(STANDSTILL);
                let woke = Timestamp::now();
                self.lab.nth(holder)?.process()?.thaw();
                self.faults.release();
                let listens = SignedDuration::try_from(TIMEOUT)?;
                // Of two, the other may have taken over, and resets by what it has itself witnessed.
                Ok((!self.two).then(|| (woke, woke + listens)))
            }
            _ => Ok(None),
        }
    }

    /// Makes both VMs healthy, the victim anew: with no history, and after a boot of its own if the last story left it hanging.
    fn prepare(&mut self) -> Result<()> {
        self.faults.clear();
        for index in 0..self.controllers() {
            if let Ok(process) = self.lab.nth(index)?.process() {
                process.thaw();
            }
        }
        self.start_controllers()?;
        let victim = VICTIM_ID.to_string();
        self.runtime.block_on(async {
            self.vms.delete(VICTIM, &DeleteParams::default()).await?;
            self.resets
                .delete_collection(&DeleteParams::default(), &ListParams::default())
                .await
        })?;
        self.lab.pve(&["stop", &victim])?;
        self.lab.pve(&["start", &victim])?;
        let object = json!({
            "apiVersion": "defib.dev/v1alpha1", "kind": "ManagedVM", "metadata": { "name": VICTIM, "namespace": NAMESPACE },
            "spec": { "proxmox": { "clusterRef": { "name": "pve" }, "vmid": VICTIM_ID } },
        });
        let (runtime, vms, resets) = (&self.runtime, &self.vms, &self.resets);
        until(PATIENCE, "the ManagedVM is made anew", || {
            let made = runtime.block_on(vms.create(&Default::default(), &serde_json::from_value(object.clone())?));
            Ok(made.map_err(|error| error.to_string()))
        })?;
        until(PATIENCE, "both VMs are healthy, and no VMReset is left", || {
            let (first, second, records) = runtime.block_on(async {
                Ok::<_, kube::Error>((
                    vms.get(VICTIM).await?,
                    vms.get(BYSTANDER).await?,
                    resets.list(&ListParams::default()).await?.items.len(),
                ))
            })?;
            let states = (state(Some(&first)), state(Some(&second)));
            let well = states.0 == "Healthy" && states.1 == "Healthy" && records == 0;
            Ok(if well {
                Ok(())
            } else {
                Err(format!("they are {} and {}, {records} VMResets are left", states.0, states.1))
            })
        })
        .with_context(|| self.lab.controller_log(20))
    }

    /// The end of the controller's log, for a row that went wrong.
    pub fn log(&self) -> String {
        self.lab.controller_log(60)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a process does not end.
    pub fn stop(self) -> Result<()> {
        self.lab.stop()
    }
}

/// Nothing is under way, and the VM is well or given up.
fn over(victim: &ManagedVM, records: &[VMReset]) -> bool {
    let status = victim.status.as_ref();
    // A finalizer: a start is owed.
    let ended = |r: &VMReset| r.status.as_ref().is_some_and(|s| s.outcome.is_some()) && r.metadata.finalizers.is_none();
    !records.is_empty()
        && records.iter().all(ended)
        && status.is_some_and(|s| s.current_reset.is_none())
        && matches!(state(Some(victim)).as_str(), "Healthy" | "StepsExhausted" | "ResetsExhausted")
}

fn typed<T: serde::de::DeserializeOwned>(rows: Vec<serde_json::Value>, skip: usize) -> Result<Vec<T>> {
    let rows = rows.into_iter().skip(skip);
    rows.map(|row| Ok(serde_json::from_value(row)?)).collect()
}

async fn client(kubeconfig: &str) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(Kubeconfig::from_yaml(kubeconfig)?, &KubeConfigOptions::default()).await?;
    match Client::try_from(config) {
        Ok(client) => Ok(client),
        Err(error) => bail!("cannot reach the control plane: {error}"),
    }
}
