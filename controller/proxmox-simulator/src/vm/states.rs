//! The words Proxmox VE uses for what a VM is doing.

use crate::text_enum::text_enum;

text_enum! {
    /// A config lock (`lock:` in the VM's configuration): an operation owns the VM.
    Lock {
        /// A backup job runs.
        Backup = "backup",
        /// The VM is the source or the target of a clone.
        Clone = "clone",
        /// The VM is being created or restored.
        Create = "create",
        /// A live migration runs.
        Migrate = "migrate",
        /// A snapshot is being rolled back.
        Rollback = "rollback",
        /// A snapshot is being taken.
        Snapshot = "snapshot",
        /// A snapshot is being deleted.
        SnapshotDelete = "snapshot-delete",
        /// The VM is being suspended to disk.
        Suspending = "suspending",
        /// The VM is suspended to disk.
        Suspended = "suspended",
    }
}

text_enum! {
    /// The run state QEMU reports (`query-status`).
    QmpStatus {
        /// Virtual CPUs execute.
        Running = "running",
        /// Paused by a `stop` command.
        Paused = "paused",
        /// Started or reset without executing: needs a `cont`.
        Prelaunch = "prelaunch",
        /// Paused because a disk write failed.
        IoError = "io-error",
        /// Paused by an error inside QEMU.
        InternalError = "internal-error",
        /// The guest reported a panic.
        GuestPanicked = "guest-panicked",
        /// Suspended to RAM by the guest.
        Suspended = "suspended",
        /// Migrated away, source side.
        Postmigrate = "postmigrate",
        /// The guest powered off, QEMU is still there.
        Shutdown = "shutdown",
    }
}

text_enum! {
    /// The state the HA manager reports for a VM it manages.
    HaState {
        /// Kept running.
        Started = "started",
        /// Kept stopped.
        Stopped = "stopped",
        /// Not touched by HA although configured.
        Ignored = "ignored",
        /// Stop requested, not done yet.
        RequestStop = "request_stop",
        /// Start requested, not done yet.
        RequestStart = "request_start",
        /// Waiting for its node to be fenced.
        Fence = "fence",
        /// Being recovered on another node.
        Recovery = "recovery",
        /// Being live-migrated by HA.
        Migrate = "migrate",
        /// Being stopped, moved and started by HA.
        Relocate = "relocate",
        /// Not acted on while its node restarts.
        Freeze = "freeze",
        /// HA gave up; a person must disable the resource.
        Error = "error",
        /// Newly added, not processed yet.
        Queued = "queued",
        /// Disabled by a person.
        Disabled = "disabled",
    }
}

text_enum! {
    /// Whether a QEMU guest agent is configured, and whether it answers.
    GuestAgent {
        /// Not enabled in the VM's configuration.
        Disabled = "disabled",
        /// Enabled, and answering while the guest executes.
        Running = "running",
        /// Enabled, but the daemon inside the guest is dead.
        Stopped = "stopped",
    }
}

text_enum! {
    /// Which boots of a VM end hung, for resets that succeed without effect.
    Unresponsive {
        /// None: every boot comes up.
        Never = "never",
        /// Those after a reset; a power cycle helps.
        Resets = "resets",
        /// All of them.
        Always = "always",
    }
}

text_enum! {
    /// What the guest operating system is doing, as the simulator knows it (Proxmox VE does not).
    GuestState {
        /// The VM is stopped.
        Off = "off",
        /// Powered on; the command has not started yet.
        Booting = "booting",
        /// Up and executing.
        Running = "running",
        /// Up and executing, but the command ended by itself.
        AgentExited = "agent-exited",
        /// Virtual CPUs are stopped by QEMU.
        Paused = "paused",
        /// Alive for Proxmox VE, frozen inside.
        Hung = "hung",
        /// The guest kernel is dead under a live QEMU.
        Crashed = "crashed",
    }
}

impl GuestState {
    /// Up and executing: resetting it destroys a machine that works.
    pub fn healthy(self) -> bool {
        matches!(self, Self::Running | Self::AgentExited)
    }
}
