//! The gates before a reset (rule 4), in order. The first that fails is the reason why nothing happens; none costs an attempt.

use crate::corroboration::GuestIo;
use crate::decide::Observed;
use crate::fleet::{Fleet, budget};
use crate::heartbeat::same_machine;
use crate::journal::{capped, forgiven};
use crate::life::{Life, Vital, in_grace};
use crate::policy::{Found, standing_pause};
use crate::steps::step_of;
use crate::storm::Weather;
use crate::time::Now;
use crate::window::Windows;
use defib_api::{GuestAgentCheck, GuestAgentState, IdentityCheck, Mode, Trigger};
use jiff::Timestamp;
use std::time::Duration;
use uuid::Uuid;

/// HA states in which a stopped VM is not HA's affair.
pub(crate) const HARMLESS_TO_START: [&str; 1] = ["ignored"];

/// A gate that does not let a reset pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// One word of constant spelling.
    pub reason: &'static str,
    /// The arithmetic, and what would change it.
    pub message: String,
    /// When it opens by itself, where that is known.
    pub opens_after: Option<Duration>,
}

impl Blocked {
    /// A gate that opens by an event, or that is looked at again soon.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            opens_after: None,
        }
    }

    /// It opens by itself after this.
    pub(crate) fn until(self, after: Duration) -> Self {
        Self {
            opens_after: Some(after),
            ..self
        }
    }
}

/// A VM as Proxmox has it at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Node on which it is.
    pub node: String,
    /// State of the node: `online` and others.
    pub node_status: String,
    /// Somebody has put the node into Proxmox's maintenance mode; not told to a token without Sys.Audit.
    pub node_in_maintenance: bool,
    /// The node that answered is in a minority; not told to a token without Sys.Audit.
    pub no_quorum: bool,
    /// State in QEMU: `running` and others; `stopped` without a process.
    pub qmp_status: String,
    /// Lock in its configuration.
    pub lock: Option<String>,
    /// State in Proxmox HA, where HA manages it.
    pub ha_state: Option<String>,
    /// SMBIOS UUID.
    pub uuid: Option<Uuid>,
    /// Age of the QEMU process.
    pub uptime: Duration,
    /// The VM's configuration makes QEMU end at a reset (`reboot: 0`).
    pub no_reboot: bool,
}

/// Why Proxmox could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookFailed {
    /// One word of constant spelling.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

/// The closer look that a due reset gets: live, a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closer {
    /// What Proxmox says of the VM.
    pub look: Result<Look, LookFailed>,
    /// How the fleet stands, this VM's own journal left out.
    pub fleet: Fleet,
    /// What the guest moves, the look included; none where Proxmox tells nothing.
    pub io: Option<GuestIo>,
    /// What its QEMU guest agent did a moment ago; none when it was not asked.
    pub guest_agent: Option<GuestAgentState>,
}

/// States in QEMU of a VM that Defib resets on its own: it runs, or QEMU itself says that its guest is dead. In all others somebody wants it so, or data would be
/// lost (`io-error`: a disk is full, and the guest goes on when it is not).
const AUTOMATIC: [&str; 3] = ["running", "internal-error", "guest-panicked"];
/// Those in which a person may have it reset.
const MANUAL: [&str; 7] = [
    "running",
    "internal-error",
    "guest-panicked",
    "io-error",
    "paused",
    "prelaunch",
    "suspended",
];

/// HA states in which a reset does not cross what HA is doing.
const HARMLESS_HA: [&str; 4] = ["started", "ignored", "disabled", "stopped"];

/// Gates that need no look at Proxmox: those of configuration.
pub fn configuration(o: &Observed<'_>, trigger: Trigger, now: Now) -> Option<Blocked> {
    mode(o)
        .filter(|_| trigger == Trigger::Automatic)
        .or_else(|| declared(o, trigger, now))
}

/// Whether something holds this VM back whose end starts the clock of its silence anew: nobody wants the reset that was held back.
pub fn holds(o: &Observed<'_>, now: Now) -> bool {
    !matches!(o.weather, Weather::Calm { .. }) || configuration(o, Trigger::Automatic, now).is_some()
}

/// Whether the VM is only observed.
pub fn mode(o: &Observed<'_>) -> Option<Blocked> {
    let why = if o.observe_only {
        "this Defib runs with --observe-only: it watches, and resets nothing on its own"
    } else if o.effective.mode == Mode::Observe {
        "resetPolicy.mode is Observe (also where nothing is declared): this VM is watched and never reset; set it to Enforce"
    } else {
        return None;
    };
    Some(Blocked::new("ObserveOnly", why))
}

/// What else is declared: pauses, windows, deletion, a policy that cannot be used.
pub fn declared(o: &Observed<'_>, trigger: Trigger, now: Now) -> Option<Blocked> {
    if trigger == Trigger::Automatic
        && let Some(held) = pause(o, now).or_else(|| window(o, now))
    {
        return Some(held);
    }
    if o.vm.metadata.deletion_timestamp.is_some() {
        return Some(Blocked::new("Deleting", "this ManagedVM is being deleted; its VM is left alone"));
    }
    policy_problem(o).filter(|_| trigger == Trigger::Automatic)
}

/// The maintenance window that is open.
fn window(o: &Observed<'_>, now: Now) -> Option<Blocked> {
    let Windows::Open { schedule, closes } = o.windows else {
        return None;
    };
    Some(
        Blocked::new(
            "MaintenanceWindow",
            format!("a maintenance window of its HealthPolicy is open ({schedule}), until {closes}"),
        )
        .until(now.until(*closes)),
    )
}

/// Why the policy cannot be used.
pub fn policy_problem(o: &Observed<'_>) -> Option<Blocked> {
    if let Some(problem) = &o.effective.problem {
        return Some(Blocked::new(problem.reason(), problem.to_string()));
    }
    match o.windows {
        Windows::Invalid { message } => Some(Blocked::new("InvalidPolicy", message.clone())),
        Windows::Open { .. } | Windows::Closed { .. } => None,
    }
}

/// The pause that stands, of VM, policy or cluster.
pub fn pause(o: &Observed<'_>, now: Now) -> Option<Blocked> {
    let policy = match o.policy {
        Found::Policy { spec, .. } => spec.pauses.as_slice(),
        _ => &[],
    };
    let cluster = o.cluster.map_or(&[][..], |c| c.pauses.as_slice());
    [
        ("this ManagedVM", o.vm.spec.pauses.as_slice()),
        ("its HealthPolicy", policy),
        ("its ProxmoxCluster", cluster),
    ]
    .into_iter()
    .find_map(|(whose, pauses)| {
        let p = standing_pause(pauses, now.wall)?;
        let blocked = |end: &str| Blocked::new("Paused", format!("{whose} is paused by {}: {} ({end})", p.owner, p.reason));
        // The end of time is how tools write that there is none.
        Some(match p.expires_at.filter(|end| *end < Timestamp::MAX) {
            Some(end) => blocked(&format!("until {end}")).until(now.until(end)),
            None => blocked("until it is removed"),
        })
    })
}

/// Gates on a threshold that is exceeded, in place of those on silence.
pub fn threshold(o: &Observed<'_>, vital: &Vital<'_>, now: Now) -> Option<Blocked> {
    if let Some(left) = in_grace(vital, now) {
        return Some(startup_grace(o).until(left));
    }
    observer(o)
}

fn startup_grace(o: &Observed<'_>) -> Blocked {
    Blocked::new(
        "StartupGrace",
        format!(
            "the guest booted less than {} s ago, and may be rebooting by itself",
            o.effective.startup_grace.as_secs()
        ),
    )
}

/// Gates on silence, and on ourselves as its witness.
pub fn silence(o: &Observed<'_>, vital: &Vital<'_>, life: Life, now: Now) -> Option<Blocked> {
    match life {
        Life::Unarmed(why) => return Some(Blocked::new(why.reason(), why.message())),
        Life::Fresh { due, .. } => {
            return Some(Blocked::new("NotSilent", "heartbeats come, or have not been waited for long enough").until(due.since(now.mono)));
        }
        Life::Grace { due } => return Some(startup_grace(o).until(due.since(now.mono))),
        Life::Silent { .. } => {}
    }
    if let Some(blocked) = observer(o) {
        return Some(blocked);
    }
    if let Some(other) = o.alive_as {
        return Some(Blocked::new(
            "ReportsAsAnother",
            format!(
                "this machine is alive: it reports as ManagedVM {other}; give its agent one key, and delete the ManagedVM that is not needed"
            ),
        ));
    }
    let (first, newest) = vital.heartbeat.wrong_key?;
    let vetoed = now.mono.since(first);
    let veto = o.effective.max_veto;
    (now.mono.since(newest) < o.effective.timeout && vetoed < veto).then(|| {
        Blocked::new(
            "WrongKey",
            format!("somebody reports for this VM with a wrong key: perhaps its agent, which has an old one; this holds a reset back for at most {} s", veto.as_secs()),
        )
        .until(veto.saturating_sub(vetoed))
    })
}

/// Whether we ourselves could have heard the heartbeats.
pub fn observer(o: &Observed<'_>) -> Option<Blocked> {
    if let Some(trouble) = &o.observer.trouble {
        return Some(Blocked::new(
            "ObserverNotServing",
            format!("{}, so silence cannot be told from our own deafness", trouble.message()),
        ));
    }
    if o.observer.settling {
        return Some(
            Blocked::new(
                "ObserverSettling",
                "Defib stood still a moment ago; reports that wait are read first",
            )
            .until(Duration::from_secs(5)),
        );
    }
    o.foreign_heartbeat.then(|| {
        Blocked::new(
            "ManagedByAnother",
            "status.heartbeat holds a newer heartbeat than this Defib has received: another one is writing it",
        )
    })
}

/// Gates on what Proxmox says.
pub fn proxmox(o: &Observed<'_>, closer: &Closer, trigger: Trigger) -> Option<Blocked> {
    let look = match &closer.look {
        Ok(look) => look,
        Err(failed) => return Some(Blocked::new(failed.reason, failed.message.clone())),
    };
    let allowed = match trigger {
        Trigger::Automatic => &AUTOMATIC[..],
        Trigger::Manual => &MANUAL[..],
    };
    if !allowed.contains(&look.qmp_status.as_str()) {
        return Some(Blocked::new(
            "NotRunning",
            format!(
                "Proxmox says that the VM is {}; a VM that does not run is not reset",
                look.qmp_status
            ),
        ));
    }
    if let Some(lock) = &look.lock {
        return Some(Blocked::new(
            "Locked",
            format!("Proxmox holds a lock on the VM ({lock}); the reset waits for it"),
        ));
    }
    if let Some(ha) = look.ha_state.as_deref().filter(|s| !HARMLESS_HA.contains(s)) {
        return Some(Blocked::new("HABusy", format!("Proxmox HA is at work on the VM (state {ha})")));
    }
    if let Some(blocked) = identity(o, look).or_else(|| node_offline(look)) {
        return Some(blocked);
    }
    if trigger == Trigger::Manual {
        return None;
    }
    if let Some(blocked) = surroundings(o, look) {
        return Some(blocked);
    }
    if let (Some(own), Some(uuid)) = (o.own_node, look.uuid)
        && same_machine(own, uuid)
    {
        return Some(Blocked::new(
            "OwnHost",
            "Defib itself runs in this VM; it is never reset automatically",
        ));
    }
    let grace = o.effective.startup_grace;
    (look.uptime < grace).then(|| {
        Blocked::new(
            "StartupGrace",
            format!("Proxmox started the VM less than {} s ago", grace.as_secs()),
        )
        .until(grace.saturating_sub(look.uptime))
    })
}

/// Whether it is the machine that was adopted.
pub(crate) fn identity(o: &Observed<'_>, look: &Look) -> Option<Blocked> {
    match (crate::life::identity(o.vm.status.as_ref()), look.uuid) {
        (Some(recorded), Some(present)) if recorded != present => {
            return Some(Blocked::new(
                "IdentityChanged",
                format!(
                    "VMID {} now belongs to another machine: its SMBIOS UUID is {present}, recorded was {recorded}; delete this ManagedVM and create it again",
                    o.vm.spec.proxmox.vmid
                ),
            ));
        }
        (Some(_), Some(_)) => {}
        _ if o.effective.identity == IdentityCheck::Trust => {}
        _ => {
            return Some(Blocked::new(
                "IdentityUnknown",
                "Proxmox does not tell the SMBIOS UUID of this VM, so nothing proves which machine this is; set one in its options, or spec.identity to Trust",
            ));
        }
    }
    None
}

/// Whether its node is up.
pub(crate) fn node_offline(look: &Look) -> Option<Blocked> {
    (look.node_status != "online").then(|| Blocked::new("NodeNotOnline", format!("node {} is {}", look.node, look.node_status)))
}

/// What around the VM makes this a bad moment for Defib to do anything on its own.
pub(crate) fn surroundings(o: &Observed<'_>, look: &Look) -> Option<Blocked> {
    if look.node_in_maintenance {
        return Some(Blocked::new(
            "NodeMaintenance",
            format!("node {} is in maintenance: somebody works on it; its end is waited for", look.node),
        ));
    }
    if look.no_quorum {
        return Some(Blocked::new(
            "NoQuorum",
            "the Proxmox cluster has no quorum: what it says of nodes and VMs may be wrong, and its nodes may be about to fence themselves",
        ));
    }
    if let Some(other) = o.duplicate_of {
        return Some(Blocked::new(
            "DuplicateMachine",
            format!("ManagedVM {other} is the same machine and is older; it decides"),
        ));
    }
    None
}

/// Gates on how often and how many at once.
pub fn budgets(o: &Observed<'_>, closer: &Closer, now: Now) -> Option<Blocked> {
    let status = o.vm.status.as_ref();
    let recent = status.map_or(&[][..], |s| s.recent_resets.as_slice());
    if let Some(cap) = capped(recent.iter().map(|r| r.time), o.effective, now) {
        return Some(
            Blocked::new(
                "ResetsExhausted",
                format!(
                    "{} automatic resets in {} s, at most {} allowed; the next one when that of {} leaves the window, or when resetPolicy.forgiveBefore is set",
                    cap.counting,
                    o.effective.window.as_secs(),
                    o.effective.max_resets,
                    cap.last_to_leave
                ),
            )
            .until(cap.opens_after),
        );
    }
    if let Some(episode) = status.and_then(|s| s.episode.as_ref())
        && let (None, Some(end)) = (
            step_of(&o.effective.steps, episode.attempts.saturating_add(1)),
            episode.last_end_time,
        )
        && now.age(end) < o.effective.window
        && !forgiven(end, o.effective, now)
    {
        return Some(
            Blocked::new(
                "StepsExhausted",
                format!("all steps were tried ({} attempts) and the VM did not come back: a reset does not cure it; it is tried again {} s after the last one", episode.attempts, o.effective.window.as_secs()),
            )
            .until(o.effective.window.saturating_sub(now.age(end))),
        );
    }
    budget(&closer.fleet, &o.effective.limits(), o.limits)
}

/// A storm: many fell silent together, which has a shared cause. Of them, only a VM that is proved to hang is reset, and one at a time.
pub fn storm(o: &Observed<'_>, closer: &Closer, now: Now) -> Option<Blocked> {
    let (width, burst, population) = match o.weather {
        Weather::Calm { .. } => return None,
        Weather::CoolDown { width, until } => {
            return Some(
                Blocked::new(
                    "StormCooldown",
                    format!(
                        "many VMs of {width} fell silent together a moment ago; it is waited for {} s, and then all silence is counted anew",
                        o.effective.storm_cooldown.as_secs()
                    ),
                )
                .until(until.since(now.mono)),
            );
        }
        Weather::Storm {
            width, burst, population, ..
        } => (width, burst, population),
    };
    let quiet = closer.io.is_some_and(|io| io.quiet(now.mono) >= o.effective.io_quiet);
    // An agent that was not asked yet is asked when all gates let this pass.
    let silent = matches!(closer.guest_agent, None | Some(GuestAgentState::Silent));
    let proved = quiet && silent && o.guest_agent_answered && o.effective.guest_agent == GuestAgentCheck::Auto;
    if proved && closer.fleet.all.in_flight == 0 {
        return None;
    }
    Some(Blocked::new(
        "StormActive",
        format!(
            "{}: so many together have a shared cause, which a reset does not cure; only those are reset, one at a time, that move no data and whose QEMU guest agent answered before and is silent now",
            burst.told(population, width)
        ),
    ))
}
