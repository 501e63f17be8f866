//! The model for the checker: what can happen, and what must hold.

use crate::protocol::{LastCheck, Protocol};
use crate::steps::Step;
use crate::world::{
    At, BOOT, EXPIRES, FENCE, FOREIGN_INTENT, Guest, HELD_FOR, LEASE, PROXMOX_HOLDS, Stage, TIMEOUT, Vm, WELL, World, Wrong, Wrongs,
};
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
}

/// The four worlds that are searched.
pub mod scenarios {
    use super::Scenario;

    pub const ONE_VM: Scenario = Scenario {
        name: "one VM, one reset allowed, two controllers",
        vms: 1,
        controllers: 2,
        parallel: true,
        max_resets: 1,
        guests_move: true,
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
    /// A controller's process ends and starts again.
    Restarts(usize),
    /// It takes the lease.
    TakesLease(usize),
    /// Proxmox carries out the request it has taken.
    ProxmoxResets(usize),
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
        vec![World::new(self.scenario.vms, guest)]
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
            }
            actions.push(Action::Restarts(c));
            // When its holder has not renewed it for long.
            if w.decider != c && w.lease_age >= LEASE {
                actions.push(Action::TakesLease(c));
            }
        }
        for (v, vm) in w.vms.iter().enumerate() {
            if vm.request.is_some() {
                actions.push(Action::ProxmoxResets(v));
            }
            match vm.guest {
                Guest::Alive(_) if self.scenario.guests_move => actions.push(Action::Hangs(v)),
                Guest::Hung if self.scenario.guests_move => actions.push(Action::ComesBack(v)),
                Guest::Alive(_) | Guest::Hung => {}
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
            Action::ProxmoxResets(v) => {
                let vm = next.vms.get_mut(v)?;
                vm.task = vm.request.take()?.attempt;
                vm.guest = Guest::Booting(0);
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
            Search::All => never.into_iter().chain(happens).collect(),
            Search::For(wrong) => never.into_iter().nth(wrong as usize).into_iter().collect(),
            Search::DeadEnd => vec![Property::always("it ends well", |model: &Self, w: &World| model.ends_well(w))],
        }
    }
}

impl Model {
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
            if vm.request.is_some_and(|r| r.age == PROXMOX_HOLDS) || vm.guest == Guest::Booting(BOOT) {
                return None;
            }
            if let Some(request) = &mut vm.request {
                request.age += 1;
            }
            match &mut vm.guest {
                Guest::Alive(age) => grow(age, WELL),
                Guest::Booting(age) => *age += 1,
                Guest::Hung => {}
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
                if matches!(work.at, At::Decided | At::Intended | At::Listed | At::Connected) {
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
