//! What all reconciles share.

use super::cache::{Guarded, Key, Machines, key_of};
use super::events::Events;
use crate::clock::Clock;
use crate::heartbeat::VmKey;
use crate::heartbeat::ledger::Ledger;
use crate::heartbeat::serving::Serving;
use crate::metrics::Metrics;
use crate::observer::Witness;
use defib_api::{CurrentReset, GuestAgentState, HealthPolicy, ManagedVM, ProxmoxCluster, VMReset, VMResetStatus};
use defib_core::corroboration::GuestIo;
use defib_core::fleet::{Fleet, Limits};
use defib_core::storm::Sky;
use defib_core::time::Mono;
use defib_core::window::{Windows, windows};
use jiff::Timestamp;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use uuid::Uuid;

/// What all reconciles share.
pub struct Context {
    /// Kubernetes.
    pub client: Client,
    /// Both clocks.
    pub clock: Clock,
    /// We as the witness.
    pub witness: Witness,
    /// Latest heartbeat of each VM.
    pub ledger: Arc<Ledger>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Kubernetes events.
    pub events: Events,
    /// Watched ManagedVMs.
    pub vms: Store<Guarded<ManagedVM>>,
    /// Watched HealthPolicies.
    pub policies: Store<Guarded<HealthPolicy>>,
    /// Watched ProxmoxClusters.
    pub clusters: Store<Guarded<ProxmoxCluster>>,
    /// Watched VMResets.
    pub resets: Store<Guarded<VMReset>>,
    /// ManagedVMs by machine.
    pub machines: Machines,
    /// What was last read of each ProxmoxCluster.
    pub proxmox: RwLock<HashMap<Key, Arc<ClusterView>>>,
    /// What is remembered of each VM between two reconciles.
    pub memory: Mutex<HashMap<VmKey, Box<VmMemory>>>,
    /// The fleet's counts, for a moment.
    pub fleet: Mutex<Option<(Mono, Arc<FleetCounts>)>>,
    /// How the maintenance windows of each HealthPolicy stand, with the version of it that says so.
    pub windows: Mutex<HashMap<Key, (Option<String>, Windows)>>,
    /// Set when every ManagedVM has been listed once.
    pub vms_known: Serving,
    /// Name of this process in the journal.
    pub me: String,
    /// SMBIOS UUID of the machine on which this process runs.
    pub own_node: Arc<OnceLock<Uuid>>,
    /// Limits of each cluster and of all.
    pub limits: Limits,
    /// Whatever policies say, nothing is reset automatically.
    pub observe_only: bool,
    /// Period of the readings of Proxmox.
    pub poll: Duration,
    /// Makes a client of a ProxmoxCluster.
    pub connect: super::proxmox::Connect,
    /// Clients of the ProxmoxClusters.
    pub proxmox_clients: super::proxmox_cluster::Clients,
}

/// What was last read of a ProxmoxCluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// The client, where the spec and its Secrets allow one.
    pub client: Option<super::proxmox::Client>,
    /// VMs by VMID. Kept when a reading fails.
    pub vms: HashMap<u32, VmRow>,
    /// Whether `vms` was ever read.
    pub read: bool,
    /// Why the newest reading failed.
    pub error: Option<(&'static str, String)>,
}

/// A VM in Proxmox's list of all.
#[derive(Clone, Debug, PartialEq)]
pub struct VmRow {
    /// Node on which it is. Rows of one list share the text.
    pub node: Arc<str>,
    /// State in QEMU, or `unknown`; shared likewise.
    pub status: Arc<str>,
    /// What its guest moves; none before it was told once.
    pub io: Option<GuestIo>,
}

/// What is remembered of a VM between two reconciles. Losing it costs nothing but time.
#[derive(Clone, Debug, Default)]
pub struct VmMemory {
    /// A hold stood at the last look.
    pub held: bool,
    /// When the last hold ended.
    pub hold_lifted: Mono,
    /// Since when it is seen off.
    pub off_since: Option<Mono>,
    /// The journal as it is watched, and since when it has not changed.
    pub journal: Option<(Box<CurrentReset>, Mono)>,
    /// SMBIOS UUID that Proxmox told last.
    pub uuid: Option<Uuid>,
    /// What its guest moves, by the looks at it.
    pub io: Option<GuestIo>,
    /// What its QEMU guest agent did when it was asked last, and when that was.
    pub guest_agent: Option<(GuestAgentState, Mono)>,
    /// When it was its turn to be asked while all is well.
    pub guest_agent_learnt: Option<Mono>,
    /// It has answered before: its silence proves something.
    pub guest_agent_answered: bool,
    /// The ManagedVM as our own last write left or met it, until the watch has caught up.
    pub latest: Option<Arc<ManagedVM>>,
    /// Name and status of a VMReset as our own last write left them, until the watch has caught up, and when that was.
    pub recorded: Option<(String, Box<VMResetStatus>, Mono)>,
    /// Failures in a row, for the back-off.
    pub failures: u32,
    /// An intent that provably was not delivered, and that could not be taken back yet, or that was and we were not told: then the next intent may have its name.
    /// So the time belongs to it.
    pub withdraw: Option<(String, Timestamp)>,
    /// Withdrawals in a row, for the back-off, and until when none is tried again.
    pub withdrawals: (u32, Mono),
}

/// The fleet's counts at all widths.
#[derive(Clone, Debug, Default)]
pub struct FleetCounts {
    /// By namespace and HealthPolicy (none: VMs of that namespace without one).
    pub policies: HashMap<(String, Option<String>), defib_core::fleet::Count>,
    /// By ProxmoxCluster.
    pub clusters: HashMap<Key, defib_core::fleet::Count>,
    /// All.
    pub all: defib_core::fleet::Count,
    /// How it stands with the storms of each width.
    pub skies: HashMap<Width, Sky>,
}

/// Whose VMs may fall silent together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// VMs of one HealthPolicy (none: VMs of that namespace without one).
    Policy((String, Option<String>)),
    /// VMs of one ProxmoxCluster.
    Cluster(Key),
    /// VMs on one node of one.
    Node(Key, String),
    /// All.
    All,
}

impl FleetCounts {
    /// The three widths for one VM.
    pub fn of(&self, policy: &(String, Option<String>), cluster: &Key) -> Fleet {
        Fleet {
            policy: self.policies.get(policy).copied().unwrap_or_default(),
            cluster: self.clusters.get(cluster).copied().unwrap_or_default(),
            all: self.all,
        }
    }
}

impl Context {
    /// Changes what is remembered of a VM.
    pub fn remember<T>(&self, vm: &VmKey, change: impl FnOnce(&mut VmMemory) -> T) -> T {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        change(memory.entry(vm.clone()).or_default())
    }

    /// The watch has brought this version of a ManagedVM. What our own last write left is not kept beside it any longer: each VM would stand in memory twice.
    pub fn caught_up(&self, watched: &ManagedVM) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = memory.get_mut(&vm_key(watched))
            && known.latest.as_ref().is_some_and(|ours| !is_newer(ours, watched))
        {
            known.latest = None;
        }
    }

    /// How the maintenance windows of a HealthPolicy stand. To find the next one takes a walk through the calendar, so it is made once a change.
    pub fn windows(&self, policy: Option<&HealthPolicy>, now: Timestamp) -> Windows {
        let declared = policy.map_or(&[][..], |p| p.spec.maintenance_windows.as_slice());
        let Some(policy) = policy.filter(|_| !declared.is_empty()) else {
            return Windows::Closed { opens: None };
        };
        let mut known = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key_of(policy);
        let version = policy.resource_version();
        if let Some((of, windows)) = known.get(&key)
            && *of == version
            && windows.until().is_none_or(|until| now < until)
        {
            return windows.clone();
        }
        let windows = windows(declared, now);
        known.insert(key, (version, windows.clone()));
        windows
    }

    /// A HealthPolicy was deleted.
    pub fn forget_windows(&self, policy: &Key) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).remove(policy);
    }

    /// What was last read of a ProxmoxCluster.
    pub fn cluster_view(&self, key: &Key) -> Option<Arc<ClusterView>> {
        self.proxmox.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Wakes the reconcile of every VM for which `which` holds, in the order of their names: that of the cache is chance.
    pub fn wake_vms(&self, which: impl Fn(&ManagedVM) -> bool) {
        let state = self.vms.state();
        let concerned = state.iter().filter_map(|object| object.0.as_ref().ok()).filter(|vm| which(vm));
        let mut woken: Vec<VmKey> = concerned.map(vm_key).collect();
        woken.sort_unstable();
        for vm in &woken {
            self.ledger.wake(vm);
        }
    }
}

/// Whether what our own write left is newer than what the watch has of the same object.
pub fn is_newer(ours: &ManagedVM, watched: &ManagedVM) -> bool {
    let version = |vm: &ManagedVM| vm.resource_version().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    ours.metadata.uid == watched.metadata.uid && version(ours) > version(watched)
}

/// The ledger's key of a ManagedVM.
pub fn vm_key(vm: &ManagedVM) -> VmKey {
    VmKey::new(vm.namespace().unwrap_or_default(), vm.name_any())
}
