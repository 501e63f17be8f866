//! The protocol of a reset (rule 5) as a model, of which every state is visited: whatever order things happen in, whoever dies, stands still or loses an answer at
//! whatever moment, no healthy VM is reset, none is reset twice, and neither budget nor cap is exceeded. Simpler protocols are run through the same model, and each is
//! seen to go wrong: what looks like ceremony in rule 5 is needed.
//!
//! Read `protocol.rs` (what is compared), then `steps.rs` (the protocol), `world.rs` (what there is) and `model.rs` (what may happen).
//!
//! What the model leaves out can only hold a reset back: the publisher, pauses, what Proxmox says of the VM, corroboration. It assumes what the protocol assumes: a
//! guest boots within the recovery deadline, Proxmox does not hold a request for longer than it is searched, a read from the API server is not stale, and no two
//! processes have one name (which Kubernetes promises of the pods of a StatefulSet, as long as nobody deletes one by force).
//!
//! `SHOW=1 cargo test --package defib-core --test model -- --nocapture` prints how each simpler protocol goes wrong, step by step.

#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

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

/// From any state: once faults stop, the journal empties, and each VM lives or has used up its resets.
#[test]
fn it_always_ends_well_when_faults_stop() {
    for scenario in [scenarios::ONE_VM, scenarios::TWO_VMS] {
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
