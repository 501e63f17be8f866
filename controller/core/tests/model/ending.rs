//! Bounded liveness: from any state, once faults stop and every step that is due is taken, all comes to its end. A model checker for safety cannot see "in the end", so
//! it is said as a property of each single state: the fair steps from here lead to a good end, and not too late.

use crate::debt::Due;
use crate::model::{Action, Decider, Model};
use crate::steps::{Fate, Step};
use crate::world::{At, By, Guest, Pay, World};
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

    /// Whether the fair steps from this state leave a VM off that was stopped by us.
    pub fn stays_off(&self, w: &World) -> bool {
        let off = |w: &World| w.vms.iter().any(|vm| vm.guest == Guest::Off(By::Us));
        if !off(w) {
            return false;
        }
        let mut now = w.clone();
        for _ in 0..ENOUGH {
            match self.fair_step(&now) {
                Some(next) if off(&next) => now = next,
                Some(_) => return false,
                None => return true,
            }
        }
        true
    }

    /// Every journal is empty, and every VM lives or has used up its resets.
    fn good_end(&self, w: &World) -> bool {
        w.vms.iter().all(|vm| {
            let idle = vm.works.iter().all(|work| work.at == At::Idle);
            let nothing_owed = vm.pays == [Pay::Idle; 2] && !vm.record.is_some_and(|record| record.held) && vm.start.is_none();
            let cared_for = match vm.guest {
                Guest::Alive(_) | Guest::Off(By::Person(_)) => true,
                Guest::Hung => vm.deleted || vm.counted >= self.scenario.max_resets,
                Guest::Booting(_) | Guest::Off(By::Us) => false,
            };
            idle && vm.journal.is_none() && vm.request.is_none() && nothing_owed && cared_for
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
        Action::ProxmoxCarriesOut(_) | Action::ProxmoxStarts(_) | Action::Boots(_) | Action::Tick(Decider::Ran) => true,
        Action::Controller(_, step, _) => match step {
            Step::Decide
            | Step::EnterIntent
            | Step::ListIntents
            | Step::CreateRecord
            | Step::WriteDebt
            | Step::TakeRecordBack
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
        Action::Pays(_, due, _) => match due {
            // Of two starts the one that is taken, unless the connection is closed already.
            Due::Copy | Due::Look | Due::Start { .. } | Due::WriteAsked | Due::Strike | Due::LetGo => true,
            Due::LookAtTheEnd | Due::Fail => false,
        },
        Action::Restarts(_)
        | Action::TakesLease(_)
        | Action::Hangs(_)
        | Action::ComesBack(_)
        | Action::ProxmoxAccepts(_)
        | Action::ProxmoxFailsToStart(_)
        | Action::Deletes(_)
        | Action::Collects(_)
        | Action::PersonStops(_)
        | Action::Tick(_) => false,
    }
}
