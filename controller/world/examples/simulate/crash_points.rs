//! Each golden scenario with the controller killed before and after each of its writes.

use crate::Arguments;
use defib_world::evidence::Evidence;
use defib_world::golden::{Outcome, Scenario, crash};
use defib_world::plan::CrashPoint;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The plain story: it is lived through with each pair of crashes, too.
const PAIRS: &str = "rules/06-reset-and-back";

fn stand_still(long: Duration) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(tokio::time::advance(long))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn play(scenario: &Scenario, crashes: &[CrashPoint]) -> Result<Outcome, String> {
    hash_order::apart(0, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(crash::play(scenario, crashes, stand_still))
    })
}

/// Names of the scenarios that begin so.
fn names(only: &str) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for group in fs::read_dir(folder())? {
        let group = group?.path();
        if !group.is_dir() {
            continue;
        }
        for file in fs::read_dir(&group)? {
            let file = file?.path().with_extension("");
            let name = file.strip_prefix(folder()).map(|p| p.to_string_lossy().into_owned());
            names.extend(name.ok().filter(|name| name.starts_with(only)));
        }
    }
    names.sort();
    // A scenario and its story.
    names.dedup();
    Ok(names)
}

/// One run that is to be made: the scenario, how it goes without a crash, and where it crashes.
struct Job<'a> {
    name: &'a str,
    scenario: &'a Scenario,
    without: &'a Evidence,
    crashes: Vec<CrashPoint>,
}

impl Job<'_> {
    /// Whether all is well. What is not is printed, with the command that shows it again.
    fn run(&self, arguments: &Arguments, out: &Mutex<()>) -> bool {
        let outcome = match play(self.scenario, &self.crashes) {
            Ok(outcome) => outcome,
            Err(error) => {
                eprintln!("{}: {error}", self.name);
                return false;
            }
        };
        let violations = crash::violations(self.without, &outcome.evidence);
        let points: Vec<String> = self.crashes.iter().map(|point| format!("--point {point}")).collect();
        let _out = out.lock();
        if arguments.transcript {
            println!("{}", outcome.story);
        }
        for violation in violations.iter().take(5) {
            println!("{} with {}: {violation}", self.name, points.join(" "));
        }
        if !violations.is_empty() {
            let points = points.join(" ");
            println!("  cargo xtask simulate --crash-points --only {} {points} --transcript", self.name);
        }
        violations.is_empty()
    }
}

/// Runs jobs on all threads. Answers how many were not well.
fn all(jobs: &[Job<'_>], threads: usize, arguments: &Arguments) -> usize {
    let (next, bad, out) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !job.run(arguments, &out) {
                        bad.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bad.into_inner()
}

/// Crashes after the first one of a run that already has one.
fn second(job: &Job<'_>) -> Result<Vec<Vec<CrashPoint>>, String> {
    let first = job.crashes.first().copied().ok_or("a pair has a first crash")?;
    let outcome = play(job.scenario, &job.crashes)?;
    let later = |point: &CrashPoint| point.to != first.to || point.number > first.number;
    let points = crash::points(&outcome.evidence).into_iter().filter(later);
    Ok(points.map(|point| vec![first, point]).collect())
}

pub fn run(arguments: &Arguments, threads: usize) -> Result<ExitCode, String> {
    let began = Instant::now();
    let names = names(&arguments.only).map_err(|error| error.to_string())?;
    let (mut runs, mut bad) = (0, 0);
    for name in &names {
        let text = fs::read_to_string(folder().join(name).with_extension("yaml")).map_err(|error| format!("{name}: {error}"))?;
        let scenario = Scenario::read(&text).map_err(|error| format!("{name}: {error}"))?;
        let without = play(&scenario, &[])?.evidence;
        let job = |crashes| Job {
            name,
            scenario: &scenario,
            without: &without,
            crashes,
        };
        let mut jobs: Vec<Job<'_>> = if arguments.point.is_empty() {
            crash::points(&without).into_iter().map(|point| job(vec![point])).collect()
        } else {
            vec![job(arguments.point.clone())]
        };
        if name == PAIRS && arguments.point.is_empty() {
            let pairs: Result<Vec<_>, String> = jobs.iter().map(second).collect();
            jobs.extend(pairs?.into_iter().flatten().map(job));
        }
        runs += jobs.len();
        bad += all(&jobs, threads, arguments);
    }
    println!(
        "{} scenarios, {runs} runs with the controller killed at a write, in {:.0} s: {}",
        names.len(),
        began.elapsed().as_secs_f64(),
        if bad == 0 {
            "all well".to_owned()
        } else {
            format!("{bad} of them with violations")
        }
    );
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
