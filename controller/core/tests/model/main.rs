//! The protocol of a reset (rule 5), and of a stop with the start that is owed after it (rule 8), as a model, of which every state is visited: whatever order things
//! happen in, whoever dies, stands still or loses an answer at whatever moment, no healthy VM is reset or stopped, none twice, neither budget nor cap is exceeded, a VM
//! that was stopped is started in the end, whatever becomes of its ManagedVM, and none that a person stopped. Simpler protocols are run through the same model, and each
//! is seen to go wrong: what looks like ceremony in rules 5 and 8 is needed.
//!
//! Read `protocol.rs` (what is compared), then `steps.rs` (the protocol), `debt.rs` (the start that is owed), `world.rs` (what there is) and `model.rs` (what may happen).
//!
//! What the model leaves out can only hold a reset back: the publisher, pauses, what Proxmox says of the VM (but whether it is on), corroboration. It assumes what the
//! protocol assumes: a guest boots within the recovery deadline, Proxmox does not hold a request for longer than it is searched, a read from the API server is not stale,
//! and no two processes have one name (which Kubernetes promises of the pods of a StatefulSet, as long as nobody deletes one by force).
//!
//! Of power cycles: each has a VMReset of its own, so there is one of them in a world, and one VM. Proxmox HA may say that it has stopped a VM before it does, a start may
//! fail, and each may be carried out late. A person may delete the ManagedVM at any moment. One who stops the VM does so while no reset of it is under way and no start
//! is owed, as nobody could tell his stop from ours. A process that is asked to end pays first, with the lease or without it, and may be killed meanwhile.
//!
//! `SHOW=1 cargo test --package defib-core --test model -- --nocapture` prints how each simpler protocol goes wrong, step by step.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod debt;
mod ending;
mod model;
mod protocol;
mod simpler;
mod steps;
mod world;

use model::{Model, Scenario, Search, scenarios};
use protocol::{Counted, DecidedOn, Protocol, REAL, TakenOver};
use stateright::{Checker, Model as _};

/// Visits every state, and says how many there were and what was found.
fn search_all(protocol: Protocol, scenario: Scenario, search: Search) -> usize {
    let model = Model {
        protocol,
        scenario,
        search,
    };
    let checker = model.checker().spawn_bfs().join();
    assert!(checker.is_done(), "{}: not all was searched", scenario.name);
    // Fails with the path to what is wrong; also when something that should happen never does.
    checker.assert_properties();
    println!(
        "{}: {} states, {} steps between them",
        scenario.name,
        checker.unique_state_count(),
        checker.state_count()
    );
    checker.unique_state_count()
}

/// A model in which nothing happens proves nothing: each scenario has at least so many states.
const NOT_EMPTY: usize = 20_000;

#[test]
fn the_protocol_does_nothing_wrong_with_one_vm() {
    for scenario in [scenarios::ONE_VM, scenarios::ONE_VM_TWICE] {
        assert!(search_all(REAL, scenario, Search::All) > NOT_EMPTY);
    }
}

#[test]
fn the_protocol_does_nothing_wrong_with_two_vms() {
    for scenario in [scenarios::TWO_VMS, scenarios::TWO_OF_EACH] {
        assert!(search_all(REAL, scenario, Search::All) > NOT_EMPTY);
    }
}

#[test]
fn the_protocol_does_nothing_wrong_with_a_vm_that_is_stopped_and_started() {
    for scenario in [scenarios::POWER_CYCLE, scenarios::STOPPED_BY_PEOPLE] {
        assert!(search_all(REAL, scenario, Search::All) > NOT_EMPTY);
    }
}

#[test]
fn another_controller_pays_what_is_owed() {
    assert!(search_all(REAL, scenarios::POWER_CYCLE_AND_TAKEOVER, Search::All) > NOT_EMPTY);
}

/// From any state: once faults stop, the journal empties, nothing is owed, and each VM lives, has used up its resets or was stopped by a person.
#[test]
fn it_always_ends_well_when_faults_stop() {
    for scenario in [
        scenarios::ONE_VM,
        scenarios::TWO_VMS,
        scenarios::POWER_CYCLE,
        scenarios::STOPPED_BY_PEOPLE,
    ] {
        search_all(REAL, scenario, Search::DeadEnd);
    }
}

/// Not all of rule 5 is needed for safety, as far as this model goes. Said here so that nobody believes it from the table. Counting at the end is as good, as the
/// journal remembers until then; an intent that is taken over at once spoils an attempt of somebody who was only slow; a decision from the cache is caught by the swap,
/// but for what is not in the ManagedVM: the pauses of its policy and cluster, and what Proxmox says.
#[test]
fn what_would_be_safe_too() {
    let safe = [
        Protocol {
            counted: Counted::Ended,
            ..REAL
        },
        Protocol {
            taken_over: TakenOver::AtOnce,
            ..REAL
        },
        Protocol {
            decided_on: DecidedOn::Cache,
            ..REAL
        },
    ];
    for protocol in safe {
        search_all(protocol, scenarios::ONE_VM, Search::All);
    }
}
