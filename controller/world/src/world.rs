//! What all parts of a world share.

use crate::agents::AgentState;
use crate::api_server::ApiServer;
use crate::clock::{Time, WorldClock};
use crate::plan::{CrashPoint, Event, Object, Plan, Point, Speech, Theme, WriteTo};
use crate::process::Process;
use crate::proxmox::{Cluster, Guest, Machine, Power};
use crate::record::{Heard, Log};
use crate::sabotage::Sabotage;
use crate::weather::{Weather, Wind};
use defib::assembly::Keys;
use defib::heartbeat::keys::{KeyRing, Master};
use std::collections::BTreeMap;
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
    /// Something is due because a reset came to a point.
    pub reached: Notify,
    own_host: Mutex<Option<usize>>,
    counted: Mutex<BTreeMap<(usize, WriteTo), u32>>,
    waiting: Mutex<Vec<(Time, Point, Event)>>,
    due: Mutex<Vec<Event>>,
    weather: Mutex<Weather>,
    processes: Mutex<Vec<Process>>,
    log: Mutex<Log>,
    agents: Mutex<Vec<AgentState>>,
    speech: Mutex<Vec<Speech>>,
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
                    uuid: uuid_of(vm.vmid),
                    power: Power::Running,
                    power_since: Default::default(),
                    uuid_since: Default::default(),
                    lock: None,
                    ha: None,
                    reboot: true,
                    guest_agent: vm.guest_agent,
                    guest_agent_runs: true,
                    monitor_hangs: false,
                    file_locked: false,
                    unseen: false,
                    shows_uuid: true,
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
            reached: Notify::new(),
            own_host: Mutex::new(plan.start.own_host),
            counted: Mutex::default(),
            waiting: Mutex::new(plan.reached.clone()),
            due: Mutex::default(),
            weather: Mutex::default(),
            processes: Mutex::default(),
            log: Mutex::default(),
            agents: Mutex::new(agents),
            speech: Mutex::new(plan.vms.iter().map(|vm| vm.speech.clone()).collect()),
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
    pub fn key_of(&self, vm: usize, generation: u32) -> String {
        self.ring.derive(NAMESPACE, &self.plan.vms[vm].name, generation)
    }

    /// The machine that a declared object is about.
    pub fn index_of(&self, object: &Object) -> Option<usize> {
        let name = if object.resource == "vmresets" {
            object.fields["spec"]["vmRef"]["name"].as_str()?
        } else {
            Some(object.name.as_str()).filter(|_| object.resource == "managedvms")?
        };
        self.plan.vms.iter().position(|vm| vm.name == name)
    }

    /// The machine that controllers which are started now run in.
    pub fn own_host(&self) -> Option<usize> {
        *lock(&self.own_host)
    }

    /// It is another from now on.
    pub fn runs_in(&self, vm: Option<usize>) {
        *lock(&self.own_host) = vm;
    }

    /// What a machine's agent reports at present.
    pub fn speech(&self, vm: usize) -> Speech {
        lock(&self.speech)[vm].clone()
    }

    /// It reports something else.
    pub fn change_speech(&self, vm: usize, change: impl FnOnce(&mut Speech)) {
        change(&mut lock(&self.speech)[vm]);
    }

    /// The key with which a process reports to itself.
    pub fn canary(&self) -> String {
        self.ring.canary()
    }

    /// Whether a process lives.
    pub fn is_alive(&self, process: usize) -> bool {
        self.processes().get(process).is_some_and(Process::is_alive)
    }

    /// A reset has come to a point. What the plan has for it happens at once, beside what goes on there.
    pub fn reach(&self, point: Point) {
        let now = self.clock.now();
        let mut waiting = lock(&self.waiting);
        let mut due = lock(&self.due);
        // Of what is planned for one point, each time one row of the same beginning: those that were written together happen together.
        let Some(first) = waiting
            .iter()
            .find(|(from, at, _)| *at == point && *from <= now)
            .map(|(from, _, _)| *from)
        else {
            return;
        };
        waiting.retain(|(from, at, event)| {
            let now = *at == point && *from == first;
            if now {
                due.push(event.clone());
            }
            !now
        });
        self.reached.notify_one();
    }

    /// What has become due by a point that was reached.
    pub fn reached(&self) -> Vec<Event> {
        std::mem::take(&mut *lock(&self.due))
    }

    /// A process that is to die at this POST does.
    pub fn dies_at_post(&self, process: usize, before: bool) {
        let planned = self.weather().crash_at_post;
        let of_this = |(whose, when): (usize, bool)| when == before && self.processes().get(process).is_some_and(|p| p.controller == whose);
        if planned.is_some_and(of_this) {
            lock(&self.weather).crash_at_post = None;
            self.die(
                process,
                if before {
                    "before it sends a POST"
                } else {
                    "after it has sent a POST"
                },
            );
        }
    }

    /// Counts a write of a process, and answers whether it dies there: before that is carried out, or after.
    pub fn crash_point(&self, process: usize, to: WriteTo) -> Option<bool> {
        let controller = self.processes().get(process)?.controller;
        let mut counted = lock(&self.counted);
        let count = counted.entry((controller, to)).or_default();
        let number = *count;
        *count += 1;
        let here = |point: &&CrashPoint| point.controller == controller && point.to == to && point.number == number;
        self.plan.start.crashes.iter().find(here).map(|point| point.before)
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

    /// A report was taken, with this much of CPU and memory in use, and from this boot.
    pub fn heard(&self, vm: usize, process: usize, goodbye: bool, usage: (u32, u32), boot: u32) {
        let at = self.clock.now();
        let heard = Heard {
            at,
            vm,
            process,
            goodbye,
            boot,
            usage,
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
        if let Some(away) = self.plan.start.away {
            return away;
        }
        Duration::from_millis(500 + crate::chance::draw(self.seed, ("away", process)) % 12_000)
    }
}

/// SMBIOS UUID that a machine has at first.
pub fn uuid_of(vmid: u32) -> Uuid {
    Uuid::from_u128(0x6b4e_8d2c_1f3a_4c5d_9e7f_0000_0000_0000 + u128::from(vmid))
}

/// Nothing that is done under these locks leaves anything half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
