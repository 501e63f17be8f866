//! What can happen in a world.

use crate::proxmox::{Power, Trouble};
use crate::weather::{ApiTrouble, WatchTrouble};
use defib_api::{IntOrPercent, ResetAction};
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Something that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The guest hangs; so many resets do not cure it.
    Hang(usize, u32),
    /// Defib's agent dies; the guest works.
    Mute(usize),
    /// The agent runs again.
    Unmute(usize),
    /// The guest swaps, and nothing answers.
    Thrash(usize),
    /// The agent says goodbye.
    Goodbye(usize),
    /// The guest reboots by itself.
    GuestReboot(usize),
    /// Somebody stops it in Proxmox.
    PowerOff(usize),
    /// Somebody starts it.
    PowerOn(usize),
    /// Somebody pauses it in Proxmox, or lets it go on.
    Freeze(usize, bool),
    /// It is locked, or unlocked.
    Lock(usize, Option<&'static str>),
    /// HA is at work on it, or not.
    Ha(usize, Option<&'static str>),
    /// QEMU's monitor hangs, or not.
    Monitor(usize, bool),
    /// `reboot: 0`, or not.
    Reboot(usize, bool),
    /// It is on another node.
    Move(usize),
    /// Another machine has its VMID.
    Reuse(usize),
    /// A node goes down or comes up.
    Node(&'static str, bool),
    /// No report gets through, or they do again.
    Cut(bool),
    /// A person pauses a ManagedVM, or takes that back.
    PauseVm(usize, bool),
    /// The same with a policy.
    PausePolicy(usize, bool),
    /// The same with the ProxmoxCluster.
    PauseCluster(bool),
    /// A policy is set to Observe, or to Enforce.
    Observe(usize, bool),
    /// A person asks for a reset.
    Request(usize, ResetAction),
    /// A ManagedVM is deleted, and made again.
    Delete(usize, bool),
    /// Proxmox has trouble, or none.
    Proxmox(Option<Trouble>),
    /// The API server has.
    Api(Option<ApiTrouble>),
    /// Watches have.
    Watch(Option<WatchTrouble>),
    /// The past is forgotten: watches begin anew.
    Compact,
    /// A controller dies now.
    Crash(usize),
    /// It dies at its write after so many more: before or after that is carried out.
    CrashAt(usize, u32, bool),
    /// It is asked to end, and a new one is started.
    Restart(usize),
    /// The wall clock of a controller's machine is so many milliseconds wrong from now on.
    Skew(usize, i64),
    /// All trouble is over.
    Calm,
    /// State in QEMU.
    Qemu(usize, Power),
    /// Another task holds the file lock of the machine, or not.
    FileLock(usize, bool),
    /// Its QEMU guest agent dies, or is started.
    GuestAgent(usize, bool),
    /// It is destroyed in Proxmox.
    Vanish(usize),
    /// The token may not see it, or may again.
    Unseen(usize, bool),
    /// Its SMBIOS UUID is taken out of its configuration, or put in again.
    HidesUuid(usize, bool),
    /// No report of this machine gets through, or they do again.
    CutOff(usize, bool),
    /// Its agent reports something else from now on.
    Speaks(usize, Speech),
    /// Its agent reports now.
    Report(usize),
    /// A node is in maintenance, or not.
    Maintenance(&'static str, bool),
    /// The cluster has quorum, or not.
    Quorum(bool),
    /// A node is listed as offline though it answers, or not any more.
    ListedOffline(&'static str, bool),
    /// Defib runs in this machine from its next start on, or in none that Proxmox has.
    RunsIn(Option<usize>),
    /// Somebody declares an object, or changes it.
    Declare(Object),
    /// Somebody deletes an object.
    Remove(&'static str, String),
    /// Somebody makes a VMReset.
    MakeReset(Object),
    /// Reports of a controller to itself fail, or succeed again.
    Deaf(bool),
    /// The receiver turns a report away.
    Shed,
    /// Somebody else holds the Lease, or gives it back.
    LeaseTaken(bool),
    /// All stands still for so long, as a machine does that is suspended, and its clock with it.
    StandStill(Duration),
    /// A controller dies at its next POST: before or after that is sent.
    CrashAtPost(usize, bool),
}

/// An object that people declare.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Kind in the plural.
    pub resource: &'static str,
    /// Name.
    pub name: String,
    /// What is declared of it: a merge patch. Texts such as `@90` are times of the world in seconds.
    pub fields: Value,
    /// In a sentence.
    pub told: String,
}

/// A point of a reset at which something may happen just then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A VM is looked at in Proxmox, as its reset seems due.
    Look,
    /// The journal has the intent, and the VMReset is being made.
    Intent,
    /// The connection to Proxmox is being opened.
    Open,
    /// The POST is on its way.
    Post,
}

/// A write of a controller at which it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrashPoint {
    /// Which controller.
    pub controller: usize,
    /// Of its writes to the API server, or of its POSTs to Proxmox.
    pub to: WriteTo,
    /// Which of them, counted from 0 over all its processes.
    pub number: u32,
    /// Before it is carried out, or after.
    pub before: bool,
}

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WriteTo {
    /// To the API server. Leases are left out: they are written by the clock.
    Api,
    /// To Proxmox.
    Proxmox,
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = match self.to {
            WriteTo::Api => "api",
            WriteTo::Proxmox => "proxmox",
        };
        let when = if self.before { "before" } else { "after" };
        write!(f, "{}:{to}:{}:{when}", self.controller, self.number)
    }
}

impl FromStr for CrashPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no point such as 0:api:12:before or 0:proxmox:0:after");
        let parts: Vec<&str> = text.split(':').collect();
        let [controller, to, number, when] = parts[..] else {
            return Err(wrong());
        };
        Ok(Self {
            controller: controller.parse().map_err(|_| wrong())?,
            to: match to {
                "api" => WriteTo::Api,
                "proxmox" => WriteTo::Proxmox,
                _ => return Err(wrong()),
            },
            number: number.parse().map_err(|_| wrong())?,
            before: match when {
                "before" => true,
                "after" => false,
                _ => return Err(wrong()),
            },
        })
    }
}

/// How controllers are started.
#[derive(Clone, Debug)]
pub struct Start {
    /// `--observe-only`.
    pub observe_only: bool,
    /// Machines that may be unhealthy in a ProxmoxCluster and in all.
    pub max_unhealthy: IntOrPercent,
    /// The machine that they run in.
    pub own_host: Option<usize>,
    /// How long one that died stays away; none: it follows from the seed.
    pub away: Option<Duration>,
    /// Where they die, beside what is planned.
    pub crashes: Vec<CrashPoint>,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            observe_only: false,
            max_unhealthy: IntOrPercent::Percent("50%".into()),
            own_host: None,
            away: None,
            crashes: Vec::new(),
        }
    }
}

/// What an agent reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Speech {
    /// It runs at all.
    pub installed: bool,
    /// Its reports get through.
    pub gets_through: bool,
    /// With which key.
    pub key: Key,
    /// From which machine.
    pub machine: Sender,
    /// A service manager keeps it running.
    pub supervised: bool,
    /// What the receiver makes of it.
    pub body: Body,
    /// Busy share of the CPUs, in percent.
    pub cpu: u32,
    /// Used memory, in percent.
    pub memory: u32,
    /// Used space of its disk, in percent.
    pub disk: u32,
    /// How wrong the clock of the guest is, in seconds.
    pub clock: i64,
    /// The name that the guest gives itself; none: its own.
    pub hostname: Option<String>,
    /// Seconds that its uptime is wrong by, for as long as its boot lasts.
    pub uptime: i64,
}

impl Default for Speech {
    fn default() -> Self {
        Self {
            installed: true,
            gets_through: true,
            key: Key::Right,
            machine: Sender::Own,
            supervised: true,
            body: Body::Whole,
            cpu: 12,
            memory: 25,
            disk: 10,
            clock: 0,
            hostname: None,
            uptime: 0,
        }
    }
}

/// Which key an agent has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum Key {
    /// Its own.
    Right,
    /// One that names it and is wrong.
    Wrong,
    /// Its own of a generation; the right one is that of the first.
    Generation(u32),
    /// That of another ManagedVM.
    Of(String),
}

/// From which machine reports come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Sender {
    /// Its own.
    Own,
    /// Another one: the guest was cloned with its key.
    Other,
    /// Nobody can tell: the guest does not read its SMBIOS UUID.
    None,
    /// Its own, in the other byte order.
    Swapped,
}

/// What a receiver makes of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Body {
    /// It is well.
    Whole,
    /// A field is wrong.
    Broken,
}
