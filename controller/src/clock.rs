//! The only place of the controller that reads a clock.

use defib_core::time::{Mono, Now};
use jiff::{SignedDuration, Timestamp};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What the monotonic clock shows at the start of the process. [`Now::mono_of`] cannot reach below zero: with an origin of zero, a heartbeat that was
/// stored yesterday would look as old as the process. No time-out or grace can be set to more than a day.
const ORIGIN: Duration = Duration::from_secs(2 * 86_400);

/// Reads both clocks. All parts of a process share one, as a [`Mono`] means nothing outside the clock that made it.
///
/// The monotonic clock is tokio's, so that a test that pauses tokio's time has paused this one too.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    wall: Wall,
}

#[derive(Clone, Copy, Debug)]
enum Wall {
    /// The wall clock of the machine.
    Machine,
    /// This at the start, and from there on together with the monotonic clock; and so many milliseconds wrong.
    Simulated(Timestamp, &'static AtomicI64),
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// The clocks of this machine.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            wall: Wall::Machine,
        }
    }

    /// A wall clock that shows `wall` now and goes on with tokio's time, for tests in virtual time.
    pub fn simulated(wall: Timestamp) -> Self {
        static RIGHT: AtomicI64 = AtomicI64::new(0);
        Self::wrong(wall, &RIGHT)
    }

    /// The same, wrong by so many milliseconds. A change of them is a jump.
    pub fn wrong(wall: Timestamp, by: &'static AtomicI64) -> Self {
        Self {
            start: Instant::now(),
            wall: Wall::Simulated(wall, by),
        }
    }

    /// The present.
    pub fn now(&self) -> Now {
        let elapsed = self.start.elapsed();
        let wall = match self.wall {
            Wall::Machine => Timestamp::now(),
            Wall::Simulated(start, wrong) => SignedDuration::try_from(elapsed)
                .ok()
                .and_then(|elapsed| elapsed.checked_add(SignedDuration::from_millis(wrong.load(Ordering::Relaxed))))
                .and_then(|elapsed| start.checked_add(elapsed).ok())
                .unwrap_or(start),
        };
        Now {
            mono: Mono(u64::try_from((ORIGIN + elapsed).as_millis()).unwrap_or(u64::MAX)),
            wall,
        }
    }

    /// A moment of this clock for `tokio::time::sleep_until`.
    pub fn instant_of(&self, moment: Mono) -> Instant {
        let offset = Duration::from_millis(moment.0).saturating_sub(ORIGIN);
        // A moment too far ahead for the clock means "never"; a year is never, for a sleep.
        self.start
            .checked_add(offset)
            .unwrap_or_else(|| self.start + Duration::from_secs(365 * 86_400))
    }
}
