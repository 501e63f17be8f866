//! Bounded liveness: from any state, once faults stop and every step that is due is taken, all comes to its end. A model checker for safety cannot see "in the end", so
//! it is said as a property of each single state: the fair steps from here lead to a good end, and not too late.

use crate::model::{Action, Decider, Model};
use crate::steps::{Fate, Step};
use crate::world::{At, FENCE, Guest, World};
use stateright::Model as _;

/// So many fair steps, ticks among them, are enough from anywhere.
pub const ENOUGH: usize = 80;

impl Model {
    /// Whether the fair steps from this state lead to a good end.
    pub fn ends_well(&self, w: &World) -> bool {
        let mut now = w.clone();
        for _ in 0..ENOUGH {
            if self.good_end(&now) {
                return true;
            }
            let Some(next) = self.fair_step(&now) else { return false };
            now = next;
        }
        false
    }

    /// Every journal is empty, and every VM lives or has used up its resets.
    fn good_end(&self, w: &World) -> bool {
        w.vms.iter().all(|vm| {
            let idle = vm.works.iter().all(|work| work.at == At::Idle);
            let cared_for = matches!(vm.guest, Guest::Alive(_)) || (vm.guest == Guest::Hung && vm.counted >= self.scenario.max_resets);
            idle && vm.journal.is_none() && vm.request.is_none() && cared_for
        })
    }

    /// The first of what is due; time goes on when nothing is.
    fn fair_step(&self, w: &World) -> Option<World> {
        let mut due = Vec::new();
        for v in 0..w.vms.len() {
            due.extend([Action::ProxmoxResets(v), Action::Boots(v)]);
            for c in 0..self.scenario.controllers {
                let work = w.vms[v].works[c];
                let step = match work.at {
                    At::Idle if w.vms[v].journal.is_some() => Step::Continue,
                    At::Idle => Step::Decide,
                    At::Decided => Step::EnterIntent,
                    At::Intended => Step::ListIntents,
                    At::Listed => Step::Open,
                    At::Connected => Step::LastCheck,
                    At::Checked if work.idle < FENCE => Step::Post(Fate::Answered),
                    At::Checked => Step::Post(Fate::NotDelivered),
                    At::Answered(_) => Step::Record,
                    At::Withdrawing => Step::Withdraw,
                };
                due.push(Action::Controller(c, step, v));
            }
        }
        due.push(Action::Tick(Decider::Ran));
        let possible = |action: &Action| match action {
            Action::ProxmoxResets(v) => w.vms[*v].request.is_some(),
            Action::Boots(v) => matches!(w.vms[*v].guest, Guest::Booting(_)),
            _ => true,
        };
        due.into_iter().filter(possible).find_map(|action| self.next_state(w, action))
    }
}
