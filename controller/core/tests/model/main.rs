//! model
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs)]

mod model;
mod protocol;
mod steps;
mod world;

use stateright::{Checker, Model as _};



#[test]
fn measure() {
  for protocol in std::iter::once(protocol::REAL).chain(protocol::SIMPLER) {
    println!("===== {}", protocol.name);
    for (vms, max_resets, controllers, guests_move) in [(1, 1, 2, true), (1, 2, 2, true), (2, 1, 1, false), (2, 1, 2, false)] {
        let start = std::time::Instant::now();
        let model = model::Model { protocol, scenario: model::Scenario { vms, max_resets, controllers, guests_move } };
        let checker = model.checker().target_state_count(20_000_000).spawn_bfs().join();
        println!("{vms} VMs, {max_resets} {controllers}: {} unique, {} total, depth {}, {:?}; {:?}", checker.unique_state_count(), checker.state_count(), checker.max_depth(), start.elapsed(),
          checker.discoveries().iter().map(|(n, p)| (*n, p.clone().into_actions().len())).collect::<Vec<_>>());
    }
  }
}
