//! Controls: what a test or a demo does to the cluster behind Proxmox VE's back.

use std::time::Duration;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::audit::{GuestEvent, GuestEventKind, WriteRequest};
use crate::cluster::{Cluster, ClusterError, NodePower, NodeSnapshot, UnknownVm};
use crate::config::Load;
use crate::fault::Fault;
use crate::task::TaskRecord;
use crate::vm::{GuestAgent, HaState, Lock, QmpStatus, Unresponsive, Vm, VmSnapshot};

/// One control. The same for the command line, the socket and the library.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(tag = "command", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Control {
    /// Freeze a guest: its processes stop, QEMU goes on.
    Hang {
        /// The VM.
        vmid: u32,
        /// Keep its disks busy, as a guest does that swaps itself to death.
        #[arg(long)]
        #[serde(default)]
        livelock: bool,
    },
    /// Let a frozen guest go on.
    Thaw {
        /// The VM.
        vmid: u32,
    },
    /// Kill a guest under a live QEMU.
    Crash {
        /// The VM.
        vmid: u32,
    },
    /// Cut a VM's power.
    Stop {
        /// The VM.
        vmid: u32,
    },
    /// Power a VM on.
    Start {
        /// The VM.
        vmid: u32,
    },
    /// Let a guest restart itself: new boot, same QEMU.
    GuestReboot {
        /// The VM.
        vmid: u32,
    },
    /// Set a config lock.
    Lock {
        /// The VM.
        vmid: u32,
        /// backup, clone, create, migrate, rollback, snapshot, snapshot-delete, suspending or suspended.
        lock: Lock,
    },
    /// Remove the config lock.
    Unlock {
        /// The VM.
        vmid: u32,
    },
    /// Move a VM to another node.
    Migrate {
        /// The VM.
        vmid: u32,
        /// The new node.
        node: String,
        /// How long it takes; the VM is locked meanwhile.
        #[arg(long, default_value_t = 0.0)]
        #[serde(default)]
        seconds: f64,
    },
    /// Cut a node's power: its API and its guests are gone.
    NodeDown {
        /// The node.
        node: String,
        /// Only its API is gone.
        #[arg(long)]
        #[serde(default)]
        keep_guests: bool,
    },
    /// Bring a node back.
    NodeUp {
        /// The node.
        node: String,
    },
    /// Put a node into HA's maintenance mode, or take it out.
    NodeMaintenance {
        /// The node.
        node: String,
        /// Out of it.
        #[arg(long)]
        #[serde(default)]
        off: bool,
    },
    /// Set the HA state of a VM.
    Ha {
        /// The VM.
        vmid: u32,
        /// started, stopped, ignored, request_stop, request_start, fence, recovery, migrate, relocate, freeze,
        /// error, queued, disabled, or none.
        #[arg(value_parser = ha_or_none)]
        state: HaSetting,
    },
    /// Let the QEMU monitor of a VM hang.
    MonitorHang {
        /// The VM.
        vmid: u32,
    },
    /// Let the QEMU monitor of a VM answer again.
    MonitorThaw {
        /// The VM.
        vmid: u32,
    },
    /// Set QEMU's run state.
    Qmp {
        /// The VM.
        vmid: u32,
        /// running, paused, prelaunch, io-error, internal-error, guest-panicked, suspended, postmigrate or shutdown.
        status: QmpStatus,
    },
    /// Say which boots of a VM end hung, so that a reset succeeds without effect.
    Unresponsive {
        /// The VM.
        vmid: u32,
        /// never, resets or always.
        boots: Unresponsive,
    },
    /// Say whether the QEMU guest agent answers.
    GuestAgent {
        /// The VM.
        vmid: u32,
        /// disabled, running or stopped.
        state: GuestAgent,
    },
    /// Change the load a guest shows.
    Load {
        /// The VM.
        vmid: u32,
        /// CPU use in percent.
        #[arg(long)]
        cpu: Option<f64>,
        /// Memory use in percent.
        #[arg(long)]
        memory: Option<f64>,
    },
    /// Replace a VM by another with the same id: new identity.
    Recreate {
        /// The VM.
        vmid: u32,
    },
    /// Decide whether the cluster has quorum: lost, present, or auto (by the nodes that are up).
    Quorum {
        /// lost, present or auto.
        state: Quorum,
    },
    /// Make calls fail.
    #[command(subcommand)]
    Fault(FaultControl),
    /// Show nodes, quorum and VMs.
    Status,
    /// Show the VMs.
    List,
    /// Show every write request received.
    Audit,
    /// Show what happened to guests.
    Events,
    /// Show all tasks.
    Tasks,
}

/// Controls of faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Subcommand)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum FaultControl {
    /// Add a rule.
    Add(Fault),
    /// Remove all rules.
    Clear,
    /// Show the rules in force.
    List,
}

crate::text_enum::text_enum! {
    /// Whether the cluster has quorum.
    Quorum {
        /// It has not.
        Lost = "lost",
        /// It has.
        Present = "present",
        /// It has when most nodes are up.
        Auto = "auto",
    }
}

/// An HA state, or none: not managed by HA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HaSetting(pub Option<HaState>);

fn ha_or_none(text: &str) -> Result<HaSetting, String> {
    if text == "none" {
        return Ok(HaSetting(None));
    }
    text.parse().map(|state| HaSetting(Some(state)))
}

/// What a control answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "data", rename_all = "kebab-case")]
pub enum Reply {
    /// It was done; the VM as it is now.
    Vm(Box<VmSnapshot>),
    /// It was done.
    Done,
    /// The whole cluster.
    Status(ClusterSnapshot),
    /// VMs.
    Vms(Vec<VmSnapshot>),
    /// Write requests, in the order of their arrival.
    Audit(Vec<WriteRequest>),
    /// Guest events, oldest first.
    Events(Vec<GuestEvent>),
    /// Tasks, oldest first.
    Tasks(Vec<TaskRecord>),
    /// Fault rules.
    Faults(Vec<Fault>),
}

/// The cluster at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSnapshot {
    /// Its name.
    pub name: String,
    /// Whether it has quorum.
    pub quorate: bool,
    /// Its nodes.
    pub nodes: Vec<NodeSnapshot>,
    /// Its VMs.
    pub vms: Vec<VmSnapshot>,
}

/// Why a control was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ControlError(pub(crate) String);

impl From<ClusterError> for ControlError {
    fn from(error: ClusterError) -> Self {
        Self(error.to_string())
    }
}

impl From<UnknownVm> for ControlError {
    fn from(error: UnknownVm) -> Self {
        Self(error.to_string())
    }
}

fn refused<T>(text: impl Into<String>) -> Result<T, ControlError> {
    Err(ControlError(text.into()))
}

/// What the audit names as the cause.
const CAUSE: &str = "control";

impl Cluster {
    /// Carries out a control. When it returns, the cluster is as the control wants it.
    pub(crate) async fn control(&self, control: Control) -> Result<Reply, ControlError> {
        use GuestEventKind as Event;
        match control {
            Control::Hang { vmid, livelock } => self.running_vm(vmid, Event::Hang, |vm| vm.hang(livelock)),
            Control::Thaw { vmid } => self.running_vm(vmid, Event::Thaw, Vm::thaw),
            Control::Crash { vmid } => self.running_vm(vmid, Event::Crash, Vm::crash),
            Control::Stop { vmid } => self.running_vm(vmid, Event::PowerOff, Vm::power_off),
            Control::Start { vmid } => self.start_vm(vmid),
            Control::GuestReboot { vmid } => self.running_vm(vmid, Event::GuestReboot, Vm::guest_reboot),
            Control::Lock { vmid, lock } => self.set_vm(vmid, |vm| vm.lock = Some(lock)),
            Control::Unlock { vmid } => self.set_vm(vmid, |vm| vm.lock = None),
            Control::Migrate { vmid, node, seconds } => self.migrate_over(vmid, &node, seconds).await,
            Control::NodeDown { node, keep_guests } => {
                let power = if keep_guests {
                    NodePower::Unreachable
                } else {
                    NodePower::PoweredOff
                };
                self.node_down(&node, power).await?;
                Ok(Reply::Done)
            }
            Control::NodeUp { node } => {
                self.node_up(&node).await?;
                Ok(Reply::Done)
            }
            Control::NodeMaintenance { node, off } => {
                let mut state = self.state();
                let found = state.nodes.get_mut(&node);
                found.ok_or_else(|| ClusterError::Node(node.clone()))?.maintenance = !off;
                Ok(Reply::Done)
            }
            Control::Ha { vmid, state } => self.set_vm(vmid, |vm| vm.ha = state.0),
            Control::MonitorHang { vmid } => self.set_vm(vmid, |vm| vm.monitor_hung = true),
            Control::MonitorThaw { vmid } => self.set_vm(vmid, |vm| vm.monitor_hung = false),
            Control::Qmp { vmid, status } => {
                let event = if status == QmpStatus::Running {
                    Event::Resume
                } else {
                    Event::Pause
                };
                self.running_vm(vmid, event, |vm| vm.set_qmp_status(status))
            }
            Control::Unresponsive { vmid, boots } => self.set_vm(vmid, |vm| vm.unresponsive = boots),
            Control::GuestAgent { vmid, state } => self.set_vm(vmid, |vm| vm.guest_agent = state),
            Control::Load { vmid, cpu, memory } => self.set_load(vmid, cpu, memory),
            Control::Recreate { vmid } => self.recreate(vmid),
            Control::Quorum { state } => {
                self.state().quorum = match state {
                    Quorum::Lost => Some(false),
                    Quorum::Present => Some(true),
                    Quorum::Auto => None,
                };
                Ok(Reply::Done)
            }
            Control::Fault(control) => self.control_faults(control),
            Control::Status => Ok(Reply::Status(self.snapshot())),
            Control::List => Ok(Reply::Vms(self.state().vm_snapshots())),
            Control::Audit => Ok(Reply::Audit(self.write_requests())),
            Control::Events => Ok(Reply::Events(self.audit().events())),
            Control::Tasks => Ok(Reply::Tasks(self.tasks().records())),
        }
    }

    /// All write requests, with the outcome of their tasks so far.
    pub(crate) fn write_requests(&self) -> Vec<WriteRequest> {
        let mut requests = self.audit().requests();
        let tasks = self.tasks();
        let ended = tasks.exit_statuses();
        for request in &mut requests {
            request.exitstatus = request
                .upid
                .as_deref()
                .and_then(|upid| ended.get(upid))
                .map(|&status| status.to_owned());
        }
        requests
    }

    pub(crate) fn snapshot(&self) -> ClusterSnapshot {
        let state = self.state();
        ClusterSnapshot {
            name: self.config.cluster_name.clone(),
            quorate: state.is_quorate(),
            nodes: state.node_snapshots(),
            vms: state.vm_snapshots(),
        }
    }

    fn control_faults(&self, control: FaultControl) -> Result<Reply, ControlError> {
        let mut faults = self.faults();
        match control {
            FaultControl::Add(fault) => {
                if !faults.add(fault) {
                    return refused("too many fault rules: clear them first");
                }
            }
            FaultControl::Clear => faults.clear(),
            FaultControl::List => {}
        }
        Ok(Reply::Faults(faults.list()))
    }

    /// Changes a VM without touching its guest.
    fn set_vm(&self, vmid: u32, change: impl FnOnce(&mut Vm)) -> Result<Reply, ControlError> {
        let mut state = self.state();
        let vm = state.vms.get_mut(&vmid).ok_or(UnknownVm(vmid))?;
        change(vm);
        Ok(Reply::Vm(Box::new(vm.snapshot())))
    }

    /// Changes the guest of a VM that runs.
    fn running_vm(&self, vmid: u32, event: GuestEventKind, change: impl FnOnce(&mut Vm)) -> Result<Reply, ControlError> {
        let mut state = self.state();
        let vm = state.vms.get_mut(&vmid).ok_or(UnknownVm(vmid))?;
        if !vm.is_running() {
            return refused(format!("VM {vmid} is stopped"));
        }
        self.change_locked(vm, event, CAUSE, change);
        Ok(Reply::Vm(Box::new(vm.snapshot())))
    }

    fn start_vm(&self, vmid: u32) -> Result<Reply, ControlError> {
        let mut state = self.state();
        let vm = state.vms.get_mut(&vmid).ok_or(UnknownVm(vmid))?;
        if vm.is_running() || vm.config.template {
            let why = if vm.config.template { "a template" } else { "already running" };
            return refused(format!("VM {vmid} is {why}"));
        }
        let pid = self.new_qemu_pid();
        self.change_locked(vm, GuestEventKind::PowerOn, CAUSE, |vm| vm.power_on(pid));
        Ok(Reply::Vm(Box::new(vm.snapshot())))
    }

    fn set_load(&self, vmid: u32, cpu: Option<f64>, memory: Option<f64>) -> Result<Reply, ControlError> {
        if [cpu, memory].into_iter().flatten().any(|percent| !(0.0..=100.0).contains(&percent)) {
            return refused("load percentages go from 0 to 100");
        }
        self.set_vm(vmid, |vm| {
            let before = vm.config.load;
            vm.config.load = Load {
                cpu_percent: cpu.unwrap_or(before.cpu_percent),
                memory_percent: memory.unwrap_or(before.memory_percent),
            };
            vm.guest.set_load(vm.config.load);
        })
    }

    fn recreate(&self, vmid: u32) -> Result<Reply, ControlError> {
        let pid = self.new_qemu_pid();
        self.change(vmid, GuestEventKind::Recreate, CAUSE, |vm| {
            let pid = vm.is_running().then_some(pid);
            vm.recreate(pid);
            Reply::Vm(Box::new(vm.snapshot()))
        })
        .map_err(ControlError::from)
    }

    async fn migrate_over(&self, vmid: u32, node: &str, seconds: f64) -> Result<Reply, ControlError> {
        let Ok(time) = Duration::try_from_secs_f64(seconds) else {
            return refused("--seconds needs a positive number");
        };
        if !time.is_zero() {
            self.set_vm(vmid, |vm| vm.lock = Some(Lock::Migrate))?;
            tokio::time::sleep(time).await;
        }
        self.migrate(vmid, node)?;
        self.set_vm(vmid, |vm| vm.lock = vm.lock.filter(|lock| *lock != Lock::Migrate))
    }
}
