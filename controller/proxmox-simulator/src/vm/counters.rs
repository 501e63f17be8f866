//! The I/O counters Proxmox VE shows.

use std::time::Instant;

use super::GuestState;
use crate::config::IoRates;

/// Bytes moved since the QEMU process started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    since: Instant,
    net_in: f64,
    net_out: f64,
    disk_read: f64,
    disk_write: f64,
}

impl Counters {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            net_in: 0.0,
            net_out: 0.0,
            disk_read: 0.0,
            disk_write: 0.0,
        }
    }

    /// Adds what was moved since the last call, in the state that held all the while. What comes from
    /// outside goes on with any live QEMU; what the guest causes needs a guest that executes.
    pub(crate) fn settle(&mut self, now: Instant, rates: &IoRates, state: GuestState, livelocked: bool) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        if state == GuestState::Off {
            return;
        }
        self.net_in += rates.net_in * seconds;
        let executing = state.healthy() || state == GuestState::Booting;
        if executing {
            self.net_out += rates.net_out * seconds;
        }
        if executing || livelocked {
            self.disk_read += rates.disk_read * seconds;
            self.disk_write += rates.disk_write * seconds;
        }
    }

    pub(crate) fn net_in(&self) -> u64 {
        bytes(self.net_in)
    }

    pub(crate) fn net_out(&self) -> u64 {
        bytes(self.net_out)
    }

    pub(crate) fn disk_read(&self) -> u64 {
        bytes(self.disk_read)
    }

    pub(crate) fn disk_write(&self) -> u64 {
        bytes(self.disk_write)
    }
}

/// Whole bytes; the float is never negative, and exact up to 2^53.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn bytes(amount: f64) -> u64 {
    amount as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn after_ten_seconds(state: GuestState, livelocked: bool) -> [u64; 4] {
        let start = Instant::now();
        let rates = IoRates {
            net_in: 10.0,
            net_out: 20.0,
            disk_read: 30.0,
            disk_write: 40.0,
        };
        let mut counters = Counters::new(start);
        counters.settle(start + Duration::from_secs(10), &rates, state, livelocked);
        [counters.net_in(), counters.net_out(), counters.disk_read(), counters.disk_write()]
    }

    #[test]
    fn only_foreign_traffic_moves_the_counters_of_a_hung_guest() {
        assert_eq!(after_ten_seconds(GuestState::Running, false), [100, 200, 300, 400]);
        assert_eq!(after_ten_seconds(GuestState::Hung, false), [100, 0, 0, 0]);
        assert_eq!(after_ten_seconds(GuestState::Crashed, false), [100, 0, 0, 0]);
        assert_eq!(after_ten_seconds(GuestState::Paused, false), [100, 0, 0, 0]);
        assert_eq!(after_ten_seconds(GuestState::Hung, true), [100, 0, 300, 400]);
    }
}
