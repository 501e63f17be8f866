//! The model for the checker: what can happen, and what must hold.

use crate::debt::Due;
use crate::protocol::{LastCheck, Protocol};
use crate::steps::Step;
use crate::world::{
    At, BOOT, By, EXPIRES, FENCE, FOREIGN_INTENT, Guest, HELD_FOR, LEASE, PROXMOX_HOLDS, Pay, STOPPED, Stage, TIMEOUT, Told, Vm, WELL,
    World, Wrong, Wrongs,
};
use defib_api::StepAction;
use stateright::Property;

/// A protocol in a small world.
#[derive(Clone, Debug)]
pub struct Model {
    pub protocol: Protocol,
    pub scenario: Scenario,
    pub search: Search,
}

/// How small the world is. All of it is searched, so it must be small; each scenario is small in another way.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub vms: usize,
    pub controllers: usize,
    /// Whether one controller works on several VMs at once, as the real one does.
    pub parallel: bool,
    pub max_resets: u8,
    /// Guests hang and come back at any time. Otherwise they hang from the beginning, until they are reset.
    pub guests_move: bool,
    /// What is done to a VM that hangs. Of a power cycle there is one only: it has its VMReset for itself.
    pub action: StepAction,
    /// A person may delete a ManagedVM at any time.
    pub deletes: bool,
    /// A person may stop a VM of which nothing is under way, for good.
    pub people: bool,
    /// Both controllers decide; otherwise the second one only goes on with what the first has begun.
    pub both_decide: bool,
    /// It begins with a VM that was stopped, and is owed its start.
    pub stopped: bool,
}

/// The worlds that are searched.
pub mod scenarios {
    use super::Scenario;
    use defib_api::StepAction;

    pub const ONE_VM: Scenario = Scenario {
        name: "one VM, one reset allowed, two controllers",
        vms: 1,
        controllers: 2,
        parallel: true,
        max_resets: 1,
        guests_move: true,
        action: StepAction::Reset,
        deletes: false,
        people: false,
        both_decide: true,
        stopped: false,
    };
    pub const ONE_VM_TWICE: Scenario = Scenario {
        name: "one VM, two resets allowed, two controllers",
        max_resets: 2,
        ..ONE_VM
    };
    pub const TWO_VMS: Scenario = Scenario {
        name: "two VMs, one controller that works on both at once",
        vms: 2,
        controllers: 1,
        guests_move: false,
        ..ONE_VM
    };
    pub const TWO_OF_EACH: Scenario = Scenario {
        name: "two VMs, two controllers that each work on one at a time",
        controllers: 2,
        parallel: false,
        ..TWO_VMS
    };
    pub const POWER_CYCLE: Scenario = Scenario {
        name: "one VM that is stopped and started, one controller, a ManagedVM that is deleted",
        controllers: 1,
        action: StepAction::PowerCycle,
        deletes: true,
        ..ONE_VM
    };
    pub const POWER_CYCLE_AND_TAKEOVER: Scenario = Scenario {
        name: "one VM that is stopped and started, two controllers, a ManagedVM that is deleted",
        controllers: 2,
        guests_move: false,
        both_decide: false,
        ..POWER_CYCLE
    };
    pub const STOPPED_BY_PEOPLE: Scenario = Scenario {
        name: "one VM that was stopped and is owed its start, two controllers, a person who stops it again",
        people: true,
        stopped: true,
        ..POWER_CYCLE_AND_TAKEOVER
    };
}

/// What a search looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Anything wrong, and that what should happen does happen.
    All,
    /// Only this wrong, to find its shortest way.
    For(Wrong),
    /// A state from which it does not end well.
    DeadEnd,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A controller takes a step about a VM.
    Controller(usize, Step, usize),
    /// A controller takes a step about the start that is owed to a VM.
    Pays(usize, Due, usize),
    /// A controller's process ends and starts again.
    Restarts(usize),
    /// It takes the lease.
    TakesLease(usize),
    /// Proxmox carries out the request it has taken.
    ProxmoxCarriesOut(usize),
    /// Proxmox HA has taken it: there is a task, which has ended, and the VM goes off only then.
    ProxmoxAccepts(usize),
    /// Proxmox starts the VM, if it is off.
    ProxmoxStarts(usize),
    /// It cannot.
    ProxmoxFailsToStart(usize),
    /// A person deletes the ManagedVM.
    Deletes(usize),
    /// What belonged to it and is not held goes, too.
    Collects(usize),
    /// A person stops the VM.
    PersonStops(usize),
    /// A guest stops without a word, or does not come up.
    Hangs(usize),
    /// It comes back by itself.
    ComesBack(usize),
    /// It has booted.
    Boots(usize),
    /// Time goes on.
    Tick(Decider),
}

/// What the decider did in the last tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider {
    /// It ran, and renewed its lease.
    Ran,
    /// It ran, and could not renew its lease.
    LeaseNotRenewed,
    /// It stood still: it heard nothing, and will know that when it goes on.
    StoodStill,
}

impl stateright::Model for Model {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let guest = if self.scenario.guests_move {
            Guest::Alive(WELL)
        } else {
            Guest::Hung
        };
        let world = World::new(self.scenario.vms, guest);
        vec![if self.scenario.stopped { world.with_vms_stopped() } else { world }]
    }

    fn actions(&self, w: &World, actions: &mut Vec<Action>) {
        if w.wrong != Wrongs::default() {
            // Enough is seen.
            return;
        }
        let mut steps = Vec::new();
        for c in 0..self.scenario.controllers {
            for v in 0..w.vms.len() {
                self.steps(w, c, v, &mut steps);
                actions.extend(steps.drain(..).map(|s| Action::Controller(c, s, v)));
                if self.owes() {
                    let mut due = Vec::new();
                    self.due(w, c, v, &mut due);
                    actions.extend(due.into_iter().map(|d| Action::Pays(c, d, v)));
                }
            }
            actions.push(Action::Restarts(c));
            // When its holder has not renewed it for long.
            if w.decider != c && w.lease_age >= LEASE {
                actions.push(Action::TakesLease(c));
            }
        }
        for (v, vm) in w.vms.iter().enumerate() {
            if vm.request.is_some() {
                actions.push(Action::ProxmoxCarriesOut(v));
                if self.owes() {
                    actions.push(Action::ProxmoxAccepts(v));
                }
            }
            if vm.start.is_some() {
                actions.extend([Action::ProxmoxStarts(v), Action::ProxmoxFailsToStart(v)]);
            }
            if self.scenario.deletes {
                actions.extend([Action::Deletes(v), Action::Collects(v)]);
            }
            if self.scenario.people {
                actions.push(Action::PersonStops(v));
            }
            match vm.guest {
                Guest::Alive(_) if self.scenario.guests_move => actions.push(Action::Hangs(v)),
                Guest::Hung if self.scenario.guests_move => actions.push(Action::ComesBack(v)),
                Guest::Alive(_) | Guest::Hung | Guest::Off(_) => {}
                Guest::Booting(_) => actions.extend([Action::Boots(v), Action::Hangs(v)]),
            }
        }
        actions.extend([Decider::Ran, Decider::LeaseNotRenewed, Decider::StoodStill].map(Action::Tick));
    }

    fn next_state(&self, w: &World, action: Action) -> Option<World> {
        let mut next = w.clone();
        next.wrong = Wrongs::default();
        match action {
            Action::Controller(c, step, v) => self.step(&mut next, c, v, step)?,
            Action::Restarts(c) => self.restart(&mut next, c),
            Action::TakesLease(c) => self.take_lease(&mut next, c),
            Action::Pays(c, due, v) => self.pay(&mut next, c, v, due)?,
            Action::ProxmoxCarriesOut(v) => {
                let vm = next.vms.get_mut(v)?;
                vm.task = vm.request.take()?.attempt;
                vm.guest = match vm.guest {
                    Guest::Off(by) => Guest::Off(by),
                    _ if self.owes() => Guest::Off(By::Us),
                    _ => Guest::Booting(0),
                };
            }
            Action::ProxmoxAccepts(v) => {
                let vm = next.vms.get_mut(v)?;
                let attempt = vm.request?.attempt;
                if std::mem::replace(&mut vm.task, attempt) == attempt {
                    return None;
                }
            }
            Action::ProxmoxStarts(v) => {
                let vm = next.vms.get_mut(v)?;
                vm.start.take()?;
                if matches!(vm.guest, Guest::Off(_)) {
                    vm.guest = Guest::Booting(0);
                }
            }
            Action::ProxmoxFailsToStart(v) => {
                next.vms.get_mut(v)?.start.take()?;
            }
            Action::Deletes(v) => {
                let vm = next.vms.get_mut(v).filter(|vm| !vm.deleted)?;
                self.delete(vm);
            }
            Action::Collects(v) => {
                let vm = next.vms.get_mut(v).filter(|vm| vm.deleted)?;
                vm.record.take_if(|record| !record.held)?;
            }
            Action::PersonStops(v) => {
                let vm = next.vms.get_mut(v).filter(|vm| vm.is_left_alone())?;
                vm.guest = Guest::Off(By::Person(0));
            }
            Action::Hangs(v) => next.vms.get_mut(v)?.guest = Guest::Hung,
            Action::ComesBack(v) | Action::Boots(v) => next.vms.get_mut(v)?.guest = Guest::Alive(0),
            Action::Tick(decider) => self.tick(&mut next, decider)?,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        // In the order of `Wrong`.
        let never = [
            Property::always("no healthy VM is reset", |_, w: &World| !w.wrong.healthy),
            Property::always("no VM is reset twice", |_, w: &World| !w.wrong.double),
            Property::always("no more resets at once than the budget allows", |_, w: &World| !w.wrong.budget),
            Property::always("no more resets than the cap allows", |_, w: &World| !w.wrong.cap),
            Property::always("no VM is started that a person stopped", |_, w: &World| !w.wrong.unowed),
            Property::always("no VM that was stopped by us stays off", |model: &Self, w: &World| {
                !model.stays_off(w)
            }),
        ];
        let happens = [
            Property::sometimes("a hung VM is reset and recovers, and the journal is empty", |_, w: &World| {
                let recovered = |vm: &Vm| vm.resets == 1 && vm.guest == Guest::Alive(WELL) && vm.journal.is_none() && vm.counted == 1;
                w.vms.iter().all(recovered)
            }),
            Property::sometimes("a request whose answer was lost is found", |_, w: &World| {
                w.vms.iter().any(|vm| {
                    let running = vm.journal.is_some_and(|j| j.stage == Stage::Running && j.attempt == vm.task);
                    running && vm.works.iter().all(|work| work.at == At::Idle)
                })
            }),
            Property::sometimes("an attempt is spent although nothing was sent", |_, w: &World| {
                w.vms.iter().any(|vm| vm.counted == 1 && vm.resets == 0 && vm.journal.is_none())
            }),
            Property::sometimes("an intent is withdrawn", |_, w: &World| {
                w.vms.iter().any(|vm| vm.works.iter().any(|work| work.at == At::Withdrawing))
            }),
        ];
        match self.search {
            Search::All if self.scenario.stopped => never.into_iter().chain(happens_to_one_that_was_stopped()).collect(),
            Search::All if self.owes() => never.into_iter().chain(happens_to_a_power_cycle()).collect(),
            Search::All => never.into_iter().chain(happens).collect(),
            Search::For(wrong) => never.into_iter().nth(wrong as usize).into_iter().collect(),
            Search::DeadEnd => vec![Property::always("it ends well", |model: &Self, w: &World| model.ends_well(w))],
        }
    }
}

fn happens_to_one_that_was_stopped() -> [Property<Model>; 1] {
    [Property::sometimes("a VM is started, and stopped by a person", |_, w: &World| {
        w.vms.iter().all(|vm| vm.guest == Guest::Off(By::Person(STOPPED)))
    })]
}

fn happens_to_a_power_cycle() -> [Property<Model>; 4] {
    [
        Property::sometimes(
            "a hung VM is stopped and started and recovers, and nothing is owed",
            |_, w: &World| {
                w.vms.iter().all(|vm| {
                    let paid = vm.record.is_some_and(|record| !record.held && !record.owed);
                    vm.resets == 1 && vm.guest == Guest::Alive(WELL) && vm.journal.is_none() && vm.counted == 1 && paid
                })
            },
        ),
        Property::sometimes(
            "a VM runs again whose reset is over, and its start is still owed",
            |_, w: &World| {
                w.vms.iter().any(|vm| {
                    let owed = vm.record.is_some_and(|record| record.owed);
                    vm.resets == 1 && matches!(vm.guest, Guest::Alive(_)) && vm.journal.is_none() && owed
                })
            },
        ),
        Property::sometimes("a stop whose answer was lost is found", |_, w: &World| {
            w.vms.iter().any(|vm| {
                let running = vm.journal.is_some_and(|j| j.stage == Stage::Running && j.attempt == vm.task);
                running && vm.works.iter().all(|work| work.at == At::Idle)
            })
        }),
        Property::sometimes("a start is owed although nothing was sent", |_, w: &World| {
            w.vms.iter().any(|vm| {
                let owed = vm.record.is_some_and(|record| record.owed && record.told == Told::Ended);
                owed && vm.resets == 0
            })
        }),
    ]
}

impl Model {
    /// Whether what is done to a VM leaves it off, and a start is owed to it.
    pub fn owes(&self) -> bool {
        self.scenario.action.owes_start()
    }

    /// Time goes on, unless something is due first: delays have bounds.
    fn tick(&self, w: &mut World, decider: Decider) -> Option<()> {
        let grow = |age: &mut u8, most: u8| *age = (*age + 1).min(most);
        grow(&mut w.lease_age, LEASE);
        if decider == Decider::Ran {
            w.lease_age = 0;
        }
        let stood_still = decider == Decider::StoodStill;
        let hears = !stood_still && w.lease_age < HELD_FOR;
        for vm in &mut w.vms {
            let held = [vm.request.map(|r| r.age), vm.start];
            if held.contains(&Some(PROXMOX_HOLDS)) || vm.guest == Guest::Booting(BOOT) {
                return None;
            }
            if let Some(age) = &mut vm.start {
                *age += 1;
            }
            if let Some(record) = &mut vm.record {
                record.tick(self.scenario.deletes);
            }
            vm.pays.iter_mut().for_each(Pay::tick);
            if let Some(request) = &mut vm.request {
                request.age += 1;
            }
            match &mut vm.guest {
                Guest::Alive(age) => grow(age, WELL),
                Guest::Booting(age) => *age += 1,
                Guest::Off(By::Person(age)) => grow(age, STOPPED),
                Guest::Hung | Guest::Off(By::Us) => {}
            }
            let heard = hears && matches!(vm.guest, Guest::Alive(_));
            if heard || !hears {
                vm.silence = 0;
            } else {
                grow(&mut vm.silence, TIMEOUT);
            }
            if let Some(journal) = &mut vm.journal {
                grow(&mut journal.age, FOREIGN_INTENT);
            }
            for (c, work) in vm.works.iter_mut().enumerate() {
                if matches!(
                    work.at,
                    At::Decided | At::Intended | At::Listed | At::Recorded | At::Owed | At::Connected
                ) {
                    grow(&mut work.age, EXPIRES);
                    let noticed = heard || (stood_still && self.protocol.last_check == LastCheck::Whole);
                    if c == w.decider && noticed {
                        work.age = EXPIRES;
                    }
                }
                if matches!(work.at, At::Connected | At::Checked) {
                    grow(&mut work.idle, FENCE);
                }
            }
        }
        Some(())
    }
}
