//! Whether what Proxmox sees of a silent VM speaks for a hang (rule 4): what its guest moves, and whether its QEMU guest agent answers. Defib's own agent may have
//! died in a guest that works, or cannot get through to us from it.

use crate::gate::{Blocked, Closer};
use crate::life::Life;
use crate::policy::Effective;
use crate::time::{Mono, Now};
use defib_api::{GuestAgentCheck, GuestAgentState, ManagedVMStatus};
use std::time::Duration;

/// How long before the end of a time-out the guest agent is asked: one that does not answer takes 3 s, and two at a time can be asked on one node.
pub const ASK_AHEAD: Duration = Duration::from_secs(15);
/// How long the guest agent's answer counts: from the earliest question until the decision, and a little.
pub const ANSWER_COUNTS: Duration = Duration::from_secs(20);
/// A guest agent that answers is asked again after this. It may go on answering for days.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What the guest itself has moved since its QEMU process started, in bytes. What it receives is left out: broadcasts reach a dead guest too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent to the network.
    pub net_out: u64,
    /// Read from its disks.
    pub disk_read: u64,
    /// Written to them.
    pub disk_write: u64,
}

/// The counters as they were read again and again. They only grow, so two equal readings say that nothing was moved between them, however far apart they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestIo {
    counters: Counters,
    since: Mono,
}

impl GuestIo {
    /// The first reading: nothing is known of what was before.
    pub fn new(counters: Counters, now: Mono) -> Self {
        Self { counters, since: now }
    }

    /// A later reading. Any difference is movement, also a smaller number: that is another QEMU process.
    #[must_use]
    pub fn read(self, counters: Counters, now: Mono) -> Self {
        if self.counters == counters {
            self
        } else {
            Self::new(counters, now)
        }
    }

    /// For how long the guest has moved nothing, as far as it was watched.
    pub fn quiet(&self, now: Mono) -> Duration {
        now.since(self.since)
    }
}

/// What speaks against a hang. An agent that was not asked yet says nothing.
pub fn against(effective: &Effective, status: Option<&ManagedVMStatus>, closer: &Closer, life: Life, now: Now) -> Option<Blocked> {
    let Life::Silent { due, .. } = life else { return None };
    if effective.guest_agent == GuestAgentCheck::Auto && closer.guest_agent == Some(GuestAgentState::Answers) {
        return Some(
            Blocked::new(
                "GuestAgentAnswers",
                "the QEMU guest agent answers: the guest lives, and only Defib's agent in it is silent; see to that one, or set resetPolicy.corroborate.guestAgent to Ignore",
            )
            .until(ASK_AGAIN),
        );
    }
    // After an attempt the guest boots, and may have a file system to check: it gets as long as before the attempt.
    let attempt = status.and_then(|s| s.episode.as_ref()).and_then(|e| e.last_end_time);
    let vetoed = now.mono.since(due.max(attempt.map(|t| now.mono_of(t)).unwrap_or_default()));
    let veto_left = effective.max_veto.saturating_sub(vetoed);
    let quiet = closer.io.map_or(Duration::ZERO, |io| io.quiet(now.mono));
    (quiet < effective.io_quiet && !veto_left.is_zero()).then(|| {
        Blocked::new(
            "GuestIO",
            format!(
                "the guest has read, written or sent within {} s, or was not watched for as long: one that hangs does not; this holds a reset back for at most {} s",
                effective.io_quiet.as_secs(),
                effective.max_veto.as_secs()
            ),
        )
        .until((effective.io_quiet - quiet).min(veto_left).max(Duration::from_secs(1)))
    })
}

/// Whether the guest agent is to be asked before a reset may begin.
pub fn must_ask(effective: &Effective, closer: &Closer) -> bool {
    effective.guest_agent == GuestAgentCheck::Auto && closer.guest_agent.is_none()
}
