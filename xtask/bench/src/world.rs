//! The lab that most benches run in: a real API server, a simulated Proxmox VE and a fleet of any size, with the controller as a process of its own.

use crate::figures;
use crate::load::{self, Machine, Request};
use crate::procfs;
use anyhow::{Context, Result, bail};
use defib::heartbeat::keys;
use defib_api::ManagedVM;
use kube::Api;
use kube::api::ListParams;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use xtask::lab::{FleetVm, Lab, NAMESPACE, Options, Parts, SYSTEM, http_get};

/// What a user has who sets nothing but the mode.
pub const BUILT_IN: &str = "resetPolicy: {mode: Enforce}";

/// Proxmox is read as often as by default, not as often as in a demo.
const POLL: &str = "--poll-seconds=10";

/// How long a fleet of thousands may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(600);

/// A lab with a fleet.
pub struct World {
    /// The lab.
    pub lab: Lab,
    /// The VMs as the simulator has them.
    pub fleet: Vec<FleetVm>,
    /// The same, as their agents know them.
    pub machines: Vec<Machine>,
    /// A client of the API server, as its administrator.
    pub client: kube::Client,
    /// Where the clients of the API server live.
    pub runtime: Runtime,
}

/// CPU time that was used until a moment, by who used it.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    at: Instant,
    controller: Duration,
    control_plane: Duration,
}

/// Cores that were busy between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// With the controller.
    pub controller: f64,
    /// With etcd, kube-apiserver and kube-controller-manager.
    pub control_plane: f64,
}

/// Whether Proxmox has a QEMU guest agent for a VM of the fleet.
pub fn has_guest_agent(vmid: u32) -> bool {
    vmid.is_multiple_of(2)
}

impl World {
    /// A lab with so many VMs, all of one HealthPolicy, and a controller with these arguments.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub fn start(vms: u32, policy: &str, controller_args: &[&str]) -> Result<Self> {
        let mut fleet = swarm::lab::fleet(vms);
        // Every second VM has a QEMU guest agent that does not answer, as in a guest that hangs: it takes 3 s to find out.
        fleet
            .iter_mut()
            .filter(|vm| has_guest_agent(vm.vmid))
            .for_each(|vm| vm.guest["guestAgent"] = "stopped".into());
        say(&format!("a lab with {vms} VMs"));
        let lab = Lab::start_parts(
            Options {
                fleet: fleet.clone(),
                manifests: Vec::new(),
                controller_args: arguments(controller_args),
                ..Options::default()
            },
            Parts {
                managed_vms: false,
                controller: false,
                ..Parts::default()
            },
            &|_| {},
        )?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        lab.apply(&policy_manifest(policy))?;
        let (client, ring) = runtime.block_on(async {
            swarm::lab::create(&lab, &fleet).await?;
            let client = swarm::lab::client(&lab).await?;
            let ring = keys::load(&client, SYSTEM).await?;
            anyhow::Ok((client, ring))
        })?;
        let machines = fleet
            .iter()
            .map(|vm| Machine::new(&vm.name, swarm::lab::machine(vm.vmid), ring.derive(NAMESPACE, &vm.name, 1)))
            .collect();
        let mut world = Self {
            lab,
            fleet,
            machines,
            client,
            runtime,
        };
        world.lab.start_controller()?;
        Ok(world)
    }

    /// Stops the controller and starts it again with these arguments. Returns how long it took from the start of the process until it served.
    ///
    /// # Errors
    /// When it does not stop or start.
    pub fn restart(&mut self, controller_args: &[&str]) -> Result<Duration> {
        self.lab.stop_controller()?;
        self.lab.set_controller_args(arguments(controller_args));
        let began = Instant::now();
        self.lab.start_controller()?;
        Ok(began.elapsed())
    }

    /// The size of the fleet, for people.
    pub fn words(&self) -> String {
        figures::number(self.machines.len() as f64)
    }

    /// Where agents report.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.lab.port))
    }

    /// A request with one report for each VM.
    pub fn singles(&self) -> Vec<Request> {
        let host = self.address().to_string();
        self.machines.iter().map(|machine| load::single(machine, &host)).collect()
    }

    /// The same reports, so many in a request.
    pub fn bulks(&self, size: usize) -> Vec<Request> {
        let host = self.address().to_string();
        self.machines.chunks(size).map(|part| load::bulk(part, &host)).collect()
    }

    /// A metric of the controller; with its labels, as `/metrics` writes it.
    ///
    /// # Errors
    /// When the controller does not answer, or has none of that name.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = http_get(self.lab.metrics_port, "/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .with_context(|| format!("no metric {name}"))?
            .trim()
            .parse()
            .context("a metric that is no number")
    }

    /// Lets every VM report once, and waits until the decider has looked at all of them and everything is published.
    ///
    /// # Errors
    /// When a report is refused, or the fleet does not come to rest.
    pub fn settle(&self) -> Result<()> {
        let began = Instant::now();
        say("the first report of every VM, and what follows from it");
        self.rest(began)?;
        load::keep_alive(self.address(), &mut self.singles(), 16, 1)?;
        self.rest(began)?;
        say(&format!("at rest after {} s", began.elapsed().as_secs()));
        Ok(())
    }

    /// Waits until every VM is healthy and published as that. How long that takes depends on how busy the machine is, so it is looked at and not guessed.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn all_healthy(&self) -> Result<()> {
        let api: Api<ManagedVM> = Api::namespaced(self.client.clone(), NAMESPACE);
        let began = Instant::now();
        loop {
            // From the API server's cache, in one piece: the cheapest list there is.
            let all = self.runtime.block_on(api.list(&ListParams::default().match_any()))?;
            let healthy = |vm: &&ManagedVM| {
                let status = vm.status.as_ref();
                let ready = status.and_then(|s| s.conditions.iter().find(|c| c.type_ == "Ready"));
                ready.is_some_and(|c| c.reason == "Healthy") && status.is_some_and(|s| s.heartbeat.is_some())
            };
            let count = all.items.iter().filter(healthy).count();
            if count == self.machines.len() {
                say(&format!("all are healthy after {} s", began.elapsed().as_secs()));
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                bail!("{count} of {} VMs are healthy after {} s", self.machines.len(), PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_secs(5));
        }
    }

    /// Waits until nothing is left to publish and the decider rests.
    fn rest(&self, began: Instant) -> Result<()> {
        // At rest a fleet of this size is looked at some tens of times a second: each VM once in its time-out.
        let calm = 2.0 * (20.0 + self.machines.len() as f64 / 100.0);
        let mut looks = f64::MAX;
        loop {
            std::thread::sleep(Duration::from_secs(2));
            let (dirty, now) = (self.metric("defib_publisher_dirty_vms")?, self.metric("defib_vm_reconciles_total")?);
            if dirty == 0.0 && now - looks < calm && now > 0.0 {
                return Ok(());
            }
            looks = now;
            if began.elapsed() > PATIENCE {
                bail!(
                    "the fleet did not come to rest in {} s: {dirty} VMs are not published",
                    PATIENCE.as_secs()
                );
            }
        }
    }

    /// Starts simulated agents, with their guests down.
    pub fn swarm(&self, agents: Vec<swarm::AgentSpec>) -> swarm::Swarm {
        let _entered = self.runtime.enter();
        swarm::Swarm::start(swarm::Options::new(self.lab.port), agents)
    }

    /// CPU time that was used so far.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn used(&mut self) -> Result<Used> {
        let controller = self.lab.controller()?.pid();
        let mut control_plane = Duration::ZERO;
        for (_, pid) in self.lab.control_plane.processes() {
            control_plane += procfs::cpu(pid)?;
        }
        Ok(Used {
            at: Instant::now(),
            controller: procfs::cpu(controller)?,
            control_plane,
        })
    }

    /// How busy everybody was since then.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn busy_since(&mut self, then: Used) -> Result<Cores> {
        let now = self.used()?;
        let time = now.at.duration_since(then.at).as_secs_f64();
        let cores = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() / time;
        Ok(Cores {
            controller: cores(now.controller, then.controller),
            control_plane: cores(now.control_plane, then.control_plane),
        })
    }

    /// Stops everything.
    ///
    /// # Errors
    /// When something does not end.
    pub fn stop(self) -> Result<()> {
        self.lab.stop()
    }
}

fn arguments(more: &[&str]) -> Vec<String> {
    std::iter::once(&POLL).chain(more).map(|argument| (*argument).to_owned()).collect()
}

fn policy_manifest(spec: &str) -> String {
    format!("apiVersion: defib.dev/v1alpha1\nkind: HealthPolicy\nmetadata: {{name: default, namespace: {NAMESPACE}}}\nspec: {{{spec}}}\n")
}

/// Tells whoever waits what is going on. Not on standard output: that is the table's.
pub fn say(text: &str) {
    eprintln!("== {text}");
}
