//! The time of a world: since it began, in milliseconds.

use jiff::{SignedDuration, Timestamp};
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// A moment of the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Time since `earlier`; zero when that lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This and so much later.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0 + later.as_millis() as u64)
    }

    /// This and so much earlier, at the earliest the beginning.
    #[must_use]
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(earlier.as_millis() as u64))
    }

    /// In seconds.
    pub fn seconds(seconds: u64) -> Self {
        Self(seconds * 1000)
    }
}

/// Minutes, seconds, milliseconds.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}.{:03}", self.0 / 60_000, self.0 / 1000 % 60, self.0 % 1000)
    }
}

/// What a right wall clock shows when the world begins.
pub const BEGINNING: Timestamp = Timestamp::constant(1_800_000_000, 0);

/// Reads the time.
#[derive(Clone, Copy, Debug)]
pub struct WorldClock {
    start: Instant,
}

impl WorldClock {
    /// The world begins now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The present.
    pub fn now(&self) -> Time {
        self.of(Instant::now())
    }

    /// The moment of an instant.
    pub fn of(&self, instant: Instant) -> Time {
        Time(instant.saturating_duration_since(self.start).as_millis() as u64)
    }

    /// The instant of a moment.
    pub fn instant(&self, time: Time) -> Instant {
        self.start + Duration::from_millis(time.0)
    }

    /// The moment of the world at which a right wall clock shows this; none where it is no time, or one before the world.
    pub fn world_time(text: &str) -> Option<Time> {
        let shown: Timestamp = text.parse().ok()?;
        let since = shown.as_millisecond() - BEGINNING.as_millisecond();
        u64::try_from(since).ok().map(Time)
    }

    /// What a right wall clock shows then.
    pub fn wall(&self, time: Time) -> Timestamp {
        BEGINNING + SignedDuration::from_millis(time.0 as i64)
    }
}
