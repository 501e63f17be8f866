//! The QEMU process of a running VM.

use std::time::Instant;

use super::{Counters, QmpStatus};

/// One QEMU process. Its pid and start time survive a reset, and end with a stop or a migration.
#[derive(Debug)]
pub(crate) struct Qemu {
    pub(crate) pid: u32,
    pub(crate) started: Instant,
    pub(crate) status: QmpStatus,
    pub(crate) counters: Counters,
    /// A hung guest that still swaps: its disk counters go on.
    pub(crate) livelocked: bool,
}

impl Qemu {
    pub(crate) fn new(pid: u32) -> Self {
        let now = Instant::now();
        Self {
            pid,
            started: now,
            status: QmpStatus::Running,
            counters: Counters::new(now),
            livelocked: false,
        }
    }

    /// Whole seconds since the process started.
    pub(crate) fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
