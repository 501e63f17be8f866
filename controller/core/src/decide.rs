//! The decision on one VM: a pure, total function of what is observed and of the time. Everything else carries it out.

use crate::conditions::{Draft, Is, kind};
use crate::fleet::Limits;
use crate::gate::{self, Blocked, Closer};
use crate::heartbeat::Heartbeat;
use crate::journal::{self, Step, counted, episode_over};
use crate::life::{Life, Unarmed, Vital, identity, life};
use crate::observer::ObserverView;
use crate::policy::{Effective, Found, step_of};
use crate::time::{Mono, Now, seconds, to_millis};
use defib_api::{CurrentReset, Episode, Evidence, ManagedVM, Metric, ProxmoxClusterSpec, Trigger, VMReset};
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
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The ManagedVM, cached or live.
    pub vm: &'a ManagedVM,
    /// Its HealthPolicy.
    pub policy: Found<'a>,
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
    /// Limits for each cluster and for all of Defib.
    pub limits: &'a Limits,
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
    /// Every gate lets this pass: enter it in the journal, then act.
    Begin(Box<Intent>),
    /// A reset is under way.
    Continue(Step),
}

/// A reset that may begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Intent {
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
    let since = o.observer.since.max(o.hold_lifted);
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
    let manual_gate = manual.map(|_| gates(o, &vital, life, Trigger::Manual, now));
    let automatic = gates(o, &vital, life, Trigger::Automatic, now);
    let next = match (current, manual, &manual_gate) {
        (Some(current), _, _) => Next::Continue(journal::next(current, o.me, o.journal_unchanged, &vital, now)),
        (None, Some(request), Some(Gate::Open(closer))) => begin(o, &vital, closer, Some(request), now),
        (None, _, Some(Gate::Unseen)) => Next::LookCloser,
        _ => match &automatic {
            Gate::Open(closer) => begin(o, &vital, closer, None, now),
            Gate::Unseen => Next::LookCloser,
            Gate::Blocked(_) => Next::Nothing,
        },
    };
    // ResetAllowed speaks of Defib's own resets, also while a person's request is looked into.
    let blocked = match automatic {
        Gate::Blocked(blocked) => Some(blocked),
        _ => None,
    };

    let held = gate::configuration(o, Trigger::Automatic, now).is_some();
    let over = current.is_none() && status.is_some_and(|s| s.episode.is_some()) && episode_over(&vital, fresh_since(o), now);
    let manual_waits = match manual_gate {
        Some(Gate::Blocked(b)) => Some(b),
        _ => None,
    };
    Decision {
        conditions: conditions(o, &vital, life, &next, blocked.as_ref(), now),
        identity: identity(status).or(o.uuid_in_proxmox),
        resets_in_window: u32::try_from(counted(recent, o.effective, now).len()).unwrap_or(u32::MAX),
        episode_over: over,
        held,
        awaited: matches!(life, Life::Silent { .. } | Life::Grace { .. } | Life::Fresh { heard: false, .. }) || current.is_some(),
        armed: !matches!(life, Life::Unarmed(_)),
        check_after: check_after(o, &next, life, blocked.as_ref(), manual_waits.as_ref(), now),
        manual_waits,
        next,
    }
}

enum Gate<'a> {
    Blocked(Blocked),
    /// So far all pass; the rest needs a closer look.
    Unseen,
    Open(&'a Closer),
}

/// All gates in the order of rule 4.
fn gates<'a>(o: &Observed<'a>, vital: &Vital<'_>, life: Life, trigger: Trigger, now: Now) -> Gate<'a> {
    if let Some(b) = gate::configuration(o, trigger, now) {
        return Gate::Blocked(b);
    }
    if trigger == Trigger::Automatic
        && let Some(b) = gate::silence(o, vital, life, now)
    {
        return Gate::Blocked(b);
    }
    let Some(closer) = o.closer else { return Gate::Unseen };
    if let Some(b) = gate::proxmox(o, closer, trigger) {
        return Gate::Blocked(b);
    }
    if trigger == Trigger::Automatic
        && let Some(b) = gate::budgets(o, closer, now)
    {
        return Gate::Blocked(b);
    }
    Gate::Open(closer)
}

fn begin(o: &Observed<'_>, vital: &Vital<'_>, closer: &Closer, request: Option<&VMReset>, now: Now) -> Next {
    let Ok(look) = &closer.look else { return Next::Nothing };
    let name = o.vm.metadata.name.as_deref().unwrap_or_default();
    let intent_time = to_millis(now.wall);
    let running = o.vm.status.as_ref().and_then(|s| s.episode.clone());
    let (vmreset, attempt, step_number, step, episode) = if let Some(request) = request {
        let Some((number, step)) = step_of(&o.effective.steps, 1) else {
            return Next::Nothing;
        };
        (request.metadata.name.clone().unwrap_or_default(), 1, number, step, running)
    } else {
        // An episode whose steps are used up has passed its gate only because its window is over: a new one begins.
        let known = running.filter(|e| step_of(&o.effective.steps, e.attempts.saturating_add(1)).is_some());
        let attempt = known.as_ref().map_or(1, |e| e.attempts.saturating_add(1));
        let Some((number, step)) = step_of(&o.effective.steps, attempt) else {
            return Next::Nothing;
        };
        let mut episode = known.unwrap_or_else(|| Episode {
            id: base36(now.wall.as_millisecond()),
            start_time: intent_time,
            attempts: 0,
            last_end_time: None,
        });
        episode.attempts = attempt;
        (format!("{name}-{}-{attempt}", episode.id), attempt, number, step, Some(episode))
    };
    let published = o.vm.status.as_ref().and_then(|s| s.heartbeat.as_ref());
    let newest = vital.heartbeat.report.as_ref();
    let boot_id_before = newest
        .map(|(_, r)| r.boot_id.to_string())
        .or_else(|| published.and_then(|h| h.boot_id.clone()));
    let last_received = vital
        .heartbeat
        .last_life
        .map(|at| now.wall_of(at))
        .or_else(|| published.and_then(|h| h.last_received_time));
    let silent = match life(vital, now) {
        Life::Silent { since } => Some(u32::try_from(now.mono.since(since).as_secs()).unwrap_or(u32::MAX)),
        _ => None,
    };
    let percent = |metric| newest.and_then(|(_, r)| r.percent(metric)).map(|p| p.round() as u32);
    let why = match (request, silent) {
        (Some(r), _) => format!(
            "requested by {}{}",
            r.spec.requested_by.as_deref().unwrap_or("an unnamed person"),
            r.spec.reason.as_deref().map(|t| format!(": {t}")).unwrap_or_default()
        ),
        (None, s) => format!("silent for {} s, as witnessed by Defib", s.unwrap_or_default()),
    };
    Next::Begin(Box::new(Intent {
        current: CurrentReset {
            name: vmreset,
            request_uid: request.and_then(|r| r.metadata.uid.clone()),
            holder: o.me.to_owned(),
            trigger: if request.is_some() { Trigger::Manual } else { Trigger::Automatic },
            action: step.action,
            step: step_number,
            attempt,
            recovery_deadline_seconds: step.recovery_deadline_seconds,
            stabilization_seconds: u32::try_from(o.effective.stabilization.as_secs()).unwrap_or(u32::MAX),
            intent_time,
            node: look.node.clone(),
            boot_id_before,
            sent_time: None,
            upid: None,
            task_end_time: None,
            task_result: None,
            answer: None,
        },
        episode,
        evidence: Evidence {
            silent_seconds: silent,
            last_received_time: last_received,
            qmp_status: Some(look.qmp_status.clone()),
            qemu_uptime_seconds: Some(look.uptime.as_secs()),
            ha_state: look.ha_state.clone(),
            cpu_percent: percent(Metric::CPU),
            memory_percent: percent(Metric::Memory),
            fleet: Some(format!(
                "{} of {} unhealthy",
                closer.fleet.all.unhealthy, closer.fleet.all.population
            )),
        },
        why,
    }))
}

/// Short, sortable, legal in a name, and not used twice for one VM: two episodes do not begin in one millisecond.
fn base36(n: i64) -> String {
    let mut n = n.unsigned_abs();
    let mut digits = Vec::new();
    while n > 0 {
        let d = u32::try_from(n % 36).unwrap_or(0);
        digits.extend(char::from_digit(d, 36));
        n /= 36;
    }
    digits.iter().rev().collect()
}

fn check_after(o: &Observed<'_>, next: &Next, life: Life, blocked: Option<&Blocked>, manual: Option<&Blocked>, now: Now) -> Duration {
    // A silent VM behind a gate is looked at again often enough to be helped soon, seldom enough to spare Proxmox's three workers.
    let soon = (o.effective.timeout / 8).clamp(Duration::from_secs(1), Duration::from_secs(10));
    let mut after = match next {
        Next::Continue(Step::Leave { recheck } | Step::Verify { recheck, .. }) => *recheck,
        Next::Continue(Step::Search { .. } | Step::Poll { .. } | Step::TakeOver | Step::Finish(_)) | Next::Begin(_) | Next::LookCloser => {
            Duration::from_secs(1)
        }
        Next::Nothing => RESYNC,
    };
    if matches!(next, Next::Nothing) {
        after = after.min(match (life, blocked) {
            (Life::Fresh { due, .. } | Life::Grace { due }, _) => due.since(now.mono),
            (Life::Silent { .. }, Some(Blocked { opens_after: Some(d), .. })) => (*d).min(Duration::from_secs(60)),
            (Life::Silent { .. }, _) => soon,
            (Life::Unarmed(_), _) => RESYNC,
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
    if o.vm
        .status
        .as_ref()
        .is_some_and(|s| s.episode.is_some() && s.current_reset.is_none())
    {
        after = after.min(o.effective.stabilization);
    }
    after.max(Duration::from_millis(20))
}

fn fresh_since(o: &Observed<'_>) -> Option<Timestamp> {
    let conditions = &o.vm.status.as_ref()?.conditions;
    let fresh = crate::conditions::find(conditions, kind::HEARTBEAT_FRESH)?;
    (fresh.status == "True").then_some(fresh.last_transition_time.0)
}

fn conditions(o: &Observed<'_>, vital: &Vital<'_>, life: Life, next: &Next, blocked: Option<&Blocked>, now: Now) -> Vec<Draft> {
    let fresh = heartbeat_fresh(o, vital, life, now);
    let within = within_thresholds(o, now);
    let allowed = reset_allowed(o, vital, life, next, blocked, now);
    let resetting = resetting(o, next);
    let adopted = adopted(o);
    let ready = ready(o, life, &fresh, &within, &allowed, &resetting, &adopted);
    vec![ready, fresh, within, allowed, resetting, adopted]
}

fn heartbeat_fresh(o: &Observed<'_>, vital: &Vital<'_>, life: Life, now: Now) -> Draft {
    let draft = |is, reason, message: String| Draft::new(kind::HEARTBEAT_FRESH, is, reason, message);
    let rejected = o.heartbeat.rejected.as_ref().filter(|r| now.mono.since(r.at) < o.effective.timeout);
    match life {
        Life::Unarmed(why) => match rejected {
            Some(r) => draft(
                Is::Unknown,
                "Rejected",
                format!("the agent's key is right, but its reports are refused: {}", r.detail),
            ),
            None => draft(Is::Unknown, why.reason(), why.message()),
        },
        Life::Fresh { heard: true, .. } => match rejected {
            Some(r) => draft(
                Is::True,
                "Rejected",
                format!("the VM lives, but its reports are refused: {}", r.detail),
            ),
            None => draft(
                Is::True,
                "Fresh",
                format!("heartbeats come; {} s of silence are borne", o.effective.timeout.as_secs()),
            ),
        },
        Life::Fresh { heard: false, .. } => draft(
            Is::Unknown,
            "Listening",
            format!(
                "no heartbeat yet since Defib listens, for less than {} s",
                o.effective.timeout.as_secs()
            ),
        ),
        Life::Grace { .. } => draft(Is::False, "StartupGrace", "no heartbeat; the guest booted a moment ago".into()),
        Life::Silent { .. } => {
            let last = vital
                .heartbeat
                .last_life
                .map(|at| now.wall_of(at))
                .or_else(|| vital.status.and_then(|s| s.heartbeat.as_ref()).and_then(|h| h.last_received_time));
            let last = last.and_then(|t| Timestamp::from_second(t.as_second()).ok()).map(|t| t.to_string());
            draft(
                Is::False,
                "Silent",
                format!(
                    "no heartbeat since {} ; at most {} s of silence are borne",
                    last.as_deref().unwrap_or("Defib listens"),
                    o.effective.timeout.as_secs()
                )
                .replace(" ;", ";"),
            )
        }
    }
}

fn within_thresholds(o: &Observed<'_>, now: Now) -> Draft {
    if o.effective.thresholds.is_empty() {
        return Draft::new(kind::WITHIN_THRESHOLDS, Is::True, "NoThresholds", "no thresholds are declared");
    }
    if o.heartbeat.report.is_none() {
        return Draft::new(kind::WITHIN_THRESHOLDS, Is::Unknown, "NoReport", "no report since Defib listens");
    }
    let exceeded: Vec<String> = o
        .heartbeat
        .over_since
        .iter()
        .filter(|(t, at)| now.mono.since(*at) >= seconds(t.duration_seconds))
        .map(|(t, _)| format!("{:?} above {} % for {} s", t.metric, t.percent, t.duration_seconds))
        .collect();
    if exceeded.is_empty() {
        Draft::new(
            kind::WITHIN_THRESHOLDS,
            Is::True,
            "WithinThresholds",
            "usage is within the thresholds",
        )
    } else {
        Draft::new(kind::WITHIN_THRESHOLDS, Is::False, "ThresholdExceeded", exceeded.join("; "))
    }
}

fn reset_allowed(o: &Observed<'_>, vital: &Vital<'_>, life: Life, next: &Next, blocked: Option<&Blocked>, now: Now) -> Draft {
    let draft = |is, reason, message: String| Draft::new(kind::RESET_ALLOWED, is, reason, message);
    if matches!(next, Next::Continue(_)) {
        return draft(Is::False, "ResetUnderWay", "a reset is under way".into());
    }
    let exhausted = || {
        // Worth saying before the VM falls silent, as a person must lift it.
        let closer = Closer {
            look: Err(gate::LookFailed {
                reason: "",
                message: String::new(),
            }),
            fleet: crate::fleet::Fleet::default(),
        };
        gate::budgets(o, &closer, now)
    };
    match (life, blocked) {
        (Life::Fresh { .. }, Some(b)) if b.reason == "NotSilent" => {
            match gate::observer(o).filter(|b| b.reason == "ManagedByAnother").or_else(exhausted) {
                Some(b) => draft(Is::False, b.reason, b.message),
                None => draft(
                    Is::True,
                    "Armed",
                    format!(
                        "the VM is reset when it is silent for {} s and every gate lets it pass",
                        vital.effective.timeout.as_secs()
                    ),
                ),
            }
        }
        (_, Some(b)) => draft(Is::False, b.reason, b.message.clone()),
        (_, None) => draft(Is::True, "AllGatesPass", "every gate lets a reset pass".into()),
    }
}

fn resetting(o: &Observed<'_>, next: &Next) -> Draft {
    let draft = |is, reason, message: String| Draft::new(kind::RESETTING, is, reason, message);
    let Some(current) = o.vm.status.as_ref().and_then(|s| s.current_reset.as_ref()) else {
        return draft(Is::False, "NoReset", "no reset is under way".into());
    };
    let reset = format!("VMReset {}, attempt {}", current.name, current.attempt);
    match next {
        Next::Continue(Step::Leave { .. }) => draft(Is::True, "HeldByAnother", format!("{reset}: {} carries it out", current.holder)),
        Next::Continue(Step::Search { .. }) => draft(
            Is::True,
            "Searching",
            format!("{reset}: it is not known whether the request reached Proxmox; its task is searched"),
        ),
        Next::Continue(Step::Poll { .. }) => draft(Is::True, "TaskRunning", format!("{reset}: the task of Proxmox runs")),
        Next::Continue(Step::Verify { stabilizing: false, .. }) => draft(
            Is::True,
            "Verifying",
            format!(
                "{reset}: a heartbeat of a new boot is awaited, for {} s at most",
                current.recovery_deadline_seconds
            ),
        ),
        Next::Continue(Step::Verify { stabilizing: true, .. }) => draft(
            Is::True,
            "Stabilizing",
            format!(
                "{reset}: the VM reports from a new boot; it counts as recovered after {} s",
                current.stabilization_seconds
            ),
        ),
        _ => draft(Is::True, "Resetting", reset),
    }
}

fn adopted(o: &Observed<'_>) -> Draft {
    let draft = |is, reason, message: String| Draft::new(kind::ADOPTED, is, reason, message);
    let vmid = o.vm.spec.proxmox.vmid;
    let cluster = &o.vm.spec.proxmox.cluster_ref.name;
    let recorded = identity(o.vm.status.as_ref()).or(o.uuid_in_proxmox);
    match o.inventory {
        Inventory::NoCluster => {
            return draft(
                Is::False,
                "ClusterNotFound",
                format!("ProxmoxCluster {cluster:?} does not exist in this namespace"),
            );
        }
        Inventory::Absent => {
            return draft(
                Is::False,
                "VMNotFound",
                format!("Proxmox shows no VM {vmid}: it does not exist, or the token lacks VM.Audit on /vms/{vmid}"),
            );
        }
        Inventory::Unread { message } if recorded.is_none() => return draft(Is::Unknown, "ProxmoxUnreachable", message.clone()),
        Inventory::Unread { .. } | Inventory::Row { .. } => {}
    }
    if let (Some(recorded), Some(present)) = (recorded, o.uuid_in_proxmox)
        && recorded != present
    {
        return draft(
            Is::False,
            "IdentityChanged",
            format!("VMID {vmid} now belongs to machine {present}, recorded was {recorded}"),
        );
    }
    if let Some(other) = o.duplicate_of {
        return draft(
            Is::False,
            "DuplicateMachine",
            format!("ManagedVM {other} is the same machine and is older; it decides"),
        );
    }
    match recorded {
        Some(uuid) => draft(
            Is::True,
            "Adopted",
            format!("VM {vmid} of ProxmoxCluster {cluster}, machine {uuid}"),
        ),
        None if o.effective.identity == defib_api::IdentityCheck::Trust => draft(
            Is::True,
            "Adopted",
            format!("VM {vmid} of ProxmoxCluster {cluster}; its key alone is trusted"),
        ),
        None => draft(
            Is::Unknown,
            "IdentityUnknown",
            format!("Proxmox has not told the SMBIOS UUID of VM {vmid}"),
        ),
    }
}

fn ready(o: &Observed<'_>, life: Life, fresh: &Draft, within: &Draft, allowed: &Draft, resetting: &Draft, adopted: &Draft) -> Draft {
    let from = |is, d: &Draft| Draft::new(kind::READY, is, d.reason, d.message.clone());
    let as_state = |is, reason, d: &Draft| Draft::new(kind::READY, is, reason, d.message.clone());
    if o.vm.metadata.deletion_timestamp.is_some() {
        return Draft::new(
            kind::READY,
            Is::False,
            "Deleting",
            "this ManagedVM is being deleted; its VM is left alone",
        );
    }
    if resetting.is == Is::True {
        let reason = match resetting.reason {
            "Verifying" | "Stabilizing" => "Recovering",
            _ => "Resetting",
        };
        return as_state(Is::False, reason, resetting);
    }
    if let Some(problem) = &o.effective.problem {
        return Draft::new(kind::READY, Is::False, problem.reason(), problem.to_string());
    }
    if adopted.is == Is::False {
        return from(Is::False, adopted);
    }
    let exhausted = matches!(allowed.reason, "ResetsExhausted" | "StepsExhausted");
    match (life, o.inventory) {
        (Life::Silent { .. } | Life::Grace { .. } | Life::Unarmed(_), Inventory::Row { status, .. }) if status == "stopped" => Draft::new(
            kind::READY,
            Is::False,
            "Stopped",
            "Proxmox says that the VM is stopped; it is left so",
        ),
        (Life::Silent { .. }, _) if exhausted => from(Is::False, allowed),
        (Life::Silent { .. } | Life::Grace { .. }, _) => from(Is::False, fresh),
        (Life::Unarmed(Unarmed::WrongMachine(_)), _) => from(Is::False, fresh),
        (Life::Unarmed(_) | Life::Fresh { heard: false, .. }, _) => from(Is::Unknown, fresh),
        (Life::Fresh { .. }, _) if allowed.reason == "Paused" => from(Is::True, allowed),
        (Life::Fresh { .. }, _) if within.is == Is::False => from(Is::True, within),
        (Life::Fresh { .. }, _) if fresh.reason == "Rejected" => from(Is::True, fresh),
        (Life::Fresh { .. }, _) => Draft::new(kind::READY, Is::True, "Healthy", "heartbeats come"),
    }
}
