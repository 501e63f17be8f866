//! The reset that is under way, step by step (rules 5 to 7). What is in `status.currentReset` is all there is: after a crash at any point the same record leads to the same step.

use crate::life::{Life, Vital, life};
use crate::policy::Effective;
use crate::steps::last_attempt_of;
use crate::time::{Mono, Now, seconds, to_millis};
use defib_api::{AgentState, CurrentReset, Episode, ManagedVMStatus, Outcome, RecentReset, StepAction, TaskResult, Trigger};
use std::time::Duration;

/// Nothing is sent that was decided longer ago: what was true then may not be any more.
pub const INTENT_EXPIRES: Duration = Duration::from_secs(10);
/// An intent of another holder may belong to a process that is alive and slow. Six times what an intent lives, it is left alone.
pub const FOREIGN_INTENT: Duration = Duration::from_secs(60);
/// How long a request whose answer was lost is searched among the tasks: twice the longest that a proxy of Proxmox may hold it (40 s), and a little.
pub const SEARCH_FOR: Duration = Duration::from_secs(90);
/// How long the task of a reset may run. It takes under a second; after this long nobody knows.
const RESET_DEADLINE: Duration = Duration::from_secs(60);
/// A stop waits for QEMU: 10 s and more for each of its quit, SIGTERM and SIGKILL, and 10 s for a lock before them.
const STOP_DEADLINE: Duration = Duration::from_secs(120);
/// A guest that reboots in good order is given a minute by Proxmox, or as long as its `startup` says: mostly some minutes.
const GUEST_REBOOT_DEADLINE: Duration = Duration::from_secs(300);
/// The guest's uptime may exceed the time since our request by this much: its clock starts before ours hears of it, and both are rounded.
const UPTIME_SLACK: Duration = Duration::from_secs(5);
/// `recentResets` holds this many: maxResets is at most 10, and an intent that pushes an older one out may be taken back. More would only make the object heavier.
const RECENT: usize = 12;
/// Characters of Proxmox's words that the schema lets the journal hold. A longer text would be refused with the whole journal, again and again: the reset would
/// never end, and writes that keep failing hold all VMs back.
const ANSWER: usize = 256;

/// The present as a journal sees it that has been watched unchanged for so long: its newest time is at least as old. A wall clock that was set back would make it lie
/// ahead, and every deadline counted from it move along with the present.
pub fn clock(current: &CurrentReset, unchanged: Duration, now: Now) -> Now {
    let newest = current
        .task_end_time
        .max(current.sent_time)
        .unwrap_or(current.intent_time)
        .max(current.intent_time);
    let least = newest.checked_add(unchanged).unwrap_or(now.wall);
    Now {
        wall: now.wall.max(least),
        ..now
    }
}

/// How long the task of an action may run.
pub fn task_deadline(action: StepAction) -> Duration {
    match action {
        StepAction::Reset => RESET_DEADLINE,
        StepAction::PowerCycle => STOP_DEADLINE,
        StepAction::GuestReboot => GUEST_REBOOT_DEADLINE,
    }
}

/// What Proxmox was asked to do, in words.
fn word(action: StepAction) -> &'static str {
    match action {
        StepAction::Reset => "reset",
        StepAction::PowerCycle => "stop",
        StepAction::GuestReboot => "reboot",
    }
}

/// What to do next about the reset that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It belongs to another process that may be alive.
    Leave {
        /// Look again after this.
        recheck: Duration,
    },
    /// Its holder has not moved for long: make it ours, by compare-and-swap.
    TakeOver,
    /// Nobody knows whether the request was delivered: look among the tasks of the node since that time.
    Search {
        /// Intent time, by our wall clock.
        since: jiff::Timestamp,
    },
    /// Ask how the task is.
    Poll {
        /// The task.
        upid: String,
    },
    /// The VM has to prove that it is back.
    Verify {
        /// It has reported from a new boot, and has to stay fresh until then.
        stabilizing: bool,
        /// Look again after this.
        recheck: Duration,
    },
    /// It is over.
    Finish(Ending),
}

/// How a reset ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// In a word.
    pub outcome: Outcome,
    /// In a sentence.
    pub message: String,
    /// The boot that proved it.
    pub boot_id_after: Option<String>,
}

/// Finds the next step of the reset that is under way. `unchanged` is how long we have watched this very record.
pub fn next(current: &CurrentReset, me: &str, unchanged: Duration, vital: &Vital<'_>, now: Now) -> Step {
    if current.holder != me {
        return match FOREIGN_INTENT.checked_sub(unchanged) {
            Some(recheck) if !recheck.is_zero() => Step::Leave { recheck },
            _ => Step::TakeOver,
        };
    }
    let now = clock(current, unchanged, now);
    match (current.task_result, &current.upid) {
        (None, None) => Step::Search {
            since: current.intent_time,
        },
        (None, Some(upid)) => Step::Poll { upid: upid.clone() },
        (Some(TaskResult::Failed), _) => Step::Finish(Ending {
            outcome: Outcome::Failed,
            message: format!(
                "Proxmox could not {} the VM: {}",
                word(current.action),
                current.answer.as_deref().unwrap_or("no reason given")
            ),
            boot_id_after: None,
        }),
        (Some(result), _) => verify(current, result, vital, now),
    }
}

/// How long a VM must stay fresh after this reset: as was declared when it began, or less where less is declared since. A number that was a mistake would else keep
/// the VM in flight, and all others of its policy waiting, for a day after it was put right.
pub(crate) fn stabilization(current: &CurrentReset, effective: &Effective) -> Duration {
    let begun = seconds(current.stabilization_seconds);
    match effective.problem {
        None => begun.min(effective.stabilization),
        // Nobody knows what is meant.
        Some(_) => begun,
    }
}

/// Rule 6: recovered is a heartbeat received after the task ended, of a boot not known before, whose uptime is shorter than the time since our request, and that stays fresh.
fn verify(current: &CurrentReset, result: TaskResult, vital: &Vital<'_>, now: Now) -> Step {
    let ended = now.mono_of(current.task_end_time.unwrap_or(current.intent_time));
    // A deadline that passed while nobody listened tells nothing: first listen for as long as a living VM may be quiet.
    let deadline = ended
        .plus(seconds(current.recovery_deadline_seconds))
        .max(vital.listening.plus(vital.patience()));
    let stabilization = stabilization(current, vital.effective);
    if let Some(proof) = new_boot(current, vital, ended, now) {
        let stable_at = proof.since.plus(stabilization);
        let last_life = vital.heartbeat.last_life.unwrap_or_default();
        let silent_at = last_life.max(vital.listening).plus(vital.patience());
        // Each further boot begins the stabilization anew. A VM that boots again and again is never silent, and must not stay in flight for ever.
        let give_up = deadline.plus(stabilization + vital.patience());
        let stopped_well = proof.state == AgentState::Stopping;
        let end = |outcome, message| {
            Step::Finish(Ending {
                outcome,
                message,
                boot_id_after: Some(proof.boot_id.clone()),
            })
        };
        // One report alone may be the last gasp of a boot loop: the VM is heard once more when the time is over, or has said goodbye.
        if now.mono >= stable_at && (stopped_well || last_life >= stable_at) {
            return end(
                Outcome::Recovered,
                format!("the VM reported from a new boot and stayed fresh for {} s", stabilization.as_secs()),
            );
        }
        if !stopped_well && now.mono >= silent_at {
            // It came back and fell silent again: the same episode goes on.
            return end(
                Outcome::NotRecovered,
                format!(
                    "the VM reported from a new boot and fell silent again before it was stable for {} s",
                    stabilization.as_secs()
                ),
            );
        }
        if now.mono >= give_up {
            return end(
                Outcome::NotRecovered,
                format!(
                    "the VM boots again and again, and was never stable for {} s",
                    stabilization.as_secs()
                ),
            );
        }
        let due = if now.mono < stable_at { stable_at } else { silent_at };
        return Step::Verify {
            stabilizing: true,
            recheck: due.min(give_up).since(now.mono),
        };
    }
    if now.mono < deadline {
        return Step::Verify {
            stabilizing: false,
            recheck: deadline.since(now.mono),
        };
    }
    let waited = current.recovery_deadline_seconds;
    let word = word(current.action);
    let (outcome, message) = match result {
        TaskResult::Unknown => (
            Outcome::Unknown,
            format!("nobody knows whether Proxmox ran the {word}, and the VM did not report from a new boot within {waited} s"),
        ),
        TaskResult::Unresponsive => (
            Outcome::Unknown,
            format!("QEMU did not answer the {word}, and the VM did not report from a new boot within {waited} s"),
        ),
        TaskResult::OK | TaskResult::Failed => (
            Outcome::NotRecovered,
            format!("Proxmox ran the {word}, but the VM did not report from a new boot within {waited} s"),
        ),
    };
    Step::Finish(Ending {
        outcome,
        message,
        boot_id_after: None,
    })
}

struct Proof {
    boot_id: String,
    since: Mono,
    state: AgentState,
}

fn new_boot(current: &CurrentReset, vital: &Vital<'_>, ended: Mono, now: Now) -> Option<Proof> {
    let (received, report) = vital.heartbeat.report.as_ref()?;
    let known = current.boot_id_before.as_deref() == Some(&*report.boot_id) || vital.heartbeat.previous_boots.contains(&report.boot_id);
    // By the wall clock, as the request may be older than this process and its monotonic clock.
    let since_request = now
        .age(current.sent_time.unwrap_or(current.intent_time))
        .saturating_sub(now.mono.since(*received));
    let young = report.uptime_seconds < (since_request + UPTIME_SLACK).as_secs_f64();
    (!known && *received >= ended && young).then(|| Proof {
        boot_id: report.boot_id.to_string(),
        since: vital.heartbeat.boot_first_received.unwrap_or(*received).max(ended),
        state: report.state,
    })
}

/// What became of the request to Proxmox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A worker was started. That proves nothing yet.
    Task {
        /// Its id.
        upid: String,
    },
    /// It provably did not reach Proxmox.
    NotDelivered {
        /// Why.
        text: String,
    },
    /// Proxmox answered that it will not.
    Refused {
        /// Its words.
        text: String,
    },
    /// Nobody knows.
    Ambiguous {
        /// What was seen.
        text: String,
    },
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// Well.
    Ok,
    /// It refused before it touched the VM: a lock.
    Refused {
        /// Its words.
        text: String,
    },
    /// It failed, or was killed, where it may have reset the VM all the same.
    Unclear {
        /// Its words.
        text: String,
    },
    /// QEMU did not answer it; it may still do what it was asked for when it goes on.
    Unresponsive {
        /// Its words.
        text: String,
    },
    /// It failed.
    Failed {
        /// Its words.
        text: String,
    },
}

/// What follows for the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write this.
    Write(Box<CurrentReset>),
    /// Nothing happened to the VM: take the intent back; it costs no attempt.
    Withdraw {
        /// Why.
        reason: &'static str,
        /// In a sentence.
        message: String,
    },
    /// Look again after this.
    Wait(Duration),
}

/// After the request was sent at `sent_at`.
pub fn sent(current: &CurrentReset, outcome: Sent, sent_at: Now) -> Change {
    let sent_time = Some(to_millis(sent_at.wall));
    match outcome {
        Sent::Task { upid } => Change::Write(Box::new(CurrentReset {
            sent_time,
            upid: Some(upid),
            ..current.clone()
        })),
        Sent::Ambiguous { text } => Change::Write(Box::new(CurrentReset {
            sent_time,
            answer: Some(cut(&text)),
            ..current.clone()
        })),
        Sent::NotDelivered { text } => Change::Withdraw {
            reason: "NotDelivered",
            message: format!("the request did not reach Proxmox: {text}"),
        },
        Sent::Refused { text } if current.trigger == Trigger::Manual => ended(current, TaskResult::Failed, Some(text), sent_at),
        Sent::Refused { text } => refused(current, &text),
    }
}

/// After the node's tasks were searched (rule 7).
pub fn searched(current: &CurrentReset, found: Option<String>, now: Now) -> Change {
    if let Some(upid) = found {
        return Change::Write(Box::new(CurrentReset {
            upid: Some(upid),
            ..current.clone()
        }));
    }
    let (from, limit) = match current.sent_time {
        Some(sent) => (sent, SEARCH_FOR),
        None => (current.intent_time, SEARCH_FOR + INTENT_EXPIRES),
    };
    if now.age(from) < limit {
        return Change::Wait(Duration::from_secs(2));
    }
    ended(current, TaskResult::Unknown, None, now)
}

/// After the task was asked. `None`: it still runs.
pub fn polled(current: &CurrentReset, end: Option<TaskEnd>, now: Now) -> Change {
    match end {
        None if now.age(current.sent_time.unwrap_or(current.intent_time)) < task_deadline(current.action) => {
            Change::Wait(Duration::from_secs(1))
        }
        None => ended(
            current,
            TaskResult::Unknown,
            Some(format!("the task still runs after {} s", task_deadline(current.action).as_secs())),
            now,
        ),
        Some(TaskEnd::Ok) => ended(current, TaskResult::OK, None, now),
        Some(TaskEnd::Refused { text }) => refused(current, &text),
        Some(TaskEnd::Unresponsive { text }) => ended(current, TaskResult::Unresponsive, Some(text), now),
        Some(TaskEnd::Unclear { text }) => ended(current, TaskResult::Unknown, Some(text), now),
        Some(TaskEnd::Failed { text }) => ended(current, TaskResult::Failed, Some(text), now),
    }
}

fn refused(current: &CurrentReset, text: &str) -> Change {
    Change::Withdraw {
        reason: "RefusedByProxmox",
        message: format!("Proxmox refused the {}: {text}", word(current.action)),
    }
}

fn ended(current: &CurrentReset, result: TaskResult, answer: Option<String>, now: Now) -> Change {
    Change::Write(Box::new(CurrentReset {
        task_result: Some(result),
        task_end_time: Some(to_millis(now.wall)),
        answer: answer.as_deref().map(cut).or_else(|| current.answer.clone()),
        ..current.clone()
    }))
}

fn cut(text: &str) -> String {
    text.chars().take(ANSWER).collect()
}

/// The decider's part of the status that a step of the journal changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Books {
    /// The journal.
    pub current: Option<CurrentReset>,
    /// Automatic resets.
    pub recent: Vec<RecentReset>,
    /// The silence that is being cured.
    pub episode: Option<Episode>,
}

impl Books {
    /// As they stand.
    pub fn of(status: Option<&ManagedVMStatus>) -> Self {
        status.map_or_else(Self::default, |s| Self {
            current: s.current_reset.clone(),
            recent: s.recent_resets.clone(),
            episode: s.episode.clone(),
        })
    }

    /// An intent is entered. An automatic one counts from this moment: a crash after it must not raise the cap.
    #[must_use]
    pub fn begin(mut self, intent: CurrentReset, episode: Option<Episode>) -> Self {
        if intent.trigger == Trigger::Automatic {
            self.recent.push(RecentReset {
                name: intent.name.clone(),
                time: intent.intent_time,
            });
            let surplus = self.recent.len().saturating_sub(RECENT);
            self.recent.drain(..surplus);
        }
        self.episode = episode;
        self.current = Some(intent);
        self
    }

    /// An intent is taken back: it costs nothing.
    #[must_use]
    pub fn withdraw(mut self) -> Self {
        if let Some(current) = self.current.take()
            && current.trigger == Trigger::Automatic
        {
            self.recent.retain(|r| r.name != current.name);
            self.episode = self.episode.filter(|e| e.attempts > 1).map(|e| Episode {
                attempts: e.attempts.saturating_sub(1),
                ..e
            });
        }
        self
    }

    /// A reset has ended. After a hard failure - Proxmox could not do it, or QEMU does not answer - the same step would fail again: the next attempt is of the next.
    #[must_use]
    pub fn finish(mut self, outcome: Outcome, steps: &[defib_api::Step], now: Now) -> Self {
        let Some(current) = self.current.take() else { return self };
        let hard = matches!(current.task_result, Some(TaskResult::Failed | TaskResult::Unresponsive));
        let passed = if hard { last_attempt_of(steps, current.step) } else { 0 };
        self.episode = match outcome {
            Outcome::Recovered => None,
            // What a person tried is not an attempt of the episode.
            _ if current.trigger == Trigger::Manual => self.episode,
            _ => self.episode.map(|e| Episode {
                attempts: e.attempts.max(passed),
                last_end_time: Some(to_millis(now.wall)),
                ..e
            }),
        };
        self
    }
}

/// Automatic resets that count towards maxResets now, oldest first.
pub fn counted<'a>(recent: &'a [RecentReset], effective: &Effective, now: Now) -> Vec<&'a RecentReset> {
    recent.iter().filter(|r| counts(r.time, effective, now)).collect()
}

fn counts(time: jiff::Timestamp, effective: &Effective, now: Now) -> bool {
    now.age(time) < effective.window && !forgiven(time, effective, now)
}

/// maxResets is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capped {
    /// How many count now.
    pub counting: usize,
    /// The newest of those that have to leave the window first.
    pub last_to_leave: jiff::Timestamp,
    /// When it has left.
    pub opens_after: Duration,
}

/// Whether what was done at these times, oldest first, fills the cap of maxResets. After that was lowered, more than one has to leave the window.
pub fn capped(times: impl Iterator<Item = jiff::Timestamp>, effective: &Effective, now: Now) -> Option<Capped> {
    let counting: Vec<_> = times.filter(|time| counts(*time, effective, now)).collect();
    let most = usize::try_from(effective.max_resets).unwrap_or(usize::MAX);
    let surplus = counting.len().checked_sub(most)?;
    let last_to_leave = counting.get(surplus).copied().unwrap_or(now.wall);
    Some(Capped {
        counting: counting.len(),
        last_to_leave,
        opens_after: effective.window.saturating_sub(now.age(last_to_leave)),
    })
}

/// Whether a person has forgiven what was at `time`. A forgiveBefore that lies ahead forgives nothing yet: a mistyped year must not lift the cap for good.
pub fn forgiven(time: jiff::Timestamp, effective: &Effective, now: Now) -> bool {
    effective.forgive_before.is_some_and(|f| f <= now.wall && time < f)
}

/// An episode ends without our proof when the VM has simply been fresh again for stabilizationSeconds: it recovered by itself.
pub fn episode_over(vital: &Vital<'_>, fresh_since: Option<jiff::Timestamp>, now: Now) -> bool {
    matches!(life(vital, now), Life::Fresh { heard: true, .. }) && fresh_since.is_some_and(|t| now.age(t) >= vital.effective.stabilization)
}
