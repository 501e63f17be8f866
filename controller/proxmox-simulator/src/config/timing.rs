//! Delays and periods of the simulated cluster.

use std::time::Duration;

use serde::Deserialize;

/// Every delay and period, in milliseconds in the file (`idleCloseMillis: 5000`). Defaults are Proxmox VE's own.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// An idle connection is closed after this long.
    #[serde(rename = "idleCloseMillis", with = "millis")]
    pub idle_close: Duration,
    /// Requests served on one connection before it is closed.
    #[serde(rename = "requestsPerConnection")]
    pub requests_per_connection: u32,
    /// An answer 401 takes at least this long.
    #[serde(rename = "unauthorizedMillis", with = "millis")]
    pub unauthorized: Duration,
    /// How long a task runs beyond the work it does.
    #[serde(rename = "taskMillis", with = "millis")]
    pub task: Duration,
    /// How long a task waits for the VM's file lock.
    #[serde(rename = "fileLockMillis", with = "millis")]
    pub file_lock: Duration,
    /// How long a QMP command waits for a hung monitor.
    #[serde(rename = "qmpMillis", with = "millis")]
    pub qmp: Duration,
    /// How long a call of the QEMU guest agent waits for a silent guest.
    #[serde(rename = "guestAgentMillis", with = "millis")]
    pub guest_agent: Duration,
    /// How long connecting to a node that is powered off takes until `No route to host`.
    #[serde(rename = "nodeDownMillis", with = "millis")]
    pub node_down: Duration,
    /// How long a shutdown waits for the guest when the call names no timeout.
    #[serde(rename = "shutdownMillis", with = "millis")]
    pub shutdown: Duration,
    /// How long a guest takes at most for its own orderly shutdown, after which it kills what is left.
    #[serde(rename = "guestShutdownMillis", with = "millis")]
    pub guest_shutdown: Duration,
    /// How long HA takes from a request to acting on it.
    #[serde(rename = "haMillis", with = "millis")]
    pub ha: Duration,
    /// How often a node publishes the statistics shown by `/cluster/resources`; 0 shows them live.
    #[serde(rename = "statsMillis", with = "millis")]
    pub stats: Duration,
    /// Published statistics older than this show as `unknown`.
    #[serde(rename = "statsExpiryMillis", with = "millis")]
    pub stats_expiry: Duration,
    /// How often the procfs view of a guest is written.
    #[serde(rename = "guestViewMillis", with = "millis")]
    pub guest_view: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            idle_close: Duration::from_secs(5),
            requests_per_connection: 100,
            unauthorized: Duration::from_secs(3),
            task: Duration::from_millis(300),
            file_lock: Duration::from_secs(10),
            qmp: Duration::from_secs(5),
            guest_agent: Duration::from_secs(3),
            node_down: Duration::from_secs(3),
            shutdown: Duration::from_secs(60),
            guest_shutdown: Duration::from_secs(10),
            ha: Duration::from_secs(10),
            stats: Duration::from_secs(10),
            stats_expiry: Duration::from_secs(300),
            guest_view: Duration::from_secs(1),
        }
    }
}

impl Timing {
    /// Short delays for tests: the same order of events, without the waiting. Connections keep
    /// Proxmox VE's idle limit, because clients are built around it.
    pub fn fast() -> Self {
        Self {
            unauthorized: Duration::from_millis(50),
            task: Duration::from_millis(20),
            file_lock: Duration::from_millis(300),
            qmp: Duration::from_millis(100),
            guest_agent: Duration::from_millis(100),
            node_down: Duration::from_millis(50),
            shutdown: Duration::from_millis(500),
            guest_shutdown: Duration::from_millis(300),
            ha: Duration::from_millis(100),
            stats: Duration::ZERO,
            guest_view: Duration::from_millis(100),
            ..Self::default()
        }
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<Duration, D::Error> {
        u64::deserialize(source).map(Duration::from_millis)
    }
}
