//! The decision on one VM: a pure, total function of what is observed and of the time. Everything else carries it out.

mod begin;
mod words;

pub use begin::would_reset_name;

use self::begin::{begin, observed};
use crate::boots::looping;
use crate::conditions::{Draft, kind};
use crate::corroboration::{self, ASK_AHEAD};
use crate::fleet::Limits;
use crate::gate::{self, Blocked, Closer};
use crate::heartbeat::Heartbeat;
use crate::journal::{self, Step, counted, episode_over};
use crate::life::{Life, Vital, identity, life, over};
use crate::observer::{ObserverView, Trouble};
use crate::policy::{Effective, Found};
use crate::power::{Power, power, power_since};
use crate::steps::{self, Choice};
use crate::storm::Weather;
use crate::time::{Mono, Now, seconds};
use crate::window::Windows;
use defib_api::{
    CurrentReset, Episode, Evidence, GuestAgentCheck, ManagedVM, ProxmoxClusterSpec, Threshold, ThresholdAction, Trigger, VMReset,
};
use jiff::Timestamp;
use std::time::Duration;
use uuid::Uuid;

/// Longest time between two looks at a VM of which nothing is due: a net under lost events.
const RESYNC: Duration = Duration::from_secs(300);

/// What Proxmox's list of VMs says of this one. A few seconds old; nothing destructive rests on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inventory {
    /// The ProxmoxCluster does not exist.
    NoCluster,
    /// It was not read yet, or could not be read.
    Unread {
        /// Why.
        message: String,
    },
    /// The VM is not on the list.
    Absent,
    /// It is.
    Row {
        /// Node on which it is.
        node: String,
        /// State in QEMU, or `unknown`.
        status: String,
    },
}

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// The ManagedVM, cached or live.
    pub vm: &'a ManagedVM,
    /// Its HealthPolicy.
    pub policy: Found<'a>,
    /// How the maintenance windows of the policy stand.
    pub windows: &'a Windows,
    /// Its ProxmoxCluster.
    pub cluster: Option<&'a ProxmoxClusterSpec>,
    /// What follows from the three.
    pub effective: &'a Effective,
    /// The ledger's entry.
    pub heartbeat: &'a Heartbeat,
    /// We as the witness.
    pub observer: ObserverView,
    /// When the last hold of this VM (pause, Observe, invalid policy) ended: its silence is counted from there.
    pub hold_lifted: Mono,
    /// The live status holds a heartbeat newer than our observing and not of our ledger.
    pub foreign_heartbeat: bool,
    /// Proxmox's list.
    pub inventory: &'a Inventory,
    /// SMBIOS UUID that Proxmox tells now, where it was asked.
    pub uuid_in_proxmox: Option<Uuid>,
    /// The closer look, once it was taken.
    pub closer: Option<&'a Closer>,
    /// Since when Defib sees it off.
    pub off_since: Option<Mono>,
    /// The oldest request of a person that may still run.
    pub manual: Option<&'a VMReset>,
    /// Name of this process in the journal.
    pub me: &'a str,
    /// How long we have watched the present journal unchanged.
    pub journal_unchanged: Duration,
    /// SMBIOS UUID of the machine on which this process runs.
    pub own_node: Option<Uuid>,
    /// An older ManagedVM of the same machine.
    pub duplicate_of: Option<&'a str>,
    /// Another ManagedVM of the same machine, whose key the machine reports with at present.
    pub alive_as: Option<&'a str>,
    /// Limits for each cluster and for all of Defib.
    pub limits: &'a Limits,
    /// Whether many fell silent together with this VM, or around it.
    pub weather: Weather,
    /// Its QEMU guest agent has answered before, so that its silence proves something.
    pub guest_agent_answered: bool,
    /// Whatever policies say, nothing is reset automatically.
    pub observe_only: bool,
    /// Of this silence it is recorded already that a reset would have begun.
    pub would_reset_recorded: bool,
}

/// What is to be done about one VM.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The next thing to carry out.
    pub next: Next,
    /// The six conditions.
    pub conditions: Vec<Draft>,
    /// SMBIOS UUID to record.
    pub identity: Option<Uuid>,
    /// Since when what Proxmox says of its power is so.
    pub power_since: Option<Timestamp>,
    /// Automatic resets that count now.
    pub resets_in_window: u32,
    /// The episode is over without our doing.
    pub episode_over: bool,
    /// What a request of a person waits for.
    pub manual_waits: Option<Blocked>,
    /// A hold of configuration stands: when it is lifted, the clock of this VM's silence starts anew.
    pub held: bool,
    /// The next sign of life is news.
    pub awaited: bool,
    /// The VM is armed.
    pub armed: bool,
    /// Its time-out is over in a moment: ask its QEMU guest agent already, so that the answer is there by then.
    pub ask_ahead: bool,
    /// Decide again after this at the latest.
    pub check_after: Duration,
}

/// The next thing to carry out.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// A reset is due by what is cached: read everything live, look at Proxmox, and decide again.
    LookCloser,
    /// Every gate lets a reset pass, but the QEMU guest agent was not asked: ask it, then look and decide again.
    AskGuestAgent,
    /// Every gate lets this pass: enter it in the journal, then act.
    Begin(Box<Intent>),
    /// Every gate would let this pass, if the VM were not only observed: record it.
    WouldReset(Box<Intent>),
    /// A reset is under way.
    Continue(Step),
    /// The VM is off, is to be on, and every gate lets it be started: count the start, then ask for it.
    Start,
}

/// What made an automatic reset due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The VM is silent.
    Silence,
    /// It exceeds a threshold with action Reset.
    Threshold,
}

/// A reset that may begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
    /// What made it due; none of a person's request.
    pub cause: Option<Cause>,
    /// The journal entry.
    pub current: CurrentReset,
    /// The episode it belongs to.
    pub episode: Option<Episode>,
    /// What was seen.
    pub evidence: Evidence,
    /// Why, in a sentence.
    pub why: String,
}

/// Decides on one VM.
pub fn decide(o: &Observed<'_>, now: Now) -> Decision {
    let status = o.vm.status.as_ref();
    let calm = match o.weather {
        Weather::Calm { since } => since,
        Weather::Storm { .. } | Weather::CoolDown { .. } => Mono(0),
    };
    let since = o.observer.since.max(o.hold_lifted).max(calm);
    let vital = Vital {
        effective: o.effective,
        status,
        heartbeat: o.heartbeat,
        since,
        listening: o.observer.since,
    };
    let life = life(&vital, now);
    let recent = status.map_or(&[][..], |s| s.recent_resets.as_slice());
    let current = status.and_then(|s| s.current_reset.as_ref());

    let manual = o.manual.filter(|_| current.is_none());
    let over = over(&vital, life, now);
    let manual_gate = manual.map(|_| gates(o, &vital, life, over, Trigger::Manual, now));
    let automatic = gates(o, &vital, life, over, Trigger::Automatic, now);
    let only_observed = gate::mode(o);
    let recorded = only_observed.is_some() && o.would_reset_recorded;
    let next = match (current, manual, &manual_gate) {
        (Some(current), _, _) => Next::Continue(journal::next(current, o.me, o.journal_unchanged, &vital, now)),
        (None, Some(_), Some(Gate::Open(_, Choice::AskGuestAgent))) => Next::AskGuestAgent,
        (None, Some(request), Some(Gate::Open(closer, Choice::Take(attempt)))) => {
            begin(o, &vital, closer, attempt, Some(request), over, now)
        }
        (None, _, Some(Gate::Unseen)) => Next::LookCloser,
        _ => match &automatic {
            _ if recorded => Next::Nothing,
            Gate::Open(closer, _) if over.is_none() && corroboration::must_ask(o.effective, closer) => Next::AskGuestAgent,
            Gate::Open(_, Choice::AskGuestAgent) => Next::AskGuestAgent,
            Gate::Open(closer, Choice::Take(attempt)) => {
                let next = begin(o, &vital, closer, attempt, None, over, now);
                if only_observed.is_some() { observed(next) } else { next }
            }
            Gate::Unseen => Next::LookCloser,
            Gate::Blocked(_) | Gate::Open(_, Choice::None(_)) => Next::Nothing,
        },
    };
    let power = power(o, now);
    let next = match (next, &power) {
        (Next::Nothing, Power::LookCloser) => Next::LookCloser,
        (Next::Nothing, Power::Start) => Next::Start,
        (next, _) => next,
    };
    // ResetAllowed speaks of Defib's own resets, also while a person's request is looked into.
    let automatic = match automatic {
        Gate::Blocked(blocked) => Some(blocked),
        _ => None,
    };
    let blocked = only_observed.as_ref().or(automatic.as_ref());

    let waits = !recorded && (over.is_some() || matches!(life, Life::Silent { .. }));
    let held = gate::holds(o, now);
    let well = current.is_none() && status.is_some_and(|s| s.episode.is_some()) && episode_over(&vital, fresh_since(o), now);
    let manual_waits = match manual_gate {
        Some(Gate::Blocked(b)) => Some(b),
        _ => None,
    };
    // Of a VM that is to be started.
    let again = match (&next, &power) {
        (Next::Nothing, Power::Blocked(b)) => b.opens_after.unwrap_or(soon(o)).max(Duration::from_secs(1)),
        _ => Duration::MAX,
    };
    Decision {
        conditions: words::conditions(o, &vital, life, &next, blocked, &power, now),
        identity: identity(status).or(o.uuid_in_proxmox),
        power_since: power_since(o, now),
        resets_in_window: u32::try_from(counted(recent, o.effective, now).len()).unwrap_or(u32::MAX),
        episode_over: well && over.is_none(),
        held,
        awaited: matches!(life, Life::Silent { .. } | Life::Grace { .. } | Life::Fresh { heard: false, .. }) || current.is_some(),
        armed: !matches!(life, Life::Unarmed(_)),
        ask_ahead: ask_ahead(o, &vital, life, now),
        check_after: check_after(o, &next, life, automatic.as_ref(), manual_waits.as_ref(), waits, now)
            .min(again)
            .min(threshold_due(&vital, now)),
        manual_waits,
        next,
    }
}

enum Gate<'a> {
    Blocked(Blocked),
    /// So far all pass; the rest needs a closer look.
    Unseen,
    /// All pass, and this would be done.
    Open(&'a Closer, Choice),
}

/// All gates in the order of rule 4.
fn gates<'a>(o: &Observed<'a>, vital: &Vital<'_>, life: Life, over: Option<&Threshold>, trigger: Trigger, now: Now) -> Gate<'a> {
    if let Some(b) = gate::declared(o, trigger, now) {
        return Gate::Blocked(b);
    }
    let due = looping(o, now).or_else(|| match over {
        Some(_) => gate::threshold(o, vital, now),
        None => gate::silence(o, vital, life, now),
    });
    if let Some(b) = due.filter(|_| trigger == Trigger::Automatic) {
        return Gate::Blocked(b);
    }
    let Some(closer) = o.closer else { return Gate::Unseen };
    if let Some(b) = gate::proxmox(o, closer, trigger) {
        return Gate::Blocked(b);
    }
    let choice = match o.manual.filter(|_| trigger == Trigger::Manual) {
        Some(request) => steps::manual(o.effective, request, closer),
        None => steps::automatic(o.effective, o.vm.status.as_ref().and_then(|s| s.episode.as_ref()), closer),
    };
    if let Choice::None(b) = choice {
        return Gate::Blocked(b);
    }
    if trigger == Trigger::Automatic
        && let Some(b) = corroboration::against(o.effective, o.vm.status.as_ref(), closer, life, now)
            .or_else(|| gate::budgets(o, closer, now))
            .or_else(|| gate::storm(o, closer, now))
    {
        return Gate::Blocked(b);
    }
    Gate::Open(closer, choice)
}

/// How long before the end of its time-out a VM's guest agent is asked.
fn ahead(o: &Observed<'_>) -> Duration {
    ASK_AHEAD.min(o.effective.timeout / 4)
}

fn ask_ahead(o: &Observed<'_>, vital: &Vital<'_>, life: Life, now: Now) -> bool {
    let (Life::Fresh { due, .. } | Life::Grace { due }) = life else {
        return false;
    };
    let asked = o.effective.guest_agent == GuestAgentCheck::Auto && gate::observer(o).is_none();
    let idle = o.vm.status.as_ref().is_none_or(|s| s.current_reset.is_none());
    // A storm is no reason not to ask: then the answer matters most.
    let held = || gate::configuration(o, Trigger::Automatic, now).is_some();
    asked && idle && vital.late(now) && due.since(now.mono) <= ahead(o) && !held()
}

/// How soon a VM that waits behind a gate is looked at again: often enough to be helped soon, seldom enough to spare Proxmox's three workers.
fn soon(o: &Observed<'_>) -> Duration {
    (o.effective.timeout / 8).clamp(Duration::from_secs(1), Duration::from_secs(10))
}

fn check_after(
    o: &Observed<'_>,
    next: &Next,
    life: Life,
    blocked: Option<&Blocked>,
    manual: Option<&Blocked>,
    waits: bool,
    now: Now,
) -> Duration {
    let soon = soon(o);
    let mut after = match next {
        Next::Continue(Step::Leave { recheck } | Step::Verify { recheck, .. }) => *recheck,
        Next::Continue(Step::Search { .. } | Step::Poll { .. } | Step::TakeOver | Step::Finish(_))
        | Next::Begin(_)
        | Next::WouldReset(_)
        | Next::LookCloser
        | Next::AskGuestAgent
        | Next::Start => Duration::from_secs(1),
        Next::Nothing => RESYNC,
    };
    if matches!(next, Next::Nothing) {
        after = after.min(match (life, blocked) {
            (_, Some(Blocked { opens_after: Some(d), .. })) if waits => (*d).min(Duration::from_secs(60)),
            _ if waits => soon,
            // First a moment before, to ask the guest agent; then when it is due.
            (Life::Fresh { due, .. } | Life::Grace { due }, _) => {
                let left = due.since(now.mono);
                left.checked_sub(ahead(o)).filter(|early| !early.is_zero()).unwrap_or(left)
            }
            (Life::Silent { .. } | Life::Unarmed(_), _) => RESYNC,
        });
        if manual.is_some() {
            after = after.min(soon);
        }
        if identity(o.vm.status.as_ref()).is_none() {
            after = after.min(Duration::from_secs(10));
        }
    }
    for (threshold, at) in &o.heartbeat.over_since {
        let alarm = at.plus(seconds(threshold.duration_seconds));
        if alarm > now.mono {
            after = after.min(alarm.since(now.mono));
        }
    }
    if let Some(opens) = gate::pause(o, now).and_then(|b| b.opens_after) {
        after = after.min(opens);
    }
    // Nothing tells when this is over, and what is said of it must not stay for a whole time-out.
    if o.observer.trouble.as_ref().is_some_and(Trouble::lasts) {
        after = after.min(Duration::from_secs(60));
    }
    if let Some(over) = looping(o, now).and_then(|b| b.opens_after) {
        after = after.min(over);
    }
    if let Some(changes) = o.windows.until() {
        after = after.min(now.until(changes));
    }
    if o.vm
        .status
        .as_ref()
        .is_some_and(|s| s.episode.is_some() && s.current_reset.is_none())
    {
        after = after.min(o.effective.stabilization);
    }
    after.max(Duration::from_millis(20))
}

/// When a threshold that resets may have been exceeded for long enough, as far as it was witnessed.
fn threshold_due(vital: &Vital<'_>, now: Now) -> Duration {
    let resets = vital
        .heartbeat
        .over_since
        .iter()
        .filter(|(t, _)| t.action == ThresholdAction::Reset);
    let due = resets.map(|(threshold, at)| (*at).max(vital.since).plus(seconds(threshold.duration_seconds)));
    let ahead = due.filter(|due| *due > now.mono).map(|due| due.since(now.mono));
    ahead.min().unwrap_or(RESYNC)
}

fn fresh_since(o: &Observed<'_>) -> Option<Timestamp> {
    let conditions = &o.vm.status.as_ref()?.conditions;
    let fresh = crate::conditions::find(conditions, kind::HEARTBEAT_FRESH)?;
    (fresh.status == "True").then_some(fresh.last_transition_time.0)
}
