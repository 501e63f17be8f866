//! `cargo xtask soak`: see the library.

use anyhow::{Context, Result, bail};
use clap::Parser;
use soak::audit::audit;
use soak::evidence::{Did, Evidence};
use soak::run::{Outcome, Soak, check_length, run};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use xtask::paths::root;

/// A whole Defib with simulated agents, under hangs, kills and outages; afterwards its logs are audited by the ten rules.
#[derive(Parser)]
#[command(name = "cargo xtask soak", bin_name = "cargo xtask soak")]
struct Arguments {
    /// How long things break, in minutes.
    #[arg(long, default_value_t = 30, conflicts_with = "seconds")]
    minutes: u64,
    /// The same in seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// What happens when follows from it. Drawn, and printed, by default.
    #[arg(long)]
    seed: Option<u64>,
    /// How many VMs there are.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..=10_000))]
    vms: u32,
}

fn main() -> ExitCode {
    match soak(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn soak(arguments: &Arguments) -> Result<()> {
    let length = Duration::from_secs(arguments.seconds.unwrap_or(arguments.minutes * 60));
    check_length(length)?;
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let began = Instant::now();
    let say = |text: &str| println!("[{:>5.1} s] {text}", began.elapsed().as_secs_f64());
    say(&format!("soak of {} VMs, seed {seed}", arguments.vms));
    let outcome = run(
        &Soak {
            length,
            seed,
            vms: arguments.vms,
        },
        &say,
    )
    .with_context(|| format!("the soak with seed {seed} could not be carried out"))?;
    let findings = audit(&outcome.evidence);
    println!();
    figures(&outcome);
    println!("\nRULE  VERDICT  CHECKED  WHAT HOLDS");
    for finding in &findings {
        println!("{finding}");
    }
    let violated = findings.iter().filter(|finding| !finding.violations.is_empty()).count();
    println!("\n{} held, {violated} violated, seed {seed}", findings.len() - violated);
    if violated > 0 {
        let kept = keep_logs(outcome.folder.path(), seed)?;
        bail!(
            "{violated} rules were violated with seed {seed}; the logs are in {}",
            kept.display()
        );
    }
    Ok(())
}

fn figures(outcome: &Outcome) {
    let Outcome {
        evidence, counts, settled, ..
    } = outcome;
    let deeds = |wanted: fn(&Did) -> bool| evidence.deeds.iter().filter(|deed| wanted(&deed.what)).count();
    let reset = |outcome: &str| {
        let ended = evidence.end.resets.iter().filter(|reset| reset.outcome.as_deref() == Some(outcome));
        format!("{} {outcome}", ended.count())
    };
    let outcomes = ["Recovered", "NotRecovered", "Unknown", "Failed"].map(reset).join(", ");
    let happened = evidence
        .guests
        .iter()
        .filter(|event| event.event == pve_sim::GuestEventKind::Reset)
        .count();
    println!("agents       {counts}");
    println!(
        "broken       {} kills and {} ends of the controller, {} outages of the API server, {} of Proxmox",
        deeds(|did| *did == Did::Killed),
        deeds(|did| matches!(did, Did::Died(_))),
        deeds(|did| *did == Did::ApiDown),
        deeds(|did| matches!(did, Did::Proxmox(_)))
    );
    println!("guests       {}", guests(evidence));
    println!(
        "resets       {} asked of Proxmox, {happened} carried out; {outcomes}",
        evidence.posts.len()
    );
    println!("controller   {}", size(evidence));
    let settled = settled.map_or_else(|| "not at all".to_owned(), |after| format!("after {:.0} s", after.as_secs_f64()));
    println!("settled      {settled}");
}

fn guests(evidence: &Evidence) -> String {
    use pve_sim::GuestEventKind as Kind;
    let kinds = [
        ("hung", Kind::Hang),
        ("crashed", Kind::Crash),
        ("thawed", Kind::Thaw),
        ("switched or cut off", Kind::PowerOff),
    ];
    kinds
        .map(|(word, kind)| format!("{} {word}", evidence.guests.iter().filter(|event| event.event == kind).count()))
        .join(", ")
}

fn size(evidence: &Evidence) -> String {
    let most = |value: fn(&soak::sample::Sample) -> u64| evidence.samples.iter().map(value).max().unwrap_or_default();
    format!(
        "at most {} MiB resident and {} descriptors",
        most(|sample| sample.resident) / 1024,
        most(|sample| sample.descriptors)
    )
}

/// What a violation is looked into with. The API server's log is large: only what tells of resets is kept.
fn keep_logs(folder: &Path, seed: u64) -> Result<std::path::PathBuf> {
    let kept = root().join("target/soak").join(seed.to_string());
    std::fs::create_dir_all(&kept)?;
    std::fs::copy(folder.join("pve/audit.jsonl"), kept.join("pve-audit.jsonl"))?;
    std::fs::copy(folder.join("defib.log"), kept.join("defib.log"))?;
    let text = std::fs::read_to_string(folder.join("kube-audit.jsonl"))?;
    let resets: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("\"currentReset\"") || line.contains("\"vmresets\""))
        .collect();
    std::fs::write(kept.join("kube-audit.jsonl"), resets.join("\n"))?;
    Ok(kept)
}
