//! model
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs)]

mod ending;
mod model;
mod protocol;
mod steps;
mod world;

use stateright::{Checker, Model as _};
use crate::model::{Model, Search, scenarios};

#[test]
fn measure() {
    let start = std::time::Instant::now();
    for scenario in scenarios::ALL {
        let model = Model { protocol: protocol::REAL, scenario, search: Search::All };
        let checker = model.checker().spawn_bfs().join();
        println!("{}: {} unique, {} total, {:?}; {:?}", scenario.name, checker.unique_state_count(), checker.state_count(), start.elapsed(),
          checker.discoveries().iter().map(|(n, p)| (*n, p.clone().into_actions().len())).collect::<Vec<_>>());
    }
    for (protocol, wrongs) in protocol::SIMPLER {
        println!("===== {}", protocol.name);
        for (wrong, scenario) in wrongs {
            let model = Model { protocol, scenario: *scenario, search: Search::For(*wrong) };
            let checker = model.checker().target_state_count(8_000_000).spawn_bfs().join();
            println!("{wrong:?} {}: {} unique, {} total, {:?}; {:?}", scenario.name, checker.unique_state_count(), checker.state_count(), start.elapsed(),
              checker.discoveries().iter().map(|(n, p)| (*n, p.clone().into_actions().len())).collect::<Vec<_>>());
        }
    }
    for scenario in scenarios::ALL {
        let model = Model { protocol: protocol::REAL, scenario, search: Search::DeadEnd };
        let checker = model.checker().spawn_bfs().join();
        println!("{}: {} unique, {} total, {:?}; {:?}", scenario.name, checker.unique_state_count(), checker.state_count(), start.elapsed(),
          checker.discoveries().iter().map(|(n, p)| (*n, p.clone().into_actions().len())).collect::<Vec<_>>());
        for (name, path) in checker.discoveries() { println!("{name} {:?}", path.last_state()); for a in path.into_actions() { println!("   {a:?}"); } }
    }
}
