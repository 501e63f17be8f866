//! What must hold of every world, whatever went wrong in it. Each oracle has a test with a protocol that is broken on purpose (`tests/oracles.rs`), on which it
//! is seen to fail.

mod liveness;
mod protocol;
mod safety;
mod status;

use crate::clock::Time;
use crate::evidence::Evidence;
use std::fmt;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Of which oracle.
    pub oracle: &'static str,
    /// When.
    pub at: Time,
    /// Which machine.
    pub vm: Option<usize>,
    /// What.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.oracle, self.at)?;
        if let Some(vm) = self.vm {
            write!(f, ", vm-{vm}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// What an oracle found: when, which machine, what.
type Found = Vec<(Time, Option<usize>, String)>;

/// An oracle.
pub struct Oracle {
    /// Its name.
    pub name: &'static str,
    /// What must hold.
    pub what: &'static str,
    judge: fn(&Evidence) -> Found,
}

/// All oracles.
pub const ORACLES: [Oracle; 18] = [
    Oracle {
        name: "S1",
        what: "no reset of a VM that was heard within its time-out, nor by a process that listened for less",
        judge: safety::witnessed_silence,
    },
    Oracle {
        name: "S2",
        what: "two resets of a VM are a cool-down apart",
        judge: safety::cool_down,
    },
    Oracle {
        name: "S3",
        what: "no more attempts in an episode than its steps have, no more resets in a window than maxResets",
        judge: safety::attempts,
    },
    Oracle {
        name: "S4",
        what: "never more resets under way, nor a reset with more VMs silent, than the budgets allow",
        judge: safety::budgets,
    },
    Oracle {
        name: "S5",
        what: "no reset of a VM that is paused, only observed, said goodbye, does not run, or is another machine",
        judge: safety::declared,
    },
    Oracle {
        name: "S6",
        what: "each POST is preceded by its intent in the journal, and is sent once",
        judge: protocol::intent_first,
    },
    Oracle {
        name: "S7",
        what: "nobody writes what is not his",
        judge: protocol::own_fields,
    },
    Oracle {
        name: "S8",
        what: "each status makes sense",
        judge: status::lint,
    },
    Oracle {
        name: "S9",
        what: "nothing is written that is there already",
        judge: protocol::idempotent,
    },
    Oracle {
        name: "S10",
        what: "observedGeneration, journal and time of the last heartbeat never go back",
        judge: status::monotone,
    },
    Oracle {
        name: "S11",
        what: "no start of a VM that no reset had stopped and that is not declared to run",
        judge: protocol::only_owed_starts,
    },
    Oracle {
        name: "S12",
        what: "no reset of a VM that boots again and again by itself",
        judge: safety::boot_loops,
    },
    Oracle {
        name: "L1",
        what: "when trouble is over, the status comes to say what is so",
        judge: liveness::settles,
    },
    Oracle {
        name: "L2",
        what: "a VM is not looked at all the time",
        judge: liveness::no_hot_loop,
    },
    Oracle {
        name: "L3",
        what: "a VM that hangs while nothing else is wrong is reset, and comes back",
        judge: liveness::resets,
    },
    Oracle {
        name: "L4",
        what: "no reset and no VMReset stays under way for ever",
        judge: liveness::nothing_stuck,
    },
    Oracle {
        name: "L5",
        what: "a VM that a reset stopped runs again",
        judge: liveness::started_again,
    },
    Oracle {
        name: "L6",
        what: "a VM that is declared to run, and that nothing holds, is on",
        judge: liveness::runs,
    },
];

/// All that must not be.
pub fn judge(evidence: &Evidence) -> Vec<Violation> {
    let found = ORACLES.iter().flat_map(|oracle| {
        let found = (oracle.judge)(evidence);
        found.into_iter().map(|(at, vm, text)| Violation {
            oracle: oracle.name,
            at,
            vm,
            text,
        })
    });
    found.collect()
}
