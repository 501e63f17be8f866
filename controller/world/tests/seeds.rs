//! A few seeds, for the checks that only a debug build makes. `cargo xtask test` lives through a thousand more by `cargo xtask simulate`, in a release build.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is tests; clippy looks for the attribute on each function"
)]

use defib_world::plan::Plan;
use defib_world::simulate::{Verdict, replay, simulate};

/// More of them would take minutes.
const SEEDS: std::ops::Range<u64> = 1..7;

fn live(seed: u64) -> Verdict {
    hash_order::apart(seed, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(simulate(Plan::new(seed), None))
    })
}

#[test]
fn what_must_hold_holds_in_each_of_some_worlds() {
    let mut bad = Vec::new();
    for seed in SEEDS {
        for violation in live(seed).violations {
            bad.push(format!("seed {seed}: {violation}\n  {}", replay(seed)));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn a_seed_comes_out_the_same_each_time() {
    for seed in [15, 16] {
        let (one, two) = (live(seed), live(seed));
        assert_eq!(one.violations, two.violations, "{}", replay(seed));
        for (one, two) in one.transcript().lines().zip(two.transcript().lines()) {
            assert_eq!(one, two, "{}", replay(seed));
        }
    }
}
