//! What is counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Buckets of latency: four for each power of two of microseconds, up to some 20 minutes.
const BUCKETS: usize = 4 * 30;

#[derive(Debug)]
pub(crate) struct Tally {
    sent: AtomicU64,
    accepted: AtomicU64,
    stale: AtomicU64,
    connect_errors: AtomicU64,
    broken: AtomicU64,
    connections: AtomicU64,
    refused: Mutex<BTreeMap<u16, u64>>,
    /// The longest gap in milliseconds, and whose it was.
    gap: Mutex<(u64, u32)>,
    latency: [AtomicU64; BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            sent: AtomicU64::default(),
            accepted: AtomicU64::default(),
            stale: AtomicU64::default(),
            connect_errors: AtomicU64::default(),
            broken: AtomicU64::default(),
            connections: AtomicU64::default(),
            refused: Mutex::default(),
            gap: Mutex::default(),
            latency: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

/// What came of reports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Reports that were begun.
    pub sent: u64,
    /// Taken by Defib, and new to it.
    pub accepted: u64,
    /// Taken by Defib, and older than what it had.
    pub stale: u64,
    /// Refused, by HTTP status.
    pub refused: BTreeMap<u16, u64>,
    /// No connection came about.
    pub connect_errors: u64,
    /// The connection broke, or no answer came in time.
    pub broken: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// The longest time that an agent with a live guest went without an accepted report, also one that lasts still.
    pub longest_gap: Duration,
    /// Whose that was.
    pub longest_gap_vmid: u32,
    /// From before the connection is opened to the whole answer, of what was answered.
    pub latency: Latency,
}

/// A histogram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency(Vec<u64>);

impl Latency {
    /// How long this share (0 to 1) of the answers took at most, to within a fifth; none without answers.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.0.iter().sum();
        if total == 0 {
            return None;
        }
        // Counts of reports are far below what a float holds exactly.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let wanted = ((total as f64) * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(upper_bound(bucket))
    }
}

fn bucket(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(4);
    let power = micros.ilog2();
    let quarter = (micros >> (power - 2)) & 3;
    let index = (power as usize - 2) * 4 + usize::try_from(quarter).unwrap_or(0);
    index.min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> Duration {
    let power = u32::try_from(bucket / 4).unwrap_or(0);
    let quarter = u64::try_from(bucket % 4).unwrap_or(0);
    Duration::from_micros((4 + quarter + 1) << power)
}

impl Tally {
    pub(crate) fn sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    pub(crate) fn accepted(&self, news: bool) {
        let counter = if news { &self.accepted } else { &self.stale };
        counter.fetch_add(1, Relaxed);
    }

    pub(crate) fn answered(&self, after: Duration) {
        if let Some(counter) = self.latency.get(bucket(after)) {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn refused(&self, status: u16) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(status).or_default() += 1;
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn connect_error(&self) {
        self.connect_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn broken(&self) {
        self.broken.fetch_add(1, Relaxed);
    }

    pub(crate) fn gap(&self, millis: u64, vmid: u32) {
        let mut gap = self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        *gap = (*gap).max((millis, vmid));
    }

    pub(crate) fn counts(&self, open_gaps: impl Iterator<Item = (u64, u32)>) -> Counts {
        let closed = *self.gap.lock().unwrap_or_else(PoisonError::into_inner);
        let (gap, vmid) = open_gaps.fold(closed, Ord::max);
        Counts {
            sent: self.sent.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            stale: self.stale.load(Relaxed),
            refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            connect_errors: self.connect_errors.load(Relaxed),
            broken: self.broken.load(Relaxed),
            connections: self.connections.load(Relaxed),
            longest_gap: Duration::from_millis(gap),
            longest_gap_vmid: vmid,
            latency: Latency(self.latency.iter().map(|counter| counter.load(Relaxed)).collect()),
        }
    }

    pub(crate) fn reset(&self) {
        let plain = [
            &self.sent,
            &self.accepted,
            &self.stale,
            &self.connect_errors,
            &self.broken,
            &self.connections,
        ];
        for counter in plain.into_iter().chain(&self.latency) {
            counter.store(0, Relaxed);
        }
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.gap.lock().unwrap_or_else(PoisonError::into_inner) = (0, 0);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |share| self.latency.quantile(share).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        write!(
            f,
            "{} sent, {} accepted, {} stale, refused {:?}, {} without connection, {} broken; latency p50 {:.1} ms, p99 {:.1} ms; longest gap {:.1} s (VM {})",
            self.sent,
            self.accepted,
            self.stale,
            self.refused,
            self.connect_errors,
            self.broken,
            millis(0.5),
            millis(0.99),
            self.longest_gap.as_secs_f64(),
            self.longest_gap_vmid
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_right_to_within_a_quarter() {
        let tally = Tally::default();
        for micros in 1..=1_000 {
            tally.answered(Duration::from_micros(micros * 10));
        }
        let latency = tally.counts(std::iter::empty()).latency;
        for (share, micros) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let seen = latency.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((micros..=micros * 1.25).contains(&seen), "{share}: {seen} instead of {micros}");
        }
        assert_eq!(Latency::default().quantile(0.5), None);
    }

    #[test]
    fn a_gap_that_lasts_still_counts() {
        let tally = Tally::default();
        tally.gap(500, 1);
        let counts = tally.counts([(700, 2), (100, 3)].into_iter());
        assert_eq!((counts.longest_gap, counts.longest_gap_vmid), (Duration::from_millis(700), 2));
    }
}
