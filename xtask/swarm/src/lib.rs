//! Thousands of simulated agents in one process: 1,000 real ones, each a Bash script that starts curl, do not fit on a machine with two cores.
//!
//! An agent here sends what `agents/linux-agent.sh` sends, as often, and takes the answers as it does: it obeys `nextReportSeconds`, tries again after 1, 2,
//! 4 s but never less often than its period, and keeps nothing for later: each report is a fresh sample. What it leaves out is measuring: load is made up.
//!
//! An agent is as alive as its guest. [`Swarm::set`] tells it what its guest does; [`follow`] does so from the audit log of `pve-sim`, so that a guest that
//! hangs, crashes or is stopped says nothing, and one that was reset reports with its new boot id and a short uptime. Without a simulator
//! ([`Swarm::boot_all`]) all guests are up.
//!
//! ```no_run
//! # async fn example(lab: &xtask::lab::Lab) -> anyhow::Result<()> {
//! let fleet = swarm::lab::fleet(1_000);
//! let agents = swarm::lab::agents(lab, &fleet, swarm::Connections::New).await?;
//! let swarm = swarm::Swarm::start(swarm::Options::new(lab.port), agents);
//! let following = swarm::follow(lab.simulator_state().join("audit.jsonl"), &swarm);
//! println!("{:?}", swarm.counts());
//! # following.abort();
//! # Ok(())
//! # }
//! ```

mod agent;
mod counts;
mod guest;
pub mod http;
pub mod lab;
pub mod report;

pub use agent::Accepted;
pub use counts::{Counts, Latency};
pub use guest::{Boot, follow};

use agent::Agent;
use counts::Tally;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

/// How an agent reaches Defib.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// One connection for all reports, opened again when it breaks.
    KeepAlive,
    /// A new one for each report, as the real agent does, whose reports are each sent by a curl of their own.
    New,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// The VM in which it runs.
    pub vmid: u32,
    /// What its guest calls itself.
    pub hostname: Arc<str>,
    /// Its key.
    pub key: Arc<str>,
    /// SMBIOS UUID that it reads.
    pub machine: Option<Uuid>,
    /// Whether it says that a service manager keeps it.
    pub supervised: bool,
    /// How it reaches Defib.
    pub connections: Connections,
}

/// Told of each report that Defib took.
pub type OnAccepted = Arc<dyn Fn(&Accepted) + Send + Sync>;

/// How a swarm reports.
#[derive(Clone)]
pub struct Options {
    /// Where Defib takes reports, over plain HTTP.
    pub target: SocketAddr,
    /// Period until Defib tells another one.
    pub period: Duration,
    /// The agents of the guests that are up at first begin at random within this time. Later boots report a second after the boot, as the agent does.
    pub spread: Duration,
    /// Told of each report that was taken.
    pub on_accepted: Option<OnAccepted>,
}

impl Options {
    /// Reports to a port on loopback, every 30 s until told otherwise; all begin within the first 30 s.
    pub fn new(port: u16) -> Self {
        Self {
            target: SocketAddr::from(([127, 0, 0, 1], port)),
            period: Duration::from_secs(30),
            spread: Duration::from_secs(30),
            on_accepted: None,
        }
    }
}

/// Running agents. Dropping it ends them.
pub struct Swarm {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

pub(crate) struct Shared {
    options: Options,
    tally: Tally,
    began: Instant,
    guests: BTreeMap<u32, Guest>,
}

/// What the agent of a guest is told, and when it was last heard.
struct Guest {
    boot: watch::Sender<Option<Boot>>,
    /// Milliseconds since the swarm began, plus one, at which Defib took its last report, or its guest came up; 0 while the guest is down.
    heard: AtomicU64,
}

impl Swarm {
    /// Starts the agents, all with their guests down. Needs a Tokio runtime with time and I/O enabled.
    pub fn start(options: Options, agents: Vec<AgentSpec>) -> Self {
        let guests = agents
            .iter()
            .map(|agent| {
                let guest = Guest {
                    boot: watch::channel(None).0,
                    heard: AtomicU64::new(0),
                };
                (agent.vmid, guest)
            })
            .collect();
        let shared = Arc::new(Shared {
            options,
            tally: Tally::default(),
            began: Instant::now(),
            guests,
        });
        let mut tasks = JoinSet::new();
        for spec in agents {
            if let Some(guest) = shared.guests.get(&spec.vmid) {
                tasks.spawn(Agent::new(spec, guest.boot.subscribe(), Arc::clone(&shared)).run());
            }
        }
        Self { shared, tasks }
    }

    /// Tells an agent what its guest does: the boot in which it runs, or nothing when it hangs, crashed, boots or is off. A VM without an agent is none of ours.
    pub fn set(&self, vmid: u32, boot: Option<Boot>) {
        self.shared.set(vmid, boot);
    }

    /// Boots all guests, for a fleet without a simulator.
    pub fn boot_all(&self) {
        for vmid in self.shared.guests.keys() {
            self.set(*vmid, Some(Boot::now()));
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let now = self.shared.now();
        let open = self.shared.guests.iter().filter_map(|(vmid, guest)| {
            let heard = guest.heard.load(Ordering::Relaxed);
            (heard > 0).then(|| (now.saturating_sub(heard), *vmid))
        });
        self.shared.tally.counts(open)
    }

    /// Forgets what was counted, so that a phase is measured by itself.
    pub fn reset_counts(&self) {
        self.shared.tally.reset();
    }

    /// Ends all agents, without a goodbye.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Shared {
    /// Milliseconds since the swarm began, plus one: zero means never.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }

    fn set(&self, vmid: u32, boot: Option<Boot>) {
        let Some(guest) = self.guests.get(&vmid) else { return };
        let changed = guest.boot.send_if_modified(|known| {
            let changed = *known != boot;
            *known = boot;
            changed
        });
        if changed {
            let heard = if boot.is_some() { self.now() } else { 0 };
            guest.heard.store(heard, Ordering::Relaxed);
        }
    }

    /// Takes down that a report was taken.
    fn heard(&self, vmid: u32) {
        let Some(guest) = self.guests.get(&vmid) else { return };
        let now = self.now();
        // A guest that went down while its last report was under way stays down.
        let before = guest
            .heard
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |heard| (heard > 0).then_some(now));
        if let Ok(before) = before {
            self.tally.gap(now.saturating_sub(before), vmid);
        }
    }
}
