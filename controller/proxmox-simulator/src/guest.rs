//! The guest inside a VM: a real process with its own boot id and procfs.

mod process;
mod reaper;
mod view;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::mpsc;
use uuid::Uuid;

pub(crate) use reaper::Reaper;
pub(crate) use view::GuestView;

use crate::config::{Load, VmConfig};
use crate::vm::GuestState;
use process::{GuestProcess, Launch, reaped};

/// A killed process is reaped within moments; after this long the next boot goes on without that.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// Something that happened to a guest by itself.
#[derive(Debug)]
pub(crate) enum GuestSignal {
    /// The boot delay is over.
    BootDue {
        /// The VM.
        vmid: u32,
        /// Which boot; a later one makes the signal void.
        boot_id: Uuid,
    },
    /// The command ended.
    Exited {
        /// The VM.
        vmid: u32,
        /// In which boot.
        boot_id: Uuid,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Off,
    /// Powered on; `due` says that the boot delay is over.
    Booting {
        due: bool,
    },
    Up,
    AgentExited,
    Crashed,
}

/// The guest of one VM. Methods act at once on the process group; none waits.
#[derive(Debug)]
pub(crate) struct Guest {
    config: VmConfig,
    /// The UUID the guest reads from its firmware.
    machine: Option<Uuid>,
    phase: Phase,
    boot_id: Option<Uuid>,
    hung: bool,
    /// QEMU executes virtual CPUs.
    vcpus: bool,
    shutting_down: bool,
    process: Option<GuestProcess>,
    view: Arc<Mutex<GuestView>>,
    signals: mpsc::Sender<GuestSignal>,
    reaper: Reaper,
}

impl Guest {
    pub(crate) fn new(
        config: VmConfig,
        machine: Option<Uuid>,
        directory: PathBuf,
        signals: mpsc::Sender<GuestSignal>,
        reaper: Reaper,
    ) -> Self {
        let view = GuestView::new(directory, config.cores, config.memory, config.load, !config.command.is_empty());
        Self {
            config,
            machine,
            phase: Phase::Off,
            boot_id: None,
            hung: false,
            vcpus: false,
            shutting_down: false,
            process: None,
            view: Arc::new(Mutex::new(view)),
            signals,
            reaper,
        }
    }

    /// What the guest is doing.
    pub(crate) fn state(&self) -> GuestState {
        match self.phase {
            Phase::Off => GuestState::Off,
            Phase::Crashed => GuestState::Crashed,
            _ if self.hung => GuestState::Hung,
            _ if !self.vcpus => GuestState::Paused,
            Phase::Booting { .. } => GuestState::Booting,
            Phase::Up => GuestState::Running,
            Phase::AgentExited => GuestState::AgentExited,
        }
    }

    /// The boot id of the present boot.
    pub(crate) fn boot_id(&self) -> Option<Uuid> {
        self.boot_id
    }

    /// Process id of the command.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().filter(|process| !process.has_exited()).map(GuestProcess::pid)
    }

    /// Userspace works: a guest agent answers, a power button is heard.
    pub(crate) fn responds(&self) -> bool {
        matches!(self.state(), GuestState::Running | GuestState::AgentExited)
    }

    /// Starts a boot: the old process dies, a new boot id is made, and the command follows after the
    /// boot delay. `vcpus` says whether QEMU executes; `hung` makes the boot get stuck.
    pub(crate) fn boot(&mut self, vcpus: bool, hung: bool) {
        let predecessor = self.process.take().map(|process| process.exit());
        let boot_id = Uuid::new_v4();
        self.boot_id = Some(boot_id);
        self.phase = Phase::Booting { due: false };
        self.hung = hung;
        self.vcpus = vcpus;
        self.shutting_down = false;
        {
            let mut view = self.view();
            if let Err(error) = view.begin_boot(boot_id, self.machine, &self.config.display_name()) {
                tracing::error!(vmid = self.config.vmid, %error, "cannot write the guest's procfs");
            }
            if !self.executing() {
                view.freeze();
            }
        }
        let (vmid, delay, signals) = (self.config.vmid, self.config.boot_delay(), self.signals.clone());
        tokio::spawn(async move {
            if let Some(exit) = predecessor {
                let _ = tokio::time::timeout(REAP_DEADLINE, reaped(exit)).await;
            }
            tokio::time::sleep(delay).await;
            let _ = signals.send(GuestSignal::BootDue { vmid, boot_id }).await;
        });
    }

    /// Applies what happened by itself. Returns whether the guest's state changed.
    pub(crate) fn on_signal(&mut self, signal: &GuestSignal) -> bool {
        match *signal {
            GuestSignal::BootDue { boot_id, .. } if self.boot_id == Some(boot_id) => {
                if self.phase == (Phase::Booting { due: false }) {
                    self.phase = Phase::Booting { due: true };
                    self.start_command_if_due();
                }
                true
            }
            GuestSignal::Exited { boot_id, .. } if self.boot_id == Some(boot_id) && self.phase == Phase::Up => {
                if !self.shutting_down {
                    // Arguments may hold a key: only the program is named.
                    let program = self.config.command.first().map_or("", String::as_str);
                    let vmid = self.config.vmid;
                    tracing::info!(vmid, program, "a guest's command ended by itself: see console.log");
                }
                self.phase = Phase::AgentExited;
                true
            }
            _ => false,
        }
    }

    /// Cuts the power.
    pub(crate) fn power_off(&mut self) {
        self.process = None;
        self.phase = Phase::Off;
        self.boot_id = None;
        self.hung = false;
        self.vcpus = false;
        self.shutting_down = false;
        self.view().end_boot();
    }

    /// Freezes everything inside; QEMU goes on.
    pub(crate) fn hang(&mut self) {
        if self.phase != Phase::Off {
            self.hung = true;
            self.follow_execution();
        }
    }

    /// Undoes [`hang`](Self::hang).
    pub(crate) fn thaw(&mut self) {
        self.hung = false;
        self.follow_execution();
    }

    /// Kills the guest under a live QEMU.
    pub(crate) fn crash(&mut self) {
        if self.phase != Phase::Off {
            self.process = None;
            self.phase = Phase::Crashed;
            self.view().freeze();
        }
    }

    /// QEMU starts or stops executing virtual CPUs.
    pub(crate) fn set_vcpus(&mut self, executing: bool) {
        self.vcpus = executing;
        self.follow_execution();
    }

    /// The power button: the guest ends its processes in order. Ignored by a guest that does not respond.
    pub(crate) fn press_power_button(&mut self) {
        if self.responds() && !self.shutting_down {
            self.shutting_down = true;
            if let Some(process) = &self.process {
                process.signal(Signal::TERM);
            }
        }
    }

    /// Everything inside has ended after the power button.
    pub(crate) fn has_shut_down(&self) -> bool {
        self.shutting_down && self.responds() && self.process.as_ref().is_none_or(GuestProcess::has_exited)
    }

    /// Changes the load the guest shows.
    pub(crate) fn set_load(&mut self, load: Load) {
        self.config.load = load;
        self.view().set_load(load);
    }

    /// CPU and memory use, as fractions of one.
    pub(crate) fn usage(&self) -> (f64, f64) {
        self.view().usage()
    }

    /// The UUID the guest reads from now on, at its next boot.
    pub(crate) fn set_machine(&mut self, machine: Option<Uuid>) {
        self.machine = machine;
    }

    /// The files of the guest, for the task that refreshes them.
    pub(crate) fn shared_view(&self) -> Arc<Mutex<GuestView>> {
        Arc::clone(&self.view)
    }

    /// A handle that waits for the end of the command.
    pub(crate) fn exit(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let exit = self.process.as_ref().map(GuestProcess::exit)?;
        Some(async move {
            let _ = reaped(exit).await;
        })
    }

    fn view(&self) -> MutexGuard<'_, GuestView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn executing(&self) -> bool {
        self.vcpus && !self.hung
    }

    fn follow_execution(&mut self) {
        if matches!(self.phase, Phase::Off | Phase::Crashed) {
            return;
        }
        let executing = self.executing();
        if let Some(process) = &self.process {
            process.signal(if executing { Signal::CONT } else { Signal::STOP });
        }
        if executing {
            self.view().thaw();
            self.start_command_if_due();
        } else {
            self.view().freeze();
        }
    }

    fn start_command_if_due(&mut self) {
        if self.phase != (Phase::Booting { due: true }) || !self.executing() {
            return;
        }
        self.phase = Phase::Up;
        if self.config.command.is_empty() {
            return;
        }
        let (directory, proc_root, sys_root) = {
            let view = self.view();
            (view.directory().to_owned(), view.proc_root(), view.sys_root())
        };
        let launch = Launch {
            command: &self.config.command,
            env: &self.config.env,
            directory: &directory,
            proc_root: &proc_root,
            sys_root: &sys_root,
        };
        let vmid = self.config.vmid;
        match GuestProcess::spawn(&launch, &self.reaper) {
            Ok(process) => {
                if let Some(boot_id) = self.boot_id {
                    let (exit, signals) = (process.exit(), self.signals.clone());
                    tokio::spawn(async move {
                        let _ = reaped(exit).await;
                        let _ = signals.send(GuestSignal::Exited { vmid, boot_id }).await;
                    });
                }
                self.process = Some(process);
            }
            Err(error) => {
                // Arguments may hold a key: only the program is named.
                let program = self.config.command.first().map_or("", String::as_str);
                tracing::error!(vmid, program, %error, "cannot start the guest's command");
                self.phase = Phase::AgentExited;
            }
        }
    }
}
