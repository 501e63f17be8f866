//! What can happen in a scenario.

use super::format::{index, known};
use crate::clock::Time;
use crate::plan::{Body, Event, Key, Object, Sender, Speech};
use crate::proxmox::{Power, Trouble};
use crate::weather::{ApiTrouble, WatchTrouble};
use defib_api::{HealthPolicySpec, ManagedVMSpec, ProxmoxClusterSpec};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// One thing that happens: the field of an entry of the timeline.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Happening {
    // Guests.
    Hang(String),
    /// So many resets do not cure it.
    HangThrough(Times),
    Mute(String),
    Unmute(String),
    Thrash(String),
    Goodbye(String),
    GuestReboot(String),
    GuestAgent(Switch),
    Agent(AgentChange),
    Report(String),
    CutOff(Switch),
    AllCutOff(bool),
    // Proxmox.
    PowerOff(String),
    PowerOn(String),
    Qemu(InQemu),
    Lock(Locked),
    Unlock(String),
    FileLock(Switch),
    Ha(InHa),
    MonitorHangs(Switch),
    NoReboot(Switch),
    HideUuid(Switch),
    Move(String),
    Reuse(String),
    Vanish(String),
    Unseen(Switch),
    NodeDown(Node),
    NodeUp(Node),
    Maintenance(Node),
    MaintenanceEnds(Node),
    Quorum(bool),
    ListedOffline(Node),
    ListedOnline(Node),
    Proxmox(PveTrouble),
    // People.
    Declare(Declared),
    Delete(Named),
    Request(Request),
    // Defib and the way to Kubernetes.
    Api(KubeTrouble),
    Watch(Watches),
    Compact(Just),
    Crash(usize),
    CrashAtWrite(AtWrite),
    CrashAtPost(When),
    Restart(usize),
    ClockWrong(f64),
    StandStill(u64),
    Deaf(bool),
    Shed(Just),
    LeaseTaken(bool),
    RunsIn(Option<String>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Times {
    vm: String,
    resets: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    vm: String,
    on: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InQemu {
    vm: String,
    state: QemuState,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum QemuState {
    Running,
    Paused,
    Prelaunch,
    IoError,
    InternalError,
    GuestPanicked,
    Suspended,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Locked {
    vm: String,
    kind: Lock,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize)]
        pub(super) enum $name {
            $(#[serde(rename = $word)] $variant,)+
        }

        impl $name {
            fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

words! {
    /// All locks of qemu-server.
    Lock {
        Backup = "backup", Clone = "clone", Create = "create", Migrate = "migrate", Rollback = "rollback", Snapshot = "snapshot",
        SnapshotDelete = "snapshot-delete", Suspending = "suspending", Suspended = "suspended",
    }
}

words! {
    /// States of a resource of Proxmox HA.
    HaState {
        Started = "started", Stopped = "stopped", Ignored = "ignored", Disabled = "disabled", Fence = "fence", Recovery = "recovery",
        Migrate = "migrate", Relocate = "relocate", Freeze = "freeze", RequestStop = "request_stop", RequestStart = "request_start",
        Error = "error", Queued = "queued",
    }
}

words! {
    /// Nodes.
    Node { Pve1 = "pve1", Pve2 = "pve2" }
}

/// Kinds that people declare.
#[derive(Clone, Copy, Debug, Deserialize)]
enum Kind {
    ManagedVM,
    HealthPolicy,
    ProxmoxCluster,
    VMReset,
}

/// Of what has no more to say.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Just {
    Now,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InHa {
    vm: String,
    /// None: HA does not manage it.
    state: Option<HaState>,
}

/// What an agent reports from now on; what is not named stays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Spoken {
    installed: Option<bool>,
    key: Option<Key>,
    machine: Option<Sender>,
    supervised: Option<bool>,
    body: Option<Body>,
    cpu: Option<u32>,
    memory: Option<u32>,
    disk: Option<u32>,
    clock: Option<i64>,
    hostname: Option<String>,
    uptime: Option<i64>,
}

impl Spoken {
    pub(super) fn change(&self, speech: &mut Speech) {
        fn set<T: Clone>(field: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *field = value.clone();
            }
        }
        set(&mut speech.installed, &self.installed);
        set(&mut speech.key, &self.key);
        set(&mut speech.machine, &self.machine);
        set(&mut speech.supervised, &self.supervised);
        set(&mut speech.body, &self.body);
        set(&mut speech.cpu, &self.cpu);
        set(&mut speech.memory, &self.memory);
        set(&mut speech.disk, &self.disk);
        set(&mut speech.clock, &self.clock);
        set(&mut speech.uptime, &self.uptime);
        if self.hostname.is_some() {
            speech.hostname.clone_from(&self.hostname);
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentChange {
    vm: String,
    says: Spoken,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    kind: Kind,
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Declared {
    kind: Kind,
    name: String,
    /// In a sentence.
    told: String,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    metadata: Value,
}

/// A VMReset that a person makes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Request {
    vm: String,
    name: Option<String>,
    by: Option<String>,
    reason: Option<String>,
    /// Seconds from then on.
    not_after: Option<i64>,
    trigger: Option<Trigger>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Trigger {
    Manual,
    Automatic,
}

macro_rules! troubles {
    ($(#[$doc:meta])* $name:ident of $real:ident { $($variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize)]
        pub(super) enum $name {
            Well,
            $($variant,)+
        }

        impl $name {
            fn trouble(self) -> Option<$real> {
                match self {
                    Self::Well => None,
                    $(Self::$variant => Some($real::$variant),)+
                }
            }
        }
    };
}

troubles! {
    /// What is wrong with Proxmox.
    PveTrouble of Trouble {
        Unreachable, Slow, LostAnswer, LostRequest, LateDelivery, NotDelivered, NoEffect, Failing, Unauthorized, Unaudited, Unprivileged, NoConnect,
        SlowConnect, ErrorAndDone, ErrorAndNotDone, KilledAndDone, KilledAndNotDone, TaskFails, TaskWarns, LongTask, TaskForgotten, MonitorRefuses,
        MonitorLate,
    }
}

troubles! {
    /// What is wrong with the API server.
    KubeTrouble of ApiTrouble { LostReplies, SilentReplies, Conflicts, TooMany, Errors, Slow, Down, NoStatus }
}

troubles! {
    /// What is wrong with watches.
    Watches of WatchTrouble { Lag, LongLag, Held, Silent, Cut, Expire, Drop, Collapse }
}

/// Before or after a write is carried out.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum When {
    Before,
    After,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AtWrite {
    /// After so many more writes.
    after: u32,
    when: When,
}

impl Happening {
    /// The event of the world. What an agent says is what it said before, changed.
    pub(super) fn event(self, names: &[String], speech: &mut [Speech], at: Time) -> Result<Event, String> {
        let vm = |name: &str| index(names, name);
        let switch = |s: &Switch| Ok::<_, String>((vm(&s.vm)?, s.on));
        Ok(match self {
            Self::Hang(name) => Event::Hang(vm(&name)?, 0),
            Self::HangThrough(times) => Event::Hang(vm(&times.vm)?, times.resets),
            Self::Mute(name) => Event::Mute(vm(&name)?),
            Self::Unmute(name) => Event::Unmute(vm(&name)?),
            Self::Thrash(name) => Event::Thrash(vm(&name)?),
            Self::Goodbye(name) => Event::Goodbye(vm(&name)?),
            Self::GuestReboot(name) => Event::GuestReboot(vm(&name)?),
            Self::GuestAgent(s) => switch(&s).map(|(vm, on)| Event::GuestAgent(vm, on))?,
            Self::Agent(change) => {
                let vm = vm(&change.vm)?;
                change.says.change(&mut speech[vm]);
                Event::Speaks(vm, speech[vm].clone())
            }
            Self::Report(name) => Event::Report(vm(&name)?),
            Self::CutOff(s) => switch(&s).map(|(vm, on)| Event::CutOff(vm, on))?,
            Self::AllCutOff(on) => Event::Cut(on),
            Self::PowerOff(name) => Event::PowerOff(vm(&name)?),
            Self::PowerOn(name) => Event::PowerOn(vm(&name)?),
            Self::Qemu(q) => Event::Qemu(vm(&q.vm)?, power(q.state)),
            Self::Lock(l) => Event::Lock(vm(&l.vm)?, Some(l.kind.word())),
            Self::Unlock(name) => Event::Lock(vm(&name)?, None),
            Self::FileLock(s) => switch(&s).map(|(vm, on)| Event::FileLock(vm, on))?,
            Self::Ha(ha) => Event::Ha(vm(&ha.vm)?, ha.state.map(HaState::word)),
            Self::MonitorHangs(s) => switch(&s).map(|(vm, on)| Event::Monitor(vm, on))?,
            Self::NoReboot(s) => switch(&s).map(|(vm, on)| Event::Reboot(vm, !on))?,
            Self::HideUuid(s) => switch(&s).map(|(vm, on)| Event::HidesUuid(vm, on))?,
            Self::Move(name) => Event::Move(vm(&name)?),
            Self::Reuse(name) => Event::Reuse(vm(&name)?),
            Self::Unseen(s) => switch(&s).map(|(vm, on)| Event::Unseen(vm, on))?,
            Self::Vanish(name) => Event::Vanish(vm(&name)?),
            Self::NodeDown(node) => Event::Node(node.word(), false),
            Self::NodeUp(node) => Event::Node(node.word(), true),
            Self::Maintenance(node) => Event::Maintenance(node.word(), true),
            Self::MaintenanceEnds(node) => Event::Maintenance(node.word(), false),
            Self::Quorum(on) => Event::Quorum(on),
            Self::ListedOffline(node) => Event::ListedOffline(node.word(), true),
            Self::ListedOnline(node) => Event::ListedOffline(node.word(), false),
            Self::RunsIn(name) => Event::RunsIn(name.map(|name| vm(&name)).transpose()?),
            Self::Proxmox(trouble) => Event::Proxmox(trouble.trouble()),
            Self::Declare(declared) => Event::Declare(object(declared)?),
            Self::Delete(named) => Event::Remove(plural(named.kind), named.name),
            Self::Request(request) => {
                vm(&request.vm)?;
                Event::MakeReset(reset(request, at))
            }
            Self::Api(trouble) => Event::Api(trouble.trouble()),
            Self::Watch(trouble) => Event::Watch(trouble.trouble()),
            Self::Compact(Just::Now) => Event::Compact,
            Self::Crash(controller) => Event::Crash(controller),
            Self::CrashAtWrite(write) => Event::CrashAt(0, write.after, matches!(write.when, When::Before)),
            Self::CrashAtPost(when) => Event::CrashAtPost(0, matches!(when, When::Before)),
            Self::Restart(controller) => Event::Restart(controller),
            Self::ClockWrong(seconds) => Event::Skew(0, (seconds * 1000.0) as i64),
            Self::StandStill(seconds) => Event::StandStill(Duration::from_secs(seconds)),
            Self::Deaf(on) => Event::Deaf(on),
            Self::Shed(Just::Now) => Event::Shed,
            Self::LeaseTaken(on) => Event::LeaseTaken(on),
        })
    }
}

fn power(state: QemuState) -> Power {
    match state {
        QemuState::Running => Power::Running,
        QemuState::Paused => Power::Paused,
        QemuState::Prelaunch => Power::Prelaunch,
        QemuState::IoError => Power::IoError,
        QemuState::InternalError => Power::InternalError,
        QemuState::GuestPanicked => Power::GuestPanicked,
        QemuState::Suspended => Power::Suspended,
    }
}

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::ManagedVM => "managedvms",
        Kind::HealthPolicy => "healthpolicies",
        Kind::ProxmoxCluster => "proxmoxclusters",
        Kind::VMReset => "vmresets",
    }
}

fn object(declared: Declared) -> Result<Object, String> {
    let Declared {
        kind,
        name,
        told,
        spec,
        metadata,
    } = declared;
    let mut fields = json!({});
    if !spec.is_null() {
        // A patch need not be whole: what must be there is lent for the check.
        let mut whole = match kind {
            Kind::ManagedVM => json!({"proxmox": {"clusterRef": {"name": ""}, "vmid": 100}}),
            Kind::ProxmoxCluster => json!({"endpoints": [], "tokenSecretRef": {"name": ""}, "tls": {}}),
            Kind::HealthPolicy | Kind::VMReset => json!({}),
        };
        crate::declared::json_merge(&mut whole, &spec);
        match kind {
            Kind::ManagedVM => known::<ManagedVMSpec>(&whole).map(drop)?,
            Kind::HealthPolicy => known::<HealthPolicySpec>(&whole).map(drop)?,
            Kind::ProxmoxCluster => known::<ProxmoxClusterSpec>(&whole).map(drop)?,
            Kind::VMReset => return Err("a VMReset is made by `request`".into()),
        }
        fields["spec"] = spec;
    }
    if !metadata.is_null() {
        fields["metadata"] = metadata;
    }
    Ok(Object {
        resource: plural(kind),
        name,
        fields,
        told,
    })
}

fn reset(request: Request, at: Time) -> Object {
    let seconds = at.0 / 1000;
    let name = request.name.unwrap_or_else(|| format!("{}-by-hand-{seconds}", request.vm));
    let automatic = matches!(request.trigger, Some(Trigger::Automatic));
    let by = request.by.unwrap_or_else(|| "ada".into());
    let not_after = request.not_after.unwrap_or(60);
    let told = format!(
        "{by} makes VMReset {name}{}, valid for {not_after} s",
        if automatic { ", with trigger Automatic" } else { "" }
    );
    Object {
        resource: "vmresets",
        name: name.clone(),
        fields: json!({"metadata": {"name": name}, "spec": {
            "vmRef": {"name": request.vm},
            "action": "Auto",
            "reason": request.reason.unwrap_or_else(|| "it looks stuck".into()),
            "requestedBy": by,
            "trigger": if automatic { "Automatic" } else { "Manual" },
            "notAfter": format!("@{}", i64::try_from(seconds).unwrap_or_default() + not_after),
        }}),
        told,
    }
}
