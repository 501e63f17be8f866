//! Whether we ourselves could have heard the heartbeats (rule 1). Only silence that a healthy observer witnessed counts, so each trouble of ours starts all clocks anew.

use crate::time::{Mono, Now};
use std::time::Duration;

/// Period of the observer's own tick. There is one in every runtime.
pub const TICK: Duration = Duration::from_secs(1);
/// A tick this late means that the process or the machine stood still: reports may lie unread in the sockets.
const LATE: Duration = Duration::from_secs(3);
/// How long after a late tick nothing is decided: the reports that waited in the sockets are read first.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two ticks the wall clock may drift from the monotonic one by this much. More is a jump, or a machine that was suspended.
const JUMP: Duration = Duration::from_secs(2);
/// One write that fails is weather; the second in a row means that we cannot record what we decide.
const FAILED_WRITES: u32 = 2;

/// Why we cannot tell silence from deafness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Our own tick came late.
    LateTick,
    /// The wall clock jumped against the monotonic one.
    ClockJump,
    /// A report to our own listener failed or took too long.
    Loopback,
    /// A report of an agent was turned away.
    Shed,
    /// Another process is the decider, or nobody can tell.
    LeaseNotHeld,
    /// The API server does not take our journal, conditions or lease.
    WritesFailing,
}

impl Trouble {
    /// Reason of events and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::LateTick => "LateTick",
            Self::ClockJump => "ClockJump",
            Self::Loopback => "LoopbackFailed",
            Self::Shed => "ReportShed",
            Self::LeaseNotHeld => "LeaseNotHeld",
            Self::WritesFailing => "WritesFailing",
        }
    }

    /// In a sentence.
    pub fn message(self) -> &'static str {
        match self {
            Self::LateTick => "Defib itself stood still for over 3 s",
            Self::ClockJump => "the clock of Defib's machine jumped",
            Self::Loopback => "Defib's own report to its listener fails",
            Self::Shed => "Defib had to turn reports away",
            Self::LeaseNotHeld => "this Defib does not hold the lease",
            Self::WritesFailing => "the Kubernetes API does not take Defib's writes",
        }
    }
}

/// The observer's state. Troubles are either moments (a late tick, a jump, a shed report) or last until they are cleared.
#[derive(Clone, Debug)]
pub struct Observer {
    since: Mono,
    newest: Option<Trouble>,
    lasting: Vec<Trouble>,
    last_tick: Now,
    settle_until: Mono,
    failed_writes: u32,
}

/// The observer as a decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObserverView {
    /// Since when we have been able to hear all heartbeats.
    pub since: Mono,
    /// What keeps us from hearing them now.
    pub trouble: Option<Trouble>,
    /// A late tick was just now: decide nothing yet.
    pub settling: bool,
    /// What moved `since` last.
    pub newest: Option<Trouble>,
}

impl Observer {
    /// A process that starts: it has heard nothing yet, its listener is not proved and it holds no lease.
    pub fn new(now: Now) -> Self {
        Self {
            since: now.mono,
            newest: None,
            lasting: vec![Trouble::Loopback, Trouble::LeaseNotHeld],
            last_tick: now,
            settle_until: now.mono,
            failed_writes: 0,
        }
    }

    /// The observer's own tick, due each second. Returns what it found wrong.
    pub fn tick(&mut self, now: Now) -> Option<Trouble> {
        let found = self.stale(now).or_else(|| self.jumped(now));
        if let Some(trouble) = found {
            self.restart(trouble, now.mono);
            if trouble == Trouble::LateTick {
                self.settle_until = now.mono.plus(SETTLE);
            }
        }
        self.last_tick = now;
        found
    }

    /// A trouble of a moment.
    pub fn moment(&mut self, trouble: Trouble, now: Mono) {
        self.restart(trouble, now);
    }

    /// A trouble that lasts until it is cleared. Returns whether that is new.
    pub fn begin(&mut self, trouble: Trouble, now: Mono) -> bool {
        self.restart(trouble, now);
        let new = !self.lasting.contains(&trouble);
        if new {
            self.lasting.push(trouble);
        }
        new
    }

    /// A lasting trouble is over: clocks run from now. Returns whether there was one.
    pub fn end(&mut self, trouble: Trouble, now: Mono) -> bool {
        let before = self.lasting.len();
        self.lasting.retain(|t| *t != trouble);
        let ended = self.lasting.len() != before;
        if ended {
            self.restart(trouble, now);
        }
        ended
    }

    /// A write of journal, condition or lease failed or succeeded.
    pub fn wrote(&mut self, ok: bool, now: Mono) {
        if ok {
            self.failed_writes = 0;
            self.end(Trouble::WritesFailing, now);
        } else {
            self.failed_writes = self.failed_writes.saturating_add(1);
            if self.failed_writes >= FAILED_WRITES {
                self.begin(Trouble::WritesFailing, now);
            }
        }
    }

    /// How it stands now. Asked before the late tick itself could run, it sees the lateness all the same.
    pub fn view(&self, now: Now) -> ObserverView {
        if let Some(trouble) = self.stale(now).or_else(|| self.jumped(now)) {
            return ObserverView {
                since: now.mono,
                trouble: Some(trouble),
                settling: true,
                newest: Some(trouble),
            };
        }
        let trouble = self.lasting.first().copied();
        ObserverView {
            since: if trouble.is_some() { now.mono } else { self.since },
            trouble,
            settling: now.mono < self.settle_until,
            newest: self.newest,
        }
    }

    fn restart(&mut self, trouble: Trouble, now: Mono) {
        self.since = self.since.max(now);
        self.newest = Some(trouble);
    }

    fn stale(&self, now: Now) -> Option<Trouble> {
        (now.mono.since(self.last_tick.mono) > TICK + LATE).then_some(Trouble::LateTick)
    }

    fn jumped(&self, now: Now) -> Option<Trouble> {
        let wall = now.wall.as_millisecond().saturating_sub(self.last_tick.wall.as_millisecond());
        let mono = i64::try_from(now.mono.since(self.last_tick.mono).as_millis()).unwrap_or(i64::MAX);
        (u128::from(wall.abs_diff(mono)) > JUMP.as_millis()).then_some(Trouble::ClockJump)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn at(ms: u64) -> Now {
        Now {
            mono: Mono(ms),
            wall: Timestamp::from_millisecond(1_700_000_000_000 + ms as i64).unwrap(),
        }
    }

    fn serving() -> Observer {
        let mut o = Observer::new(at(0));
        o.end(Trouble::Loopback, Mono(100));
        o.end(Trouble::LeaseNotHeld, Mono(200));
        o.tick(at(1_000));
        o
    }

    #[test]
    fn observing_starts_when_listener_and_lease_are_proved() {
        let o = Observer::new(at(0));
        assert_eq!(o.view(at(500)).trouble, Some(Trouble::Loopback));
        assert_eq!(serving().view(at(1_500)).since, Mono(200));
        assert_eq!(serving().view(at(1_500)).trouble, None);
    }

    #[test]
    fn a_stopped_process_knows_it_before_its_tick_runs() {
        let mut o = serving();
        let v = o.view(at(60_000));
        assert_eq!((v.since, v.trouble, v.settling), (Mono(60_000), Some(Trouble::LateTick), true));
        assert_eq!(o.tick(at(60_001)), Some(Trouble::LateTick));
        let v = o.view(at(61_000));
        assert_eq!((v.since, v.trouble, v.settling), (Mono(60_001), None, true));
        for t in 61..=65 {
            o.tick(at(t * 1000 + 1));
        }
        assert!(!o.view(at(65_100)).settling);
    }

    #[test]
    fn a_tick_late_by_less_than_three_seconds_is_nothing() {
        let mut o = serving();
        assert_eq!(o.tick(at(5_000)), None);
        assert_eq!(o.view(at(5_000)).since, Mono(200));
    }

    #[test]
    fn a_jump_of_the_wall_clock_in_either_direction_restarts() {
        for jump in [-86_400_000i64, 86_400_000] {
            let mut o = serving();
            let mut now = at(2_000);
            now.wall = Timestamp::from_millisecond(now.wall.as_millisecond() + jump).unwrap();
            assert_eq!(o.view(now).trouble, Some(Trouble::ClockJump));
            assert_eq!(o.tick(now), Some(Trouble::ClockJump));
            assert_eq!(o.view(now).since, Mono(2_000));
        }
    }

    #[test]
    fn writes_that_keep_failing_are_trouble_until_one_succeeds() {
        let mut o = serving();
        o.wrote(false, Mono(1_100));
        assert_eq!(o.view(at(1_200)).trouble, None);
        o.wrote(false, Mono(1_300));
        assert_eq!(
            o.view(at(1_400)),
            ObserverView {
                since: Mono(1_400),
                trouble: Some(Trouble::WritesFailing),
                settling: false,
                newest: Some(Trouble::WritesFailing)
            }
        );
        o.wrote(true, Mono(1_500));
        assert_eq!((o.view(at(1_600)).since, o.view(at(1_600)).trouble), (Mono(1_500), None));
    }

    #[test]
    fn a_shed_report_restarts_the_clocks() {
        let mut o = serving();
        o.moment(Trouble::Shed, Mono(1_900));
        assert_eq!(o.view(at(2_000)).since, Mono(1_900));
    }
}
