//! A machine and the guest in it.

use crate::clock::Time;
use std::time::Duration;
use uuid::Uuid;

/// Bytes that a living guest sends, reads and writes each second.
const MOVED: u64 = 4_096;

/// One machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its number.
    pub vmid: u32,
    /// Node on which it is.
    pub node: String,
    /// SMBIOS UUID.
    pub uuid: Uuid,
    /// State in QEMU.
    pub power: Power,
    /// Since when it is in it.
    pub power_since: Time,
    /// Since when it has that UUID.
    pub uuid_since: Time,
    /// Lock in its configuration.
    pub lock: Option<&'static str>,
    /// State in Proxmox HA.
    pub ha: Option<&'static str>,
    /// `reboot: 0` is not set.
    pub reboot: bool,
    /// Whether it has a QEMU guest agent.
    pub guest_agent: bool,
    /// Its QEMU guest agent runs, where it has one.
    pub guest_agent_runs: bool,
    /// QEMU's monitor hangs.
    pub monitor_hangs: bool,
    /// Another task holds the lock on its configuration file.
    pub file_locked: bool,
    /// The token may not see it.
    pub unseen: bool,
    /// Its SMBIOS UUID is in its configuration.
    pub shows_uuid: bool,
    /// When QEMU started.
    pub started: Time,
    /// The guest.
    pub guest: Guest,
    /// Its boots so far.
    pub boots: u32,
    /// When the present boot began.
    pub booted: Time,
    /// How long it takes from a reset until its agent runs.
    pub boot_takes: Duration,
    /// Resets that do not cure it.
    pub stubborn: u32,
    /// Bytes that were moved up to a moment.
    pub moved: (u64, Time),
}

/// State in QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// `running`.
    Running,
    /// `stopped`.
    Stopped,
    /// `paused`.
    Paused,
    /// `prelaunch`.
    Prelaunch,
    /// `io-error`: its disk did not answer.
    IoError,
    /// `internal-error`.
    InternalError,
    /// `guest-panicked`.
    GuestPanicked,
    /// `suspended`.
    Suspended,
}

impl Power {
    /// Proxmox's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Prelaunch => "prelaunch",
            Self::IoError => "io-error",
            Self::InternalError => "internal-error",
            Self::GuestPanicked => "guest-panicked",
            Self::Suspended => "suspended",
        }
    }
}

/// How a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// It works, its agents too.
    Works,
    /// It boots, and works then.
    Boots,
    /// It is hung: nothing moves.
    Hung,
    /// It works, but Defib's agent in it is dead.
    Mute,
    /// It is livelocked: it swaps, and nothing answers.
    Thrashes,
}

impl Guest {
    fn moves(self) -> bool {
        !matches!(self, Self::Hung)
    }
}

impl Machine {
    /// Whether the guest executes.
    pub fn executes(&self) -> bool {
        self.power == Power::Running
    }

    /// Whether Defib's agent in it can report.
    pub fn reports(&self) -> bool {
        self.executes() && self.guest == Guest::Works
    }

    /// Whether its QEMU guest agent answers.
    pub fn answers(&self) -> bool {
        self.executes() && self.guest_agent_runs && matches!(self.guest, Guest::Works | Guest::Mute)
    }

    /// The id of its present boot.
    pub fn boot_id(&self) -> String {
        format!("{}-boot-{}", self.vmid, self.boots)
    }

    /// Changes the state of machine or guest; what it moves is counted by both.
    pub fn change(&mut self, now: Time, change: impl FnOnce(&mut Self)) {
        self.moved = (self.bytes(now), now);
        let (power, uuid) = (self.power, self.uuid);
        change(self);
        if self.power != power {
            self.power_since = now;
        }
        if self.uuid != uuid {
            self.uuid_since = now;
        }
    }

    /// The guest starts anew.
    pub fn boot(&mut self, now: Time) {
        let stubborn = self.stubborn > 0;
        self.stubborn = self.stubborn.saturating_sub(1);
        self.change(now, |m| {
            m.power = Power::Running;
            m.guest = if stubborn { Guest::Hung } else { Guest::Boots };
            m.boots += 1;
            m.booted = now;
        });
    }

    /// QEMU starts, and the guest in it.
    pub fn start(&mut self, now: Time) {
        self.boot(now);
        self.started = now;
    }

    /// A boot that is over is over.
    pub fn settle(&mut self, now: Time) {
        if self.guest == Guest::Boots && now.since(self.booted) >= self.boot_takes && self.executes() {
            self.change(now, |m| m.guest = Guest::Works);
        }
    }

    /// Bytes sent, read and written since QEMU started.
    pub fn counters(&self, now: Time) -> [u64; 3] {
        let bytes = self.bytes(now);
        [bytes, bytes * 2, bytes * 3]
    }

    fn bytes(&self, now: Time) -> u64 {
        let (bytes, at) = self.moved;
        if self.executes() && self.guest.moves() {
            bytes + now.since(at).as_secs() * MOVED
        } else {
            bytes
        }
    }
}
