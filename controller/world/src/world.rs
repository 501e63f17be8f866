//! What all parts of a world share.

use crate::agents::AgentState;
use crate::api_server::ApiServer;
use crate::clock::WorldClock;
use crate::plan::{Plan, Theme};
use crate::process::Process;
use crate::proxmox::{Cluster, Guest, Machine, Power};
use crate::record::{Heard, Log};
use crate::sabotage::Sabotage;
use crate::weather::{Weather, Wind};
use defib::assembly::Keys;
use defib::heartbeat::keys::{KeyRing, Master};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// Namespace of all that is declared.
pub const NAMESPACE: &str = "vms";

/// A world.
pub struct World {
    /// All chance follows from it.
    pub seed: u64,
    /// What happens.
    pub plan: Plan,
    /// The time.
    pub clock: WorldClock,
    /// Kubernetes.
    pub api: ApiServer,
    /// Proxmox.
    pub pve: Arc<Mutex<Cluster>>,
    /// What is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// Somebody died.
    pub died: Notify,
    weather: Mutex<Weather>,
    processes: Mutex<Vec<Process>>,
    log: Mutex<Log>,
    agents: Mutex<Vec<AgentState>>,
    ring: Arc<KeyRing>,
    keys: watch::Sender<Arc<KeyRing>>,
}

impl World {
    /// The world of a plan, empty.
    pub fn new(plan: Plan, sabotage: Option<Sabotage>) -> Arc<Self> {
        let clock = WorldClock::start();
        let ring = Arc::new(KeyRing::new(Master::from_bytes(&[7; Master::LEN]).expect("32 bytes"), None));
        let mut cluster = Cluster::new(plan.seed);
        for vm in &plan.vms {
            cluster.machines.insert(
                vm.vmid,
                Machine {
                    vmid: vm.vmid,
                    node: if vm.vmid % 3 == 0 { "pve2".into() } else { "pve1".into() },
                    uuid: Uuid::from_u128(0x6b4e_8d2c_1f3a_4c5d_9e7f_0000_0000_0000 + u128::from(vm.vmid)),
                    power: Power::Running,
                    power_since: Default::default(),
                    uuid_since: Default::default(),
                    lock: None,
                    ha: None,
                    reboot: true,
                    guest_agent: vm.guest_agent,
                    monitor_hangs: false,
                    started: Default::default(),
                    guest: Guest::Works,
                    boots: 1,
                    booted: Default::default(),
                    boot_takes: vm.boot_takes,
                    stubborn: 0,
                    moved: (0, Default::default()),
                },
            );
        }
        let agents = plan.vms.iter().map(|_| AgentState::default()).collect();
        let world = Arc::new(Self {
            seed: plan.seed,
            api: ApiServer::with_limits(move || clock.wall(clock.now()), 200_000, 200_000),
            clock,
            pve: Arc::new(Mutex::new(cluster)),
            sabotage,
            died: Notify::new(),
            weather: Mutex::default(),
            processes: Mutex::default(),
            log: Mutex::default(),
            agents: Mutex::new(agents),
            keys: watch::Sender::new(ring.clone()),
            ring,
            plan,
        });
        world.api.set_faults(Arc::new(Wind(Arc::downgrade(&world))));
        world
    }

    /// The weather.
    pub fn weather(&self) -> Weather {
        *lock(&self.weather)
    }

    /// It changes.
    pub fn change_weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut lock(&self.weather));
        self.api.nudge();
    }

    /// Proxmox.
    pub fn pve(&self) -> MutexGuard<'_, Cluster> {
        lock(&self.pve)
    }

    /// All that was written down.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// The processes so far.
    pub fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        lock(&self.processes)
    }

    /// The agents.
    pub fn agents(&self) -> MutexGuard<'_, Vec<AgentState>> {
        lock(&self.agents)
    }

    /// Writes down what happened, to a machine or to all.
    pub fn tell(&self, vm: Option<usize>, text: impl Into<String>) {
        let at = self.clock.now();
        self.log().lines.push((at, vm, text.into()));
    }

    /// The keys of agents, as a receiver reads them.
    pub fn keys(&self) -> Keys {
        self.keys.subscribe()
    }

    /// The key of a machine's agent.
    pub fn key_of(&self, vm: usize) -> String {
        self.ring.derive(NAMESPACE, &self.plan.vms[vm].name, 1)
    }

    /// The key with which a process reports to itself.
    pub fn canary(&self) -> String {
        self.ring.canary()
    }

    /// Whether a process lives.
    pub fn is_alive(&self, process: usize) -> bool {
        self.processes().get(process).is_some_and(Process::is_alive)
    }

    /// Whether this process is the one that dies at this write.
    pub fn crashes_now(&self, process: usize) -> bool {
        let mut weather = lock(&self.weather);
        let Some((whose, left, _)) = &mut weather.crash else { return false };
        if self.processes().get(process).is_none_or(|p| p.controller != *whose) {
            return false;
        }
        if *left > 0 {
            *left -= 1;
            return false;
        }
        true
    }

    /// A process dies where it stands.
    pub fn die(&self, process: usize, when: &str) {
        lock(&self.weather).crash = None;
        let at = self.clock.now();
        if let Some(process) = self.processes().get_mut(process) {
            process.kill(at);
        }
        self.tell(None, format!("controller process {process} dies {when}"));
        self.died.notify_one();
    }

    /// A report was answered well.
    pub fn heard(&self, vm: usize, process: usize, goodbye: bool, boot: u32) {
        let at = self.clock.now();
        let heard = Heard {
            at,
            vm,
            process,
            goodbye,
            boot,
        };
        self.log().heard.push(heard);
    }

    /// The name of a controller in lease and journal.
    pub fn name_of(&self, controller: usize) -> String {
        // Two installations are in two namespaces: a StatefulSet names its pod alike in both.
        let pod = match self.plan.theme {
            Theme::Rivals => "defib-0".into(),
            _ => format!("defib-{controller}"),
        };
        defib::assembly::identity(self.lease_namespace(controller), &pod)
    }

    /// Namespace of a controller's Lease.
    pub fn lease_namespace(&self, controller: usize) -> &'static str {
        match (self.plan.theme, controller) {
            (Theme::Rivals, 1) => "defib-other",
            _ => "defib",
        }
    }

    /// How long a controller that died stays away.
    pub fn stays_away(&self, process: usize) -> Duration {
        Duration::from_millis(500 + crate::chance::draw(self.seed, ("away", process)) % 12_000)
    }
}

/// Nothing that is done under these locks leaves anything half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
