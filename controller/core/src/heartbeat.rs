//! What is known of a VM's heartbeat, and how a new report changes it (rules 2 and 3).

use crate::boots::Boots;
use crate::time::Mono;
use defib_api::{AgentState, Metric, Threshold};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A report that has been checked: every number is finite and in range.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Name the guest gives itself. Information only.
    pub hostname: Option<Arc<str>>,
    /// SMBIOS UUID as the guest read it.
    pub machine_uuid: Option<Uuid>,
    /// Busy share of all CPUs, 0 to 100.
    pub cpu_percent: f64,
    /// Memory not available to programs, in bytes.
    pub memory_used_bytes: u64,
    /// All memory, in bytes.
    pub memory_total_bytes: u64,
    /// Disks, as reported.
    pub disks: Vec<Disk>,
    /// Seconds since the guest booted.
    pub uptime_seconds: f64,
    /// Id that the guest's kernel made at its boot.
    pub boot_id: Arc<str>,
    /// Running or Stopping.
    pub state: AgentState,
    /// Whether a service manager keeps the agent running.
    pub supervised: bool,
    /// Version of the agent.
    pub agent_version: Option<Arc<str>>,
    /// When the agent sent it, by its own clock, in milliseconds of the Unix epoch. Information only.
    pub sent_at_ms: Option<i64>,
}

/// One disk of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Mount point or drive letter.
    pub mount: Arc<str>,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Size in bytes.
    pub total_bytes: u64,
}

impl Report {
    /// Percent in use of what a threshold looks at, 0 to 100; none when the guest reported nothing of the kind.
    pub fn percent(&self, metric: Metric) -> Option<f64> {
        let share = |used: u64, total: u64| (total > 0).then(|| used as f64 * 100.0 / total as f64);
        match metric {
            Metric::CPU => Some(self.cpu_percent),
            Metric::Memory => share(self.memory_used_bytes, self.memory_total_bytes),
            Metric::Disk => self
                .disks
                .iter()
                .filter_map(|d| share(d.used_bytes, d.total_bytes))
                .reduce(f64::max),
        }
    }
}

/// What is said of a VM that sends more than it may.
const TOO_OFTEN: &str = "it reports too often; is its key in use twice?";

/// An alarm ends so many points of percent below its threshold: a value that swings around it would be two events with each swing.
const WAY_BACK: f64 = 5.0;

/// Older boot ids that are remembered. A late report of an earlier boot is told from a new boot by them; more than a few boots within the life of a late report do not happen.
const REMEMBERED_BOOTS: usize = 8;

/// What is known of the heartbeat of one VM. Everything is bounded, so the memory of a fleet is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heartbeat {
    /// Newest sign of life: any request with a valid key of this VM, from this machine.
    pub last_life: Option<Mono>,
    /// Newest accepted report and when it was received.
    pub report: Option<(Mono, Arc<Report>)>,
    /// When the first report of the present boot was received.
    pub boot_first_received: Option<Mono>,
    /// Boot ids received before the present one, newest last.
    pub previous_boots: VecDeque<Arc<str>>,
    /// Boots that were seen to begin and that we did not cause, of the last hour.
    pub boots: Boots,
    /// Newest request that was refused although its key was right, since the last accepted report (and a period longer when it was one too many).
    pub rejected: Option<Refusal>,
    /// Newest report of another machine with this VM's key.
    pub wrong_machine: Option<(Mono, Uuid)>,
    /// First and newest request that named this VM with a wrong key, since the last sign of life.
    pub wrong_key: Option<(Mono, Mono)>,
    /// Seconds after which the agent was told to report again, with its newest accepted report. It cannot report sooner because a policy changed since.
    pub promised_seconds: Option<u32>,
    /// Since when each threshold is exceeded without a break.
    pub over_since: Vec<(Threshold, Mono)>,
    /// Newest dropped report of the present boot with a lower uptime.
    pub(crate) rewound: Option<(Mono, f64)>,
}

/// A request that was refused although its key was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When.
    pub at: Mono,
    /// The field and the problem.
    pub detail: Arc<str>,
    /// An accepted report before this does not mend it: of a VM that reports too often some reports are accepted and some are not, and what is said of it
    /// shall not change with each.
    pub until: Mono,
}

/// What the decider tells the ledger about a VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expectation {
    /// The SMBIOS UUID that Proxmox has; none while it is not known, or where the key alone is trusted.
    pub identity: Option<Uuid>,
    /// Thresholds in force.
    pub thresholds: Vec<Threshold>,
    /// Silence is being cured or was seen: the next sign of life is news.
    pub awaited: bool,
    /// Time-out in force, in seconds; the publisher's pace depends on the shortest one.
    pub timeout_seconds: u32,
    /// Seconds between two reports that the agent is told.
    pub report_seconds: u32,
    /// The VM is armed, and so counts for the publisher's pace.
    pub armed: bool,
}

impl Expectation {
    /// Seconds after which the agent is told to report again. While the decider has said nothing yet, as after a start, that is soon: an agent that were told
    /// the built-in period then would be silent for too long under a faster policy.
    pub fn told_seconds(&self) -> u32 {
        self.report_seconds.max(1)
    }
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the newest. `wake` tells that the decider should look at once instead of at its next deadline.
    Accepted {
        /// Whether the decider should look at once.
        wake: bool,
    },
    /// It is older than what is known already. Life of this machine was seen before; nothing moves.
    Stale,
    /// It came from another machine than the one that Proxmox has under this VMID.
    WrongMachine,
}

impl Heartbeat {
    /// Takes a report that was received at `now` with a valid key.
    pub fn take(&mut self, report: Arc<Report>, expected: &Expectation, now: Mono) -> Taken {
        if let (Some(expected), Some(got)) = (expected.identity, report.machine_uuid)
            && !same_machine(expected, got)
        {
            self.wrong_machine = Some((now, got));
            return Taken::WrongMachine;
        }
        let known = self.report.as_ref().map(|(_, known)| (known.boot_id.clone(), known.uptime_seconds));
        let new_boot = match known {
            None => true,
            Some((boot_id, _)) if boot_id != report.boot_id => {
                // A snapshot that was rolled back brings an earlier boot back, which is none.
                let earlier = self.previous_boots.contains(&report.boot_id);
                if earlier && !self.is_rewind(&report, now) {
                    return Taken::Stale;
                }
                if !earlier {
                    self.boots.began(report.boot_id.clone(), now);
                }
                self.previous_boots.push_back(boot_id);
                if self.previous_boots.len() > REMEMBERED_BOOTS {
                    self.previous_boots.pop_front();
                }
                true
            }
            Some((_, uptime)) => {
                if report.uptime_seconds < uptime && !self.is_rewind(&report, now) {
                    return Taken::Stale;
                }
                false
            }
        };
        let changed = self.report.as_ref().is_none_or(|(_, known)| {
            known.state != report.state || known.supervised != report.supervised || known.machine_uuid != report.machine_uuid
        });
        let crossed = self.judge_thresholds(&report, &expected.thresholds, now);
        let mended = self.rejected.take_if(|r| r.until <= now).is_some() | self.wrong_key.take().is_some();
        if new_boot {
            self.boot_first_received = Some(now);
        }
        self.rewound = None;
        self.last_life = Some(now);
        self.promised_seconds = Some(expected.told_seconds());
        self.report = Some((now, report));
        Taken::Accepted {
            wake: new_boot || changed || crossed || mended || expected.awaited,
        }
    }

    /// A request with a valid key and a body that was refused: life, whatever it said. Returns whether the decider should look at once.
    pub fn refuse(&mut self, detail: Arc<str>, expected: &Expectation, now: Mono) -> bool {
        let news = self.rejected.is_none() || expected.awaited;
        self.last_life = Some(now);
        self.wrong_key = None;
        self.rejected = Some(Refusal {
            at: now,
            detail,
            until: now,
        });
        news
    }

    /// A request with a valid key that was one too many: it was heard, so it is life like any other that is refused. It is news only once: whoever sends too
    /// often must not have the decider look as often.
    pub fn limit(&mut self, expected: &Expectation, now: Mono) -> bool {
        let news = self.rejected.is_none();
        self.last_life = Some(now);
        self.wrong_key = None;
        self.rejected = Some(Refusal {
            at: now,
            detail: TOO_OFTEN.into(),
            until: now.plus(crate::time::seconds(expected.told_seconds())),
        });
        news
    }

    /// A request that named this VM with a wrong key: contact, not life. Returns whether the decider should look at once.
    pub fn contact(&mut self, now: Mono) -> bool {
        let first = self.wrong_key.map_or(now, |(first, _)| first);
        let news = self.wrong_key.is_none();
        self.wrong_key = Some((first, now));
        news
    }

    /// Judges what was received before the identity was known. Returns whether anything had to be given up.
    pub fn identify(&mut self, identity: Uuid) -> bool {
        let Some((at, got)) = self.report.as_ref().and_then(|(at, r)| r.machine_uuid.map(|u| (*at, u))) else {
            return false;
        };
        if same_machine(identity, got) {
            return false;
        }
        *self = Heartbeat {
            wrong_machine: Some((at, got)),
            ..Heartbeat::default()
        };
        true
    }

    /// A snapshot with memory that was rolled back goes on with an older boot or uptime, for good: dropping its reports for ever would make a living VM look
    /// silent. One such report may be a late one; a second one, received later and further on, is the guest's present.
    fn is_rewind(&mut self, report: &Report, now: Mono) -> bool {
        /// Late copies of one report arrive together; the next report of a living agent is at least the shortest period away.
        const APART: Duration = Duration::from_millis(900);
        match self.rewound {
            Some((at, uptime)) if now.since(at) >= APART && report.uptime_seconds > uptime => true,
            Some((at, _)) if now.since(at) < APART => false,
            _ => {
                self.rewound = Some((now, report.uptime_seconds));
                false
            }
        }
    }

    /// Keeps `over_since` true to the newest report. Returns whether any threshold was crossed, in either direction.
    fn judge_thresholds(&mut self, report: &Report, thresholds: &[Threshold], now: Mono) -> bool {
        let before = self.over_since.len();
        self.over_since.retain(|(t, since)| {
            let alarmed = now.since(*since) >= crate::time::seconds(t.duration_seconds);
            let percent = f64::from(t.percent);
            let limit = if alarmed { percent - WAY_BACK.min(percent / 2.0) } else { percent };
            thresholds.contains(t) && report.percent(t.metric).is_some_and(|p| p > limit)
        });
        let mut crossed = self.over_since.len() != before;
        for t in thresholds {
            let over = report.percent(t.metric).is_some_and(|p| p > f64::from(t.percent));
            if over && !self.over_since.iter().any(|(known, _)| known == t) {
                self.over_since.push((t.clone(), now));
                crossed = true;
            }
        }
        crossed
    }
}

/// Whether two SMBIOS UUIDs are of one machine. Firmware and kernels disagree about the byte order of the first three fields, so either order counts.
pub fn same_machine(a: Uuid, b: Uuid) -> bool {
    a == b || a.to_bytes_le() == *b.as_bytes()
}

#[cfg(test)]
mod tests;
