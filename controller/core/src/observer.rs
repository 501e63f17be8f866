//! Whether we ourselves could have heard the heartbeats (rule 1). Only silence that a healthy observer witnessed counts, so each trouble of ours starts all clocks anew.

use crate::time::{Mono, Now};
use std::borrow::Cow;
use std::sync::Arc;
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
/// So many of our reports through the public URL must fail in a row. One or two fail while a proxy reloads or its pod is replaced, and each trouble starts all
/// silence anew. Three, of which one is sent each 5 s and given up after 4 s, are seen at most 20 s after the outage began: before anybody's time-out from 30 s on.
const FAILED_PUBLIC: u32 = 3;

/// Why we cannot tell silence from deafness.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Our reports through the public URL, the way that agents' reports come, do not arrive any more. Which URL, and why.
    PublicUrl(Arc<str>),
}

impl Trouble {
    /// All that [`Trouble::reason`] says.
    pub const REASONS: [&'static str; 7] = [
        "LateTick",
        "ClockJump",
        "LoopbackFailed",
        "ReportShed",
        "LeaseNotHeld",
        "WritesFailing",
        "PublicURLFailed",
    ];

    /// Reason of events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::LateTick => "LateTick",
            Self::ClockJump => "ClockJump",
            Self::Loopback => "LoopbackFailed",
            Self::Shed => "ReportShed",
            Self::LeaseNotHeld => "LeaseNotHeld",
            Self::WritesFailing => "WritesFailing",
            Self::PublicUrl(_) => "PublicURLFailed",
        }
    }

    /// In a sentence.
    pub fn message(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::PublicUrl(why) => {
                return format!("Defib's own reports through its public URL, the way of the agents, fail ({why})").into();
            }
            Self::LateTick => "Defib itself stood still for over 3 s",
            Self::ClockJump => "the clock of Defib's machine jumped",
            Self::Loopback => "Defib's own report to its listener fails",
            Self::Shed => "Defib had to turn reports away",
            Self::LeaseNotHeld => "this Defib does not hold the lease",
            Self::WritesFailing => "the Kubernetes API does not take Defib's writes",
        })
    }

    /// Whether it may last for long, and so is worth a write to the status of each VM that it keeps from being silent.
    pub fn lasts(&self) -> bool {
        matches!(self, Self::PublicUrl(_))
    }

    fn is(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
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
    /// Failures in a row of our reports through the public URL; none as long as none of them has come back.
    failed_public: Option<u32>,
}

/// The observer as a decision sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
            failed_public: None,
        }
    }

    /// The observer's own tick, due each second. Returns what it found wrong.
    pub fn tick(&mut self, now: Now) -> Option<Trouble> {
        let found = self.stale(now).or_else(|| self.jumped(now));
        if let Some(trouble) = &found {
            self.restart(trouble, now.mono);
            if *trouble == Trouble::LateTick {
                self.settle_until = now.mono.plus(SETTLE);
            }
        }
        self.last_tick = now;
        found
    }

    /// A trouble of a moment.
    pub fn moment(&mut self, trouble: &Trouble, now: Mono) {
        self.restart(trouble, now);
    }

    /// A trouble that lasts until it is cleared. Returns whether that is new: one that stands already keeps the words that it began with, as each change of them
    /// would be a write to many statuses.
    pub fn begin(&mut self, trouble: Trouble, now: Mono) -> bool {
        self.restart(&trouble, now);
        let new = !self.lasting.iter().any(|t| t.is(&trouble));
        if new {
            self.lasting.push(trouble);
        }
        new
    }

    /// A lasting trouble is over: clocks run from now. Returns whether there was one.
    pub fn end(&mut self, trouble: &Trouble, now: Mono) -> bool {
        let before = self.lasting.len();
        self.lasting.retain(|t| !t.is(trouble));
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
            self.end(&Trouble::WritesFailing, now);
        } else {
            self.failed_writes = self.failed_writes.saturating_add(1);
            if self.failed_writes >= FAILED_WRITES {
                self.begin(Trouble::WritesFailing, now);
            }
        }
    }

    /// A report of ours through the public URL came back to this process, or did not, and why. Before the first that came back, failures are no trouble: an address
    /// that was mistyped, or that nothing inside the cluster reaches, would forbid every reset. Nor is anything remembered beyond the life of the process: what
    /// stops it from hearing then has no witness of better times, and a person could not lift it by a restart. Returns whether the trouble has begun or ended.
    pub fn public(&mut self, came: Result<(), Arc<str>>, now: Mono) -> bool {
        match (came, self.failed_public) {
            (Ok(()), _) => {
                self.failed_public = Some(0);
                self.end(&Trouble::PublicUrl("".into()), now)
            }
            (Err(_), None) => false,
            (Err(why), Some(failed)) => {
                let failed = failed.saturating_add(1);
                self.failed_public = Some(failed);
                failed >= FAILED_PUBLIC && self.begin(Trouble::PublicUrl(why), now)
            }
        }
    }

    /// How it stands now. Asked before the late tick itself could run, it sees the lateness all the same.
    pub fn view(&self, now: Now) -> ObserverView {
        if let Some(trouble) = self.stale(now).or_else(|| self.jumped(now)) {
            return ObserverView {
                since: now.mono,
                trouble: Some(trouble.clone()),
                settling: true,
                newest: Some(trouble),
            };
        }
        // Of several the one that is nearest to us: with our listener, what lies before it fails too.
        let trouble = self.lasting.iter().min().cloned();
        ObserverView {
            since: if trouble.is_some() { now.mono } else { self.since },
            trouble,
            settling: now.mono < self.settle_until,
            newest: self.newest.clone(),
        }
    }

    fn restart(&mut self, trouble: &Trouble, now: Mono) {
        self.since = self.since.max(now);
        self.newest = Some(trouble.clone());
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
        o.end(&Trouble::Loopback, Mono(100));
        o.end(&Trouble::LeaseNotHeld, Mono(200));
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
        o.moment(&Trouble::Shed, Mono(1_900));
        assert_eq!(o.view(at(2_000)).since, Mono(1_900));
    }

    /// Results of our reports through the public URL, one each second: `+` came back, `-` did not.
    fn public(results: &str) -> Observer {
        let mut o = serving();
        for (n, result) in (1_000..).step_by(1_000).zip(results.chars()) {
            let came = if result == '+' {
                Ok(())
            } else {
                Err(format!("failed at {n}").into())
            };
            o.public(came, Mono(n));
        }
        o
    }

    #[test]
    fn the_public_url_is_trouble_when_it_has_worked_and_fails_three_times_in_a_row() {
        let cases = [
            ("----------", None, 200),
            ("+", None, 200),
            ("+--", None, 200),
            ("+--+--+--", None, 200),
            ("+---", Some("failed at 4000"), 4_900),
            ("+------", Some("failed at 4000"), 4_900),
            ("----+---", Some("failed at 8000"), 4_900),
            ("+---+", None, 5_000),
            ("+---+--", None, 5_000),
        ];
        for (results, trouble, since) in cases {
            let view = public(results).view(at(4_900));
            let expected = trouble.map(|why| Trouble::PublicUrl(why.into()));
            assert_eq!((view.trouble, view.since), (expected, Mono(since)), "{results}");
        }
    }

    #[test]
    fn of_two_troubles_the_one_nearer_to_us_is_told() {
        let mut o = public("+---");
        o.begin(Trouble::Loopback, Mono(4_100));
        assert_eq!(o.view(at(4_200)).trouble, Some(Trouble::Loopback));
        o.end(&Trouble::Loopback, Mono(4_300));
        assert!(o.view(at(4_400)).trouble.is_some_and(|t| t.lasts()));
    }

    #[test]
    fn each_reason_is_listed() {
        let all = [
            Trouble::LateTick,
            Trouble::ClockJump,
            Trouble::Loopback,
            Trouble::Shed,
            Trouble::LeaseNotHeld,
            Trouble::WritesFailing,
            Trouble::PublicUrl("".into()),
        ];
        assert_eq!(all.each_ref().map(Trouble::reason), Trouble::REASONS);
    }
}
