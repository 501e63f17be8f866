//! Bounded liveness: from any state, once faults stop and every step that is due is taken, all comes to its end. A model checker for safety cannot see "in the end", so
//! it is said as a property of each single state: the fair steps from here lead to a good end, and not too late.

use crate::model::{Action, Decider, Model};
use crate::steps::{Fate, Step};
use crate::world::{At, Guest, World};
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
        let mut possible = Vec::new();
        self.actions(w, &mut possible);
        let (time, due): (Vec<Action>, Vec<Action>) = possible.into_iter().filter(is_fair).partition(|a| matches!(a, Action::Tick(_)));
        due.into_iter().chain(time).find_map(|action| self.next_state(w, action))
    }
}

/// What happens where nothing fails.
fn is_fair(action: &Action) -> bool {
    match action {
        Action::ProxmoxResets(_) | Action::Boots(_) | Action::Tick(Decider::Ran) => true,
        Action::Controller(_, step, _) => match step {
            Step::Decide
            | Step::EnterIntent
            | Step::ListIntents
            | Step::Open
            | Step::LastCheck
            // The second where the connection is closed already.
            | Step::Post(Fate::Answered | Fate::NotDelivered)
            | Step::Record
            | Step::Withdraw
            | Step::Continue => true,
            Step::Watch
            | Step::Post(Fate::AnswerLost | Fate::LostOnTheWay)
            | Step::WithdrawWithoutAnswer
            | Step::ContinueWithoutProxmox
            | Step::Fail => false,
        },
        Action::Restarts(_) | Action::TakesLease(_) | Action::Hangs(_) | Action::ComesBack(_) | Action::Tick(_) => false,
    }
}
