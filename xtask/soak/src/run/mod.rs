//! Does what the plan says, and gathers the evidence.

mod actors;
mod gather;

use crate::audit::{IN_A_LOOP, IN_A_STORM};
use crate::evidence::{AUDIT_POLICY, Deed, Did, EndVm, Evidence, Heard};
use crate::fleet::{self, MAX_IN_FLIGHT, MAX_UNHEALTHY, Role, Vm};
use crate::plan::{Plan, plan};
use crate::sample::Sample;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use swarm::{Connections, Counts, Swarm};
use tokio::runtime::Runtime;
use xtask::lab::{Lab, Options, Parts, wait};

/// What a soak is told.
#[derive(Clone, Debug)]
pub struct Soak {
    /// How long things break.
    pub length: Duration,
    /// From which everything follows.
    pub seed: u64,
    /// How many VMs there are.
    pub vms: u32,
}

/// What came of it.
pub struct Outcome {
    /// What the audit looks at.
    pub evidence: Evidence,
    /// What the agents counted.
    pub counts: Counts,
    /// The folder of the lab, with all logs. It goes with this.
    pub folder: tempfile::TempDir,
    /// How long it took to settle after everything was whole again; none when it did not.
    pub settled: Option<Duration>,
}

/// How long all VMs may take to be watched and healthy at first.
const READY: Duration = Duration::from_secs(240);
/// How long everything may take to settle at the end: a search for a task (100 s), a recovery, a time-out of the slow policy, and what a busy machine adds.
const SETTLE: Duration = Duration::from_secs(300);
/// How long a storm may hold VMs back that are healed after it: as long as a burst of the slow policy is young, two of its time-outs, and a bit. Those that it
/// still holds back have no guest agent to prove that they hang.
const STORM: Duration = Duration::from_secs(250);

/// What the actors share.
struct Stage {
    plan: Plan,
    began: Instant,
    deeds: Mutex<Vec<Deed>>,
    samples: Mutex<Vec<Sample>>,
    /// Process id of the controller; 0 while it does not run.
    pid: AtomicU32,
    /// The actors end what they are at, and come to an end.
    over: AtomicBool,
    names: BTreeMap<u32, String>,
    /// VMs that a reset heals.
    healable: BTreeSet<u32>,
    /// With so many of them down nothing more is broken: beyond maxUnhealthy nothing is reset any more, and the rest of the run would show nothing.
    most_down: usize,
    simulator: PathBuf,
}

impl Stage {
    fn did(&self, what: Did) {
        self.did_at(Timestamp::now(), what);
    }

    fn did_at(&self, time: Timestamp, what: Did) {
        self.deeds.lock().unwrap_or_else(PoisonError::into_inner).push(Deed { time, what });
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Sleeps until a time of the plan. False when the run is over before.
    fn wait_until(&self, at: Duration) -> bool {
        loop {
            let left = at.saturating_sub(self.began.elapsed());
            if self.is_over() {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}

type Reports = Arc<Mutex<BTreeMap<u32, Vec<Heard>>>>;

/// Runs a soak. `say` is told each step.
///
/// # Errors
/// When a part of the lab does not start, or cannot be asked at the end.
pub fn run(soak: &Soak, say: &dyn Fn(&str)) -> Result<Outcome> {
    let vms = fleet::fleet(soak.vms);
    let folder = tempfile::Builder::new().prefix("defib-soak-").tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut lab = start_lab(folder.path(), &vms, say)?;
    say(&format!("{} ManagedVMs and their agents", vms.len()));
    let reports: Reports = Arc::default();
    let swarm = start_swarm(&runtime, &lab, &vms, &reports)?;
    let stage = Stage {
        plan: plan(soak.seed, soak.length, &vms),
        began: Instant::now(),
        deeds: Mutex::default(),
        samples: Mutex::default(),
        pid: AtomicU32::new(0),
        over: AtomicBool::new(false),
        names: vms.iter().map(|vm| (vm.lab.vmid, vm.lab.name.clone())).collect(),
        healable: vms.iter().filter(|vm| vm.role == Role::Ordinary).map(|vm| vm.lab.vmid).collect(),
        most_down: fleet::most_down(vms.len()),
        simulator: lab.simulator_state(),
    };
    stage.did(Did::Started);
    lab.start_controller()?;
    stage.pid.store(lab.controller()?.pid(), Ordering::Relaxed);
    all_healthy(&lab, &vms, READY, say).context("the fleet was not healthy at the beginning")?;
    swarm.reset_counts();

    let stage = Stage {
        began: Instant::now(),
        ..stage
    };
    say(&format!(
        "{} s of {} hangs and crashes, {} kills, {} outages of the API server, {} of Proxmox",
        soak.length.as_secs(),
        stage.plan.guests.len(),
        stage.plan.kills.len(),
        stage.plan.api.len(),
        stage.plan.proxmox.len()
    ));
    let broke = actors::play(&mut lab, &stage, &runtime, say);
    let counts = swarm.counts();
    broke?;
    say("everything is whole again; waiting until all resets are over");
    let calm = Instant::now();
    let settled = all_settled(&mut lab, &stage, &runtime, &vms).map(|()| calm.elapsed());
    if let Err(error) = &settled {
        say(&format!("it did not settle: {error:#}"));
    }
    let settled = settled.ok();
    say("gathering the evidence");
    // Before the agents end: a VM of the fast policy is silent a few seconds after its last report, and to read the logs takes longer.
    let end = gather::end(&runtime, &lab)?;
    runtime.block_on(swarm.stop());
    let reports = std::mem::take(&mut *reports.lock().unwrap_or_else(PoisonError::into_inner));
    let evidence = gather::evidence(&lab, &stage, &vms, reports, end)?;
    lab.stop()?;
    Ok(Outcome {
        evidence,
        counts,
        folder,
        settled,
    })
}

fn start_lab(folder: &Path, vms: &[Vm], say: &dyn Fn(&str)) -> Result<Lab> {
    let policies = folder.join("policies.yaml");
    std::fs::write(&policies, fleet::policies())?;
    let options = Options {
        fleet: vms.iter().map(|vm| vm.lab.clone()).collect(),
        manifests: vec![policies],
        controller_args: vec![
            format!("--max-in-flight={MAX_IN_FLIGHT}"),
            format!("--max-unhealthy={MAX_UNHEALTHY}%"),
        ],
        folder: Some(folder.to_path_buf()),
        ..Options::default()
    };
    let parts = Parts {
        control_plane: control_plane::Options {
            audit_log: Some(gather::audit_log(folder)),
            audit_policy: Some(AUDIT_POLICY.into()),
            ..Default::default()
        },
        managed_vms: false,
        controller: false,
        ..Parts::default()
    };
    Lab::start_parts(options, parts, say)
}

fn start_swarm(runtime: &Runtime, lab: &Lab, vms: &[Vm], reports: &Reports) -> Result<Swarm> {
    let fleet: Vec<_> = vms.iter().map(|vm| vm.lab.clone()).collect();
    runtime.block_on(async {
        swarm::lab::create(lab, &fleet).await?;
        let mut agents = swarm::lab::agents(lab, &fleet, Connections::New).await?;
        let role = |vmid: u32| vms.iter().find(|vm| vm.lab.vmid == vmid).map(|vm| vm.role);
        agents.retain(|agent| role(agent.vmid) != Some(Role::Agentless));
        for agent in agents.iter_mut().filter(|agent| role(agent.vmid) == Some(Role::WrongMachine)) {
            agent.machine = Some(swarm::lab::machine(agent.vmid + 1_000_000));
        }
        let reports = Arc::clone(reports);
        let options = swarm::Options {
            // So that a VM is armed within seconds; its policy's period is told with the first answer.
            spread: Duration::from_secs(10),
            on_accepted: Some(Arc::new(move |report| {
                let heard = Heard {
                    sent: report.sent,
                    answered: report.answered,
                };
                let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
                reports.entry(report.vmid).or_default().push(heard);
            })),
            ..swarm::Options::new(lab.port)
        };
        let swarm = Swarm::start(options, agents);
        swarm::follow(lab.simulator_state().join("audit.jsonl"), &swarm);
        Ok(swarm)
    })
}

/// Waits until every VM that can be is healthy.
fn all_healthy(lab: &Lab, vms: &[Vm], patience: Duration, say: &dyn Fn(&str)) -> Result<()> {
    let wanted = vms.iter().filter(|vm| vm.role.may_be_reset()).count();
    let mut told = Instant::now();
    wait::until(patience, &format!("{wanted} VMs are Healthy"), || {
        let states = gather::states(lab)?;
        let healthy = states.iter().filter(|vm| vm.state == "Healthy").count();
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            say(&format!("{healthy} of {wanted} VMs are Healthy"));
        }
        Ok(if healthy >= wanted { Ok(()) } else { Err(format!("{healthy} are")) })
    })
}

/// Waits until nothing is under way, and each VM is healthy or given up.
fn all_settled(lab: &mut Lab, stage: &Stage, runtime: &Runtime, vms: &[Vm]) -> Result<()> {
    let roles: BTreeMap<u32, Role> = vms.iter().map(|vm| (vm.lab.vmid, vm.role)).collect();
    let calm = Instant::now();
    wait::until(SETTLE, "everything settles", || {
        actors::revive(lab.split().1, stage)?;
        let running = gather::running(runtime, lab)?;
        let states = gather::states(lab)?;
        let moving = states.iter().find(|vm| {
            let may = roles.get(&vm.vmid).is_some_and(|role| role.may_be_reset());
            vm.current.is_some() || (may && !rests(vm, running.contains(&vm.vmid), calm.elapsed() > STORM))
        });
        if let Some(vm) = moving {
            return Ok(Err(format!("VM {} is {} (under way: {:?})", vm.vmid, vm.state, vm.current)));
        }
        let open = gather::records(lab)?.into_iter().find(|reset| reset.outcome.is_none());
        Ok(match open {
            Some(reset) => Err(format!("{} has no outcome", reset.name)),
            None => Ok(()),
        })
    })
}

fn rests(vm: &EndVm, runs: bool, storms_are_old: bool) -> bool {
    match vm.state.as_str() {
        _ if vm.held == IN_A_STORM && !runs => storms_are_old,
        _ if vm.held == IN_A_LOOP && !runs => true,
        "Healthy" | IN_A_LOOP => runs,
        "StepsExhausted" | "ResetsExhausted" => !runs,
        _ => false,
    }
}

/// Fails unless the length can hold a kill and a reset.
///
/// # Errors
/// When it is too short.
pub fn check_length(length: Duration) -> Result<()> {
    if length < Duration::from_secs(60) {
        bail!("a soak needs at least 60 s: a time-out between two kills, and a part without any");
    }
    Ok(())
}
