//! Time as an argument: monotonic for ages, wall clock for what is stored and shown.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// A moment of the process's monotonic clock, in milliseconds since it started. Ages are measured by it alone, so that a jump of the wall clock silences nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// Time since `earlier`; zero when `earlier` lies ahead.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This moment and `d` later.
    #[must_use]
    pub fn plus(self, d: Duration) -> Mono {
        Mono(self.0.saturating_add(millis(d)))
    }
}

/// The present, read once from both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic clock.
    pub mono: Mono,
    /// Wall clock.
    pub wall: Timestamp,
}

impl Now {
    /// How long ago a stored time was by the wall clock; zero when it lies ahead.
    pub fn age(&self, stored: Timestamp) -> Duration {
        Duration::try_from(self.wall.duration_since(stored)).unwrap_or_default()
    }

    /// How far ahead a stored time lies by the wall clock; zero when it is past.
    pub fn until(&self, stored: Timestamp) -> Duration {
        Duration::try_from(stored.duration_since(self.wall)).unwrap_or_default()
    }

    /// A stored time on the monotonic clock: not after now, and zero for what lies before the start of the process.
    pub fn mono_of(&self, stored: Timestamp) -> Mono {
        Mono(self.mono.0.saturating_sub(millis(self.age(stored))))
    }

    /// A monotonic moment on the wall clock, to be stored or shown.
    pub fn wall_of(&self, moment: Mono) -> Timestamp {
        let (distance, ahead) = match moment.0.checked_sub(self.mono.0) {
            Some(ahead) => (ahead, true),
            None => (self.mono.0.saturating_sub(moment.0), false),
        };
        let distance = SignedDuration::from_millis(i64::try_from(distance).unwrap_or(i64::MAX));
        let moved = if ahead {
            self.wall.checked_add(distance)
        } else {
            self.wall.checked_sub(distance)
        };
        to_millis(moved.unwrap_or(self.wall))
    }
}

/// Cuts a time to whole milliseconds: what is stored then reads back equal.
pub fn to_millis(t: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(t.as_millisecond()).unwrap_or(t)
}

/// Cuts a time to whole seconds, as people read it.
pub fn to_seconds(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

/// Whole seconds as a duration.
pub fn seconds(n: u32) -> Duration {
    Duration::from_secs(u64::from(n))
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
