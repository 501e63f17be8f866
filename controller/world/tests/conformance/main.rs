//! Random sequences of requests go to the API server in memory and to a real kube-apiserver with etcd, and must be answered alike.
//!
//! Compared are codes and reasons, the objects in the answers, the order of resourceVersions and uids (by rank: their values differ), pages of lists, and the
//! events of watches from the beginning of the sequence. Not compared: what refusals say, `managedFields`, times.
//!
//! The seeds are fixed. `DEFIB_CONFORMANCE_SEQUENCES` has more of them played, `DEFIB_CONFORMANCE_SEED` one, or so many from that one on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may panic as tests do"
)]

mod bodies;
mod compare;
mod dates;
mod garbage;
mod random;
mod real;
mod side;
mod steps;

use compare::{first_difference, ranked};
use defib_world::api_server::ApiServer;
use side::{Outcome, Side};
use std::collections::BTreeMap;
use steps::{Step, sequence};

/// Sequences that are played when nobody says otherwise.
const SEQUENCES: u64 = 30;
/// Requests of each.
const LENGTH: usize = 50;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[tokio::test]
async fn the_server_in_memory_answers_as_a_real_one() {
    let plane = real::plane();
    let client = real::client(plane).await;
    let seed = number("DEFIB_CONFORMANCE_SEED");
    let sequences = number("DEFIB_CONFORMANCE_SEQUENCES").unwrap_or(if seed.is_some() { 1 } else { SEQUENCES });
    let seeds = seed.unwrap_or(0)..seed.unwrap_or(0) + sequences;
    let (mut differing, mut codes) = (Vec::new(), BTreeMap::new());
    for seed in seeds {
        let namespace = format!("seed-{seed}");
        real::create_namespace(&client, &namespace).await;
        let server = ApiServer::new(jiff::Timestamp::now);
        let steps = sequence(seed, LENGTH);
        let ours = play(Side::new(server.client("test"), &namespace), &steps).await;
        let theirs = play(Side::new(client.clone(), &namespace), &steps).await;
        for outcome in &theirs {
            *codes.entry(outcome.code).or_insert(0) += 1;
        }
        if let Some(report) = first_difference(&steps, &ranked(ours), &ranked(theirs)) {
            eprintln!("==== seed {seed}: {report}");
            differing.push(seed);
        }
    }
    eprintln!("answers of the real server, by code: {codes:?}");
    assert!(differing.is_empty(), "answered differently with these seeds: {differing:?}");
}

/// To the last uid and generated name.
#[tokio::test]
async fn the_same_requests_are_answered_the_same() {
    for seed in 0..10 {
        let steps = sequence(seed, LENGTH);
        let server = || ApiServer::new(|| jiff::Timestamp::UNIX_EPOCH);
        let first = play(Side::new(server().client("test"), "once"), &steps).await;
        let again = play(Side::new(server().client("test"), "once"), &steps).await;
        for (a, b) in first.iter().zip(&again) {
            assert_eq!((a.code, &a.body), (b.code, &b.body), "seed {seed}: {}", a.what);
        }
    }
}

/// All of a sequence on one server: an outcome for each step, then one for each watch.
async fn play(mut side: Side, steps: &[Step]) -> Vec<Outcome> {
    let versions = side.versions().await;
    let mut outcomes = Vec::new();
    for step in steps {
        outcomes.push(side.run(step).await);
    }
    side.leave_sentinels().await;
    outcomes.extend(side.watch_all(&versions).await);
    outcomes
}
