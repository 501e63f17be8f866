//! A lab: everything that Defib is made of, real, on this machine: control plane, Proxmox simulator with guests that run the real agent, and the controller with
//! the rights of its chart. All of it ends with the lab, however that ends.

mod agents;
mod chart;
mod controller;
mod fleet;
mod kube;
mod service;
mod simulator;
pub mod wait;

pub use controller::Controller;
pub use fleet::{FleetVm, NAMESPACE, demo_fleet, manifest, simulator_config};
pub use kube::Server;

use crate::paths::program;
use anyhow::{Context, Result, bail};
use control_plane::{ControlPlane, Process, leashed, tools};
use serde_json::Value;
use service::{Backend, Service};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use wait::until;

/// Namespace in which Defib itself is installed.
pub const SYSTEM: &str = "defib-system";

/// How a lab is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// VMs of the simulator, with their ManagedVMs.
    pub fleet: Vec<FleetVm>,
    /// Manifests that are applied before the VMs' own (policies).
    pub manifests: Vec<PathBuf>,
    /// More arguments of `defib run`.
    pub controller_args: Vec<String>,
    /// Two controllers behind a Service instead of one.
    pub two_controllers: bool,
    /// The one controller has a Service before it too, which can be cut: the public URL of the agents, and of Defib's reports to itself.
    pub public_url: bool,
    /// Folder for logs, configuration and data; temporary by default.
    pub folder: Option<PathBuf>,
}

/// What a lab is made of, for benchmarks and soaks. The default is a whole lab.
#[derive(Clone, Debug)]
pub struct Parts {
    /// How its control plane is started. Its tools are chosen by the lab.
    pub control_plane: control_plane::Options,
    /// Whether the ManagedVMs are applied. `kubectl apply` takes a second for some fifty: thousands are better created by the caller.
    pub managed_vms: bool,
    /// Its Proxmox.
    pub simulator: Simulator,
    /// Whether the controller is started.
    pub controller: bool,
}

/// The Proxmox of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Simulator {
    /// pve-sim as a process.
    Process,
    /// A simulator of the caller, which runs and has this state directory. Its configuration is [`simulator_config`].
    Given(PathBuf),
    /// None, and no ProxmoxCluster.
    None,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            control_plane: control_plane::Options::default(),
            managed_vms: true,
            simulator: Simulator::Process,
            controller: true,
        }
    }
}

/// A running lab.
pub struct Lab {
    folder: Folder,
    /// The control plane.
    pub control_plane: ControlPlane,
    simulator: Option<Process>,
    simulator_state: PathBuf,
    controller: Controller,
    standby: Option<Controller>,
    /// Port of agents and people: the controller's, or that of the Service before two of them.
    pub port: u16,
    /// Port of metrics and probes of the first controller.
    pub metrics_port: u16,
    service: Option<Service>,
}

enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Lab {
    /// Starts everything and waits until it serves. `say` is told each step.
    ///
    /// # Errors
    /// When a part does not start; the message has the end of its log.
    pub fn start(options: Options, say: &dyn Fn(&str)) -> Result<Self> {
        Self::start_parts(options, Parts::default(), say)
    }

    /// As [`start`](Self::start), with a choice of parts.
    ///
    /// # Errors
    /// When a part does not start; the message has the end of its log.
    pub fn start_parts(options: Options, parts: Parts, say: &dyn Fn(&str)) -> Result<Self> {
        let folder = match &options.folder {
            Some(path) => {
                std::fs::create_dir_all(path)?;
                Folder::Kept(path.clone())
            }
            None => Folder::Temporary(tempfile::Builder::new().prefix("defib-lab-").tempdir()?),
        };
        let path = folder.path().to_path_buf();
        say("control plane: etcd, kube-apiserver, kube-controller-manager");
        let control_plane = ControlPlane::start(control_plane::Options {
            tools: Some(tools::ensure()?),
            ..parts.control_plane
        })?;
        let (ports, standby_ports) = (Backend::free()?, Backend::free()?);
        let service = match (options.two_controllers, options.public_url) {
            (true, _) => Some(Service::start(vec![ports, standby_ports])?),
            (false, true) => Some(Service::start(vec![ports])?),
            (false, false) => None,
        };
        let (port, metrics_port) = (service.as_ref().map_or(ports.listen, Service::port), ports.metrics);
        say("chart: CRDs, ServiceAccount, RBAC (helm install)");
        chart::install(&control_plane, &path)?;
        let server = control_plane.server_url();
        let direct = Server {
            url: &server,
            ca_pem: control_plane.ca_pem(),
        };
        let kubeconfig = kube::service_account(&control_plane, &direct, &path, SYSTEM, "defib")?;
        say("manifests: HealthPolicy, ManagedVMs");
        kube::apply_text(
            &control_plane,
            &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"),
        )?;
        for manifest in &options.manifests {
            kube::apply(&control_plane, manifest)?;
        }
        if parts.managed_vms {
            kube::apply_text(&control_plane, &fleet::manifests(&options.fleet)?)?;
        }
        agents::write(&control_plane, &path, &options.fleet, port)?;
        let (simulator, simulator_state) = match &parts.simulator {
            Simulator::Process => {
                say("Proxmox simulator: three nodes, HTTPS, guests that run the real agent");
                (Some(start_simulator(&path, &options.fleet)?), path.join("pve"))
            }
            Simulator::Given(state) => (None, state.clone()),
            Simulator::None => (None, path.join("pve")),
        };
        if parts.simulator != Simulator::None {
            let (urls, ca) = fleet::endpoints(&simulator_state)?;
            fleet::cluster(&control_plane, &urls, &ca)?;
        }
        let public_url = options.public_url.then(|| format!("--public-url=http://127.0.0.1:{port}"));
        let make = |index: usize, ports| Controller {
            identity: format!("defib-{index}"),
            kubeconfig: kubeconfig.clone(),
            ports,
            args: options.controller_args.iter().chain(&public_url).cloned().collect(),
            log: path.join(if index == 0 {
                "defib.log".into()
            } else {
                format!("defib-{index}.log")
            }),
            awaits: if options.two_controllers { "/livez" } else { "/readyz" },
            running: None,
        };
        let controller = make(0, ports);
        let standby = options.two_controllers.then(|| make(1, standby_ports));
        let mut lab = Self {
            control_plane,
            simulator,
            simulator_state,
            controller,
            standby,
            folder,
            port,
            metrics_port,
            service,
        };
        if parts.controller {
            say("controller: defib run, with the rights of the chart's ServiceAccount");
            lab.controller.start()?;
            if let Some(standby) = &mut lab.standby {
                standby.start()?;
            }
        }
        Ok(lab)
    }

    /// Starts the controller and waits until it serves.
    ///
    /// # Errors
    /// When it ends, or does not serve in time.
    pub fn start_controller(&mut self) -> Result<()> {
        self.controller.start()
    }

    /// Cuts the way of the agents to the controller, or mends it.
    ///
    /// # Errors
    /// When the lab has no public URL.
    pub fn cut_public_url(&self, cut: bool) -> Result<()> {
        self.service.as_ref().context("nothing lies before the controller")?.cut(cut);
        Ok(())
    }

    /// What the next start of the controller is given, beside what every lab needs.
    pub fn set_controller_args(&mut self, args: Vec<String>) {
        self.controller.args = args;
    }

    /// The controller's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn controller(&mut self) -> Result<&mut Process> {
        self.controller.process()
    }

    /// One of two controllers.
    ///
    /// # Errors
    /// When the lab has none of that number.
    pub fn nth(&mut self, index: usize) -> Result<&mut Controller> {
        match index {
            0 => Ok(&mut self.controller),
            _ => self.standby.as_mut().context("the lab has one controller"),
        }
    }

    /// SIGKILL of the controller.
    ///
    /// # Errors
    /// When it survives.
    pub fn kill_controller(&mut self) -> Result<()> {
        self.controller.kill()
    }

    /// SIGTERM, as Kubernetes stops a pod; to both, where there are two.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_controller(&mut self) -> Result<()> {
        self.controller.stop()?;
        self.standby.as_mut().map_or(Ok(()), Controller::stop)
    }

    /// Control plane and controller, to be broken side by side by two threads.
    pub fn split(&mut self) -> (&mut ControlPlane, &mut Controller) {
        (&mut self.control_plane, &mut self.controller)
    }

    /// From its next start on, the controller reaches the Kubernetes API by another way.
    ///
    /// # Errors
    /// When its kubeconfig cannot be written.
    pub fn reroute_kubernetes(&self, server: &Server<'_>) -> Result<()> {
        kube::service_account(&self.control_plane, server, self.folder.path(), SYSTEM, "defib").map(|_| ())
    }

    /// From now on, the controller reaches Proxmox by other ways.
    ///
    /// # Errors
    /// When the API server refuses the ProxmoxCluster.
    pub fn reroute_proxmox(&self, urls: &[String], ca_pem: &str) -> Result<()> {
        fleet::cluster(&self.control_plane, urls, ca_pem)
    }

    /// Where the simulator's nodes listen, and the authority of their certificates (PEM).
    ///
    /// # Errors
    /// When the simulator has not written it down.
    pub fn proxmox_endpoints(&self) -> Result<(Vec<String>, String)> {
        fleet::endpoints(&self.simulator_state)
    }

    /// Folder with logs and data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Folder of the simulator's state.
    pub fn simulator_state(&self) -> PathBuf {
        self.simulator_state.clone()
    }

    /// kubectl as the administrator.
    ///
    /// # Errors
    /// When it fails; the message has its words.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        kube::kubectl(&self.control_plane, args, None)
    }

    /// Applies manifests given as text.
    ///
    /// # Errors
    /// When the API server refuses them.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        kube::apply_text(&self.control_plane, manifests)
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let json = self.kubectl(&["get", kind, name, "-n", NAMESPACE, "-o", "json"])?;
        Ok(serde_json::from_str(&json)?)
    }

    /// All objects of a kind.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let json = self.kubectl(&["get", kind, "-n", NAMESPACE, "-o", "json"])?;
        let list: Value = serde_json::from_str(&json)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// The state of a VM: the reason of its condition Ready.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn state(&self, vm: &str) -> Result<String> {
        Ok(condition(&self.get("managedvms.defib.dev", vm)?, "Ready").0)
    }

    /// Waits until a VM has one of these states.
    ///
    /// # Errors
    /// At the deadline, with the state it has.
    pub fn wait_state(&self, vm: &str, states: &[&str], patience: Duration) -> Result<()> {
        until(patience, &format!("{vm} is {}", states.join(" or ")), || {
            let state = self.state(vm)?;
            Ok(if states.contains(&state.as_str()) {
                Ok(())
            } else {
                Err(format!("it is {state}"))
            })
        })
    }

    /// Waits until so many VMs are known to have a QEMU guest agent that answers: only then does its silence prove a hang.
    ///
    /// # Errors
    /// When it takes longer than `patience`.
    pub fn wait_guest_agents(&self, known: usize, patience: Duration) -> Result<()> {
        let line = format!("defib_guest_agents_known{{cluster=\"pve\",namespace=\"{NAMESPACE}\"}} ");
        until(patience, &format!("the guest agents of {known} VMs are known"), || {
            let metrics = http_get(self.metrics_port, "/metrics")?;
            let now = metrics.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or("0").trim().to_owned();
            Ok(if now == known.to_string() {
                Ok(())
            } else {
                Err(format!("{now} are"))
            })
        })
    }

    /// The last lines of the controller's log.
    pub fn controller_log(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.controller.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all.iter()
            .skip(all.len().saturating_sub(lines))
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Stops everything.
    ///
    /// # Errors
    /// When something does not end.
    pub fn stop(mut self) -> Result<()> {
        self.stop_controller()?;
        if let Some(simulator) = &mut self.simulator {
            simulator.stop(Instant::now() + Duration::from_secs(15))?;
        }
        self.control_plane.stop()?;
        Ok(())
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// Reason and message of a condition.
pub fn condition(object: &Value, type_: &str) -> (String, String) {
    let found = object["status"]["conditions"]
        .as_array()
        .and_then(|all| all.iter().find(|c| c["type"] == type_));
    let text = |field: &str| found.and_then(|c| c[field].as_str()).unwrap_or("none").to_owned();
    (text("reason"), text("message"))
}

fn start_simulator(folder: &Path, vms: &[FleetVm]) -> Result<Process> {
    let config = folder.join("pve.yaml");
    std::fs::write(&config, simulator_config(vms, folder)?)?;
    let state = folder.join("pve");
    let mut command = leashed(&program("pve-sim")?);
    command.arg("serve").arg("--config").arg(&config).arg("--state-dir").arg(&state);
    let mut simulator = Process::start("pve-sim", command, &folder.join("pve-sim.log"))?;
    let endpoints = state.join("endpoints.json");
    simulator.wait_ready(Duration::from_secs(30), || {
        if endpoints.is_file() {
            Ok(())
        } else {
            Err("no endpoints yet".into())
        }
    })?;
    Ok(simulator)
}

/// A plain GET on loopback; the whole answer as text.
///
/// # Errors
/// When nobody answers in time.
pub fn http_get(port: u16, path: &str) -> Result<String> {
    use std::io::{Read, Write};
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Runs a command to its end; its standard output, or its words as the error.
fn output(mut command: Command) -> Result<String> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("cannot run {shown}"))?;
    if !out.status.success() {
        bail!("{shown} failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
