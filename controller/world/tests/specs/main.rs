//! Specs at random, as their schemas allow them, are declared one after the other for a small fleet, and then the first ones again: all is as it was, nothing was
//! reset that was well, and nothing ran hot meanwhile.
//!
//! The seeds are fixed. `DEFIB_SPECS_SEEDS` has more of them lived through, `DEFIB_SPECS_SEED` one, or so many from that one on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may panic as tests do"
)]

mod doctored;
mod ear;
mod generate;
mod judge;
mod plan;
mod real;
#[path = "../conformance/real.rs"]
mod real_server;
mod rules;
mod settled;

use defib_world::clock::Time;
use defib_world::evidence::Evidence;
use defib_world::run;
use defib_world::sabotage::Sabotage;
use ear::{Ear, Heard};
use judge::{Most, problems};
use plan::Story;
use tokio::time::Instant;

/// As in the example: worlds are made and thrown away all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stories that are lived through when nobody says otherwise.
const SEEDS: u64 = 6;

/// Problems of a story that are printed.
const SAID: usize = 12;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// What came of a story.
struct Lived {
    evidence: Evidence,
    heard: Heard,
    panics: Vec<String>,
    /// When the world began.
    start: Instant,
}

fn live(story: &Story, sabotage: Option<Sabotage>) -> Lived {
    hash_order::apart(story.plan.seed, || {
        let ear = Ear::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let run = || {
            runtime.block_on(async {
                let world = run::live(story.plan.clone(), sabotage).await;
                let evidence = Evidence::of(&world);
                run::end(&world);
                (evidence, world.clock.instant(Time(0)))
            })
        };
        let ((evidence, start), panics) = tracing::subscriber::with_default(ear.clone(), || ear::panics_of(run));
        let heard = std::mem::take(&mut *ear.0.lock().unwrap());
        Lived {
            evidence,
            heard,
            panics,
            start,
        }
    })
}

/// The same story with as few changes as still end badly.
fn least(story: &Story) -> Story {
    let mut least = story.clone();
    let mut n = 0;
    while let Some(less) = least.without(n) {
        if problems(&less, &live(&less, None)).0.is_empty() {
            n += 1;
        } else {
            least = less;
        }
    }
    least
}

#[test]
fn whatever_specs_were_declared_meanwhile_the_first_ones_lead_to_the_same_end() {
    let seed = number("DEFIB_SPECS_SEED");
    let count = number("DEFIB_SPECS_SEEDS").unwrap_or(if seed.is_some() { 1 } else { SEEDS });
    let (mut bad, mut calm, mut hung) = (Vec::new(), Most::default(), Most::default());
    for seed in seed.unwrap_or(0)..seed.unwrap_or(0) + count {
        if seed % 100 == 0 && count > 100 {
            eprintln!("seed {seed}, {} ended badly so far", bad.len());
        }
        let story = Story::new(seed);
        let (said, seen) = problems(&story, &live(&story, None));
        let most = if story.hung.is_none() { &mut calm } else { &mut hung };
        *most = most.or(seen);
        if !said.is_empty() {
            let least = least(&story);
            let said = problems(&least, &live(&least, None)).0;
            eprintln!("==== {}", least.told());
            said.iter().take(SAID).for_each(|problem| eprintln!("{problem}"));
            eprintln!("({} problems)", said.len());
            bad.push(seed);
        }
    }
    eprintln!("the most of one object in a minute, while nothing hangs: {calm:?}; and else: {hung:?}");
    assert!(bad.is_empty(), "{} of {count} seeds end badly: {bad:?}", bad.len());
}
