//! `cargo xtask simulate`: lives through worlds, one a seed, and judges each.
//!
//! An example and no program: tokio's virtual time is a feature of tests, which the programs of the workspace are not to be built with.

#![allow(clippy::expect_used, reason = "a program for tests")]

mod crash_points;

use clap::Parser;
use defib_world::plan::{CrashPoint, Plan};
use defib_world::simulate::{Verdict, replay, simulate};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Ten minutes of a whole Defib in virtual time for each seed, in which things go wrong as the seed says; then the record is judged.
#[derive(Parser)]
#[command(name = "cargo xtask simulate", bin_name = "cargo xtask simulate")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Begin no other seed after so many minutes: a long run ends with a count all the same.
    #[arg(long)]
    minutes: Option<u64>,
    /// Tell what happened to each VM.
    #[arg(long)]
    transcript: bool,
    /// Live through each seed twice, and compare.
    #[arg(long)]
    twice: bool,
    /// Threads. Each world has one of its own.
    #[arg(long)]
    threads: Option<usize>,
    /// Instead: each golden scenario (`controller/world/tests/golden`) with the controller killed before and after each of its writes.
    #[arg(long)]
    crash_points: bool,
    /// Only scenarios whose names begin so.
    #[arg(long, default_value = "", requires = "crash_points")]
    only: String,
    /// Only with a crash at this point, such as 0:api:12:before; several: at each of them, one after the other.
    #[arg(long, requires = "crash_points")]
    point: Vec<CrashPoint>,
}

fn live(seed: u64) -> Verdict {
    hash_order::apart(seed, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(simulate(Plan::new(seed), None))
    })
}

/// Where two lives of one world part.
fn differs(one: &Verdict, two: &Verdict) -> Option<String> {
    let (told, again) = (one.transcript(), two.transcript());
    if told == again && one.violations == two.violations {
        return None;
    }
    let first = told.lines().zip(again.lines()).find(|(one, two)| one != two);
    Some(first.map_or_else(
        || "one ends earlier".into(),
        |(one, two)| format!("\n  {}\n  {}", one.trim(), two.trim()),
    ))
}

/// Whether all is well with a seed. What is not is printed.
fn one(seed: u64, arguments: &Arguments, out: &Mutex<()>) -> (bool, usize) {
    let verdict = live(seed);
    let differs = arguments.twice.then(|| differs(&verdict, &live(seed))).flatten();
    let well = verdict.violations.is_empty() && differs.is_none();
    if !well || arguments.transcript {
        let _out = out.lock();
        if arguments.transcript {
            println!("{}", verdict.transcript());
        }
        for violation in verdict.violations.iter().take(10) {
            println!("seed {seed} ({:?}): {violation}", verdict.evidence.plan.theme);
        }
        if let Some(differs) = differs {
            println!(
                "seed {seed} ({:?}): lived through twice, it came out differently: {differs}",
                verdict.evidence.plan.theme
            );
        }
        if !well {
            println!("  {}", replay(seed));
        }
    }
    (well, verdict.evidence.posts.len())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let began = Instant::now();
    let threads = arguments
        .threads
        .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1);
    if arguments.crash_points {
        return crash_points::run(&arguments, threads).unwrap_or_else(|error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        });
    }
    let (next, lived, bad, posts) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let out = Mutex::new(());
    let late = || arguments.minutes.is_some_and(|minutes| began.elapsed().as_secs() >= minutes * 60);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // A seed that was taken is lived through: there is no gap among them.
                while !late() {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= arguments.seeds {
                        return;
                    }
                    let (well, sent) = one(arguments.first_seed + n, &arguments, &out);
                    lived.fetch_add(1, Ordering::Relaxed);
                    bad.fetch_add(u64::from(!well), Ordering::Relaxed);
                    posts.fetch_add(sent as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let (lived, bad, posts, took) = (lived.into_inner(), bad.into_inner(), posts.into_inner(), began.elapsed());
    println!(
        "{lived} worlds of ten minutes{}, from seed {} on, in {:.1} s ({:.0} ms each), {posts} resets sent: {}",
        if arguments.twice { ", each twice" } else { "" },
        arguments.first_seed,
        took.as_secs_f64(),
        took.as_secs_f64() * 1000.0 * threads as f64 / lived.max(1) as f64,
        if bad == 0 {
            "all well".to_owned()
        } else {
            format!("{bad} of them with violations")
        }
    );
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
