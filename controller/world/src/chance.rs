//! All chance of a world, from its seed.
//!
//! What is drawn while it runs follows from what it is about and from the time, never from how much was drawn before: the order of what happens in one
//! millisecond then decides nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// A number that follows from a seed and from what it is about.
pub fn draw(seed: u64, about: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, about).hash(&mut hasher);
    hasher.finish()
}

/// True in so many of a hundred cases.
pub fn percent(drawn: u64, of_hundred: u64) -> bool {
    drawn % 100 < of_hundred
}

/// Numbers one after the other, to make a plan of before anything runs.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The row of numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(draw(seed, "dice"))
    }

    /// The next number: splitmix64.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }

    /// A time from `low` to `high` seconds, to the millisecond.
    pub fn seconds(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low * 1000, high * 1000))
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, of_hundred: u64) -> bool {
        percent(self.roll(), of_hundred)
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[(self.roll() % of.len() as u64) as usize].clone()
    }
}
