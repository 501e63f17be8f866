//! A token bucket: so many at once, so many a second.

use defib_core::time::Mono;
use std::time::Duration;

/// Tokens that come back with time. It is told the time and its rate, so it costs 16 bytes and no timer.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: f64,
    filled: Mono,
}

impl Bucket {
    /// A bucket that holds `tokens` at `now`.
    pub fn new(tokens: f64, now: Mono) -> Self {
        Self { tokens, filled: now }
    }

    /// Takes one token, or tells how long to wait for it.
    ///
    /// # Errors
    /// The time until a token is there, when none is.
    pub fn take(&mut self, per_second: f64, capacity: f64, now: Mono) -> Result<(), Duration> {
        let gained = now.since(self.filled).as_secs_f64() * per_second;
        self.tokens = (self.tokens + gained).min(capacity);
        self.filled = self.filled.max(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.tokens) / per_second;
        // Clocks here count milliseconds: a wait that is rounded down would end just before the token is there.
        Err(Duration::from_millis((wait * 1000.0).ceil().clamp(1.0, 3_600_000.0) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut b = Bucket::new(3.0, Mono(0));
        for _ in 0..3 {
            assert_eq!(b.take(2.0, 3.0, Mono(0)), Ok(()));
        }
        assert_eq!(b.take(2.0, 3.0, Mono(0)), Err(Duration::from_millis(500)));
        assert_eq!(b.take(2.0, 3.0, Mono(500)), Ok(()));
        assert!(b.take(2.0, 3.0, Mono(999)).is_err());
    }

    #[test]
    fn rest_never_fills_it_beyond_its_capacity() {
        let mut b = Bucket::new(3.0, Mono(0));
        let taken = (0..100).filter(|_| b.take(2.0, 3.0, Mono(1_000_000)).is_ok()).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing() {
        let mut b = Bucket::new(0.0, Mono(5_000));
        assert!(b.take(1.0, 3.0, Mono(1_000)).is_err());
        assert!(b.take(1.0, 3.0, Mono(5_500)).is_err());
    }
}
