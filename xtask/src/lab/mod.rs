//! A lab: everything that Defib is made of, real, on this machine: control plane, Proxmox simulator with guests that run the real agent, and the controller with
//! the rights of its chart. All of it ends with the lab, however that ends.

mod agents;
mod chart;
mod fleet;
mod kube;
pub mod wait;

pub use fleet::{FleetVm, NAMESPACE, demo_fleet, manifest, simulator_config};

use crate::paths::program;
use anyhow::{Context, Result, bail};
use control_plane::{ControlPlane, Process, leashed, tools};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use wait::until;

/// Namespace in which Defib itself is installed.
pub const SYSTEM: &str = "defib-system";

/// How a lab is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// VMs of the simulator, with their ManagedVMs.
    pub fleet: Vec<FleetVm>,
    /// Manifests that are applied before the VMs' own (policies).
    pub manifests: Vec<PathBuf>,
    /// More arguments of `defib run`.
    pub controller_args: Vec<String>,
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
    controller: Option<Process>,
    kubeconfig: PathBuf,
    /// Port of agents and people.
    pub port: u16,
    /// Port of metrics and probes.
    pub metrics_port: u16,
    options: Options,
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
        let (port, metrics_port) = (free_port()?, free_port()?);
        say("chart: CRDs, ServiceAccount, RBAC (helm install)");
        chart::install(&control_plane, &path)?;
        let kubeconfig = kube::service_account(&control_plane, &path, SYSTEM, "defib")?;
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
            fleet::cluster(&control_plane, &simulator_state)?;
        }
        let mut lab = Self {
            folder,
            control_plane,
            simulator,
            simulator_state,
            controller: None,
            kubeconfig,
            port,
            metrics_port,
            options,
        };
        if parts.controller {
            say("controller: defib run, with the rights of the chart's ServiceAccount");
            lab.start_controller()?;
        }
        Ok(lab)
    }

    /// Starts the controller and waits until it serves.
    ///
    /// # Errors
    /// When it ends, or does not serve in time.
    pub fn start_controller(&mut self) -> Result<()> {
        let mut command = leashed(&program("defib")?);
        command
            .args(["run", "--plain-http", "--identity", "defib-0", "--namespace", SYSTEM])
            .arg(format!("--listen=127.0.0.1:{}", self.port))
            .arg(format!("--metrics-listen=127.0.0.1:{}", self.metrics_port))
            .args(controller_args(&self.options.controller_args))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("RUST_BACKTRACE", "1");
        let log = self.folder.path().join("defib.log");
        let mut controller = Process::start("defib", command, &log)?;
        let port = self.metrics_port;
        controller.wait_ready(Duration::from_secs(60), || match http_get(port, "/readyz") {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
            Ok(answer) => Err(answer.lines().last().unwrap_or_default().to_owned()),
            Err(error) => Err(error.to_string()),
        })?;
        self.controller = Some(controller);
        Ok(())
    }

    /// What the next start of the controller is given, beside what every lab needs.
    pub fn set_controller_args(&mut self, args: Vec<String>) {
        self.options.controller_args = args;
    }

    /// The controller's process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn controller(&mut self) -> Result<&mut Process> {
        self.controller.as_mut().context("the controller does not run")
    }

    /// SIGKILL of the controller.
    ///
    /// # Errors
    /// When it survives.
    pub fn kill_controller(&mut self) -> Result<()> {
        if let Some(mut controller) = self.controller.take() {
            controller.kill()?;
        }
        Ok(())
    }

    /// SIGTERM, as Kubernetes stops a pod.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_controller(&mut self) -> Result<()> {
        if let Some(mut controller) = self.controller.take() {
            controller.stop(Instant::now() + Duration::from_secs(60))?;
        }
        Ok(())
    }

    /// Folder with logs and data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Folder of the simulator's state.
    pub fn simulator_state(&self) -> PathBuf {
        self.simulator_state.clone()
    }

    /// A control of the simulator, as `pve-sim ctl`.
    ///
    /// # Errors
    /// When the simulator refuses it.
    pub fn pve(&self, control: &[&str]) -> Result<String> {
        let mut command = Command::new(program("pve-sim")?);
        command.arg("ctl").arg("--state-dir").arg(self.simulator_state()).args(control);
        output(command)
    }

    /// Write requests that the simulator received, in order, answered or not.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn requests(&self) -> Result<Vec<Value>> {
        rows(&self.pve(&["--output", "json", "audit"])?)
    }

    /// What happened to the simulator's guests, in order.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn guest_events(&self) -> Result<Vec<Value>> {
        rows(&self.pve(&["--output", "json", "events"])?)
    }

    /// How many POSTs of a reset the simulator received for a VM.
    ///
    /// # Errors
    /// When the audit cannot be read.
    pub fn resets_of(&self, vmid: u32) -> Result<usize> {
        Ok(self
            .requests()?
            .iter()
            .filter(|row| row["action"] == "reset" && row["vmid"] == vmid)
            .count())
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

    /// The last lines of the controller's log.
    pub fn controller_log(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("defib.log")).unwrap_or_default();
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

/// The arguments, with the period of the readings of Proxmox that suits a story, where they name no other.
fn controller_args(more: &[String]) -> Vec<String> {
    let story = (!more.iter().any(|arg| arg.starts_with("--poll-seconds"))).then(|| "--poll-seconds=2".to_owned());
    story.into_iter().chain(more.iter().cloned()).collect()
}

fn rows(lines: &str) -> Result<Vec<Value>> {
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
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

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
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
