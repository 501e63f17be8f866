//! The model for the checker: what can happen, and what must hold.

use crate::protocol::{LastCheck, Protocol};
use crate::steps::Step;
use crate::world::{At, BOOT, EXPIRES, FENCE, FOREIGN_INTENT, Guest, HELD_FOR, LEASE, PROXMOX_HOLDS, TIMEOUT, WELL, World, Wrongs};
use stateright::Property;

/// A protocol in a small world.
#[derive(Clone, Debug)]
pub struct Model {
    pub protocol: Protocol,
    pub scenario: Scenario,
}

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub vms: usize,
    pub controllers: usize,
    pub max_resets: u8,
    /// Guests hang and come back at any time. Otherwise they hang from the beginning, until they are reset.
    pub guests_move: bool,
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
        let guest = if self.scenario.guests_move { Guest::Alive(WELL) } else { Guest::Hung };
        vec![World::new(self.scenario.vms, guest)]
    }

    fn actions(&self, w: &World, actions: &mut Vec<Action>) {
        let mut steps = Vec::new();
        for c in 0..self.scenario.controllers {
            for v in 0..w.vms.len() {
                self.steps(w, c, v, &mut steps);
                actions.extend(steps.drain(..).map(|s| Action::Controller(c, s, v)));
            }
            actions.extend([Action::Restarts(c), Action::TakesLease(c)]);
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
            Action::TakesLease(c) => self.take_lease(&mut next, c)?,
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
        vec![
            Property::always("no healthy VM is reset", |_, w: &World| !w.wrong.healthy),
            Property::always("no VM is reset twice", |_, w: &World| !w.wrong.double),
            Property::always("the budget is kept", |_, w: &World| !w.wrong.budget),
            Property::always("the cap is kept", |_, w: &World| !w.wrong.cap),
        ]
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
