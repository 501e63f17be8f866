//! The parts of a controller that need neither socket nor signal, put together. `defib run` adds those; the world in virtual time (`controller/world`) adds its
//! own simulations in their place.

use crate::clock::Clock;
use crate::heartbeat::keys::KeyRing;
use crate::heartbeat::ledger::Ledger;
use crate::heartbeat::publisher::{KubeStatusWriter, Publisher};
use crate::heartbeat::receiver;
use crate::heartbeat::serving::{Serving, ServingSink};
use crate::metrics::Metrics;
use crate::observer::Witness;
use crate::reconcile::Context;
use crate::reconcile::cache::Machines;
use crate::reconcile::controllers::{self, Writers};
use crate::reconcile::events::Events;
use crate::reconcile::proxmox::Connect;
use crate::{jitter, lease};
use defib_core::fleet::Limits;
use kube::Client;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::store;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The keys as the receiver reads them.
pub type Keys = watch::Receiver<Arc<KeyRing>>;

/// Name of a process in lease and journal. With the namespace: pods of two installations may have one name, and would take each other's journals for their own.
pub fn identity(namespace: &str, pod: &str) -> String {
    format!("{namespace}/{pod}")
}

/// What a controller is made of.
pub struct Setup {
    /// Kubernetes.
    pub client: Client,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of this process in lease and journal.
    pub me: String,
    /// Both clocks.
    pub clock: Clock,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Makes clients of Proxmox.
    pub connect: Connect,
    /// SMBIOS UUID of the machine on which this process runs.
    pub own_node: Arc<OnceLock<Uuid>>,
    /// Limits of each cluster and of all.
    pub limits: Limits,
    /// Whatever policies say, nothing is reset automatically.
    pub observe_only: bool,
    /// Period of the readings of Proxmox.
    pub poll: Duration,
    /// How often it is looked whether reports may be taken.
    pub serving_every: Duration,
}

/// A controller that is put together and does not run yet.
pub struct Assembly {
    /// What all its reconciles share.
    pub ctx: Arc<Context>,
    /// Whether it takes reports.
    pub serving: Serving,
    writers: Writers,
    namespace: String,
    serving_every: Duration,
}

/// The tasks of a controller that runs. Dropped, they end where they stand.
pub struct Running {
    /// Watches and reconciles. They end when asked to, each after what is under way; one that ends earlier is a failure.
    pub deciding: JoinSet<()>,
    /// Lease and tick: they outlast the others, so that as long as anything may be sent, nobody else decides.
    pub witnessing: JoinSet<()>,
}

impl Assembly {
    /// Puts the parts together.
    pub fn new(setup: Setup) -> Self {
        let (vms, vms_writer) = store();
        let (policies, policies_writer) = store();
        let (clusters, clusters_writer) = store();
        let (resets, resets_writer) = store();
        let reporter = Reporter {
            controller: "defib".into(),
            instance: Some(setup.me.clone()),
        };
        let ctx = Arc::new(Context {
            events: Events::new(setup.client.clone(), reporter),
            client: setup.client,
            clock: setup.clock,
            witness: Witness::new(setup.clock, setup.metrics.clone()),
            ledger: Arc::new(Ledger::default()),
            metrics: setup.metrics,
            vms,
            policies,
            clusters,
            resets,
            machines: Machines::default(),
            proxmox: Default::default(),
            memory: Default::default(),
            fleet: Default::default(),
            windows: Default::default(),
            vms_known: Serving::default(),
            me: setup.me,
            own_node: setup.own_node,
            limits: setup.limits,
            observe_only: setup.observe_only,
            poll: setup.poll,
            connect: setup.connect,
            proxmox_clients: Default::default(),
        });
        Self {
            ctx,
            serving: Serving::default(),
            writers: Writers {
                vms: vms_writer,
                policies: policies_writer,
                clusters: clusters_writer,
                resets: resets_writer,
            },
            namespace: setup.namespace,
            serving_every: setup.serving_every,
        }
    }

    /// What the receiver of reports works with.
    pub fn receiver(&self, keys: Keys) -> receiver::Parts {
        receiver::Parts {
            ledger: self.ctx.ledger.clone(),
            keys,
            serving: self.serving.clone(),
            sink: Arc::new(self.ctx.witness.clone()),
            metrics: self.ctx.metrics.reports.clone(),
            clock: self.ctx.clock,
        }
    }

    /// The publisher of heartbeats.
    pub fn publisher(&self) -> Publisher<KubeStatusWriter> {
        let writer = KubeStatusWriter::new(self.ctx.client.clone());
        Publisher::new(self.ctx.ledger.clone(), writer, self.ctx.clock, self.ctx.metrics.publisher.clone())
    }

    /// Starts watches, reconciles, lease and tick. The former end with `stop`, the latter with `stop_witness`.
    pub fn start(self, stop: &CancellationToken, stop_witness: &CancellationToken) -> Running {
        let ctx = self.ctx;
        let mut witnessing = JoinSet::new();
        let keep = lease::keep(
            ctx.client.clone(),
            self.namespace,
            ctx.me.clone(),
            ctx.witness.clone(),
            ctx.clock,
            stop_witness.clone(),
        );
        witnessing.spawn(jitter::about(ctx.me.clone(), keep));
        witnessing.spawn(ctx.witness.clone().tick(stop_witness.clone()));
        let mut deciding = controllers::start(&ctx, self.writers, stop);
        deciding.spawn(follow_serving(ctx, self.serving, self.serving_every, stop.clone()));
        Running { deciding, witnessing }
    }
}

/// Reports are taken while the lease is held and every ManagedVM is known: before, a VM's agent would be told that it does not exist.
async fn follow_serving(ctx: Arc<Context>, serving: Serving, every: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => serving.set(ctx.vms_known.is_serving() && ctx.witness.holds_lease()),
        }
    }
}

impl ServingSink for Witness {
    fn shed(&self, reason: &'static str) {
        Witness::shed(self, reason);
    }

    fn arrived(&self, id: &str) {
        Witness::arrived(self, id);
    }
}
