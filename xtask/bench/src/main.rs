//! Measures Defib on this machine: `cargo xtask bench`, which builds this and all that it runs in release.
//!
//! Everything that is measured is real: the controller as a process with the rights of its chart, kube-apiserver with etcd, the Proxmox simulator, the agent's
//! script. It all shares this machine with the load generator, so the targets are counts that leave room for that, or ratios within one run.

mod agent;
mod detection;
mod figures;
mod load;
mod machine;
mod memory;
mod procfs;
mod publisher;
mod receiver;
mod world;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use figures::{Earlier, Figure, Style, table, to_json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use world::{BUILT_IN, World, say};
use xtask::paths::root;

/// Measures Defib on this machine, prints a table, and writes target/bench/NAME.json.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Bench {
    /// What to measure; all of it by default.
    name: Option<Name>,
    /// Prints ratios to an earlier run, whose file this is.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Prints the table as Markdown, as the README has it.
    #[arg(long)]
    markdown: bool,
    /// VMs of the fleet. The targets are for the default; a smaller one is for a try.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=20_000))]
    vms: u32,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Reports a second that are accepted.
    Receiver,
    /// Patches a second beside a bare client's, and writes for each heartbeat.
    Publisher,
    /// From a time-out that is over to the reset request at Proxmox.
    Detection,
    /// Memory, CPU and start of the controller.
    Memory,
    /// CPU and memory of the agent, beside others.
    Agent,
}

impl Name {
    fn word(self) -> &'static str {
        match self {
            Self::Receiver => "receiver",
            Self::Publisher => "publisher",
            Self::Detection => "detection",
            Self::Memory => "memory",
            Self::Agent => "agent",
        }
    }

    fn run(self, vms: u32) -> Result<Vec<Figure>> {
        match self {
            Self::Receiver => within(World::start(vms, receiver::POLICY, &[])?, receiver::run),
            Self::Publisher => within(World::start(vms, BUILT_IN, &[])?, publisher::run),
            Self::Detection => {
                let mut figures = Vec::new();
                for fleet in [vms, vms / 10] {
                    let world = World::start(fleet, detection::POLICY, &detection::ARGUMENTS)?;
                    figures.extend(within(world, |world| detection::run(world))?);
                }
                Ok(figures)
            }
            Self::Memory => memory::run(vms),
            Self::Agent => within(World::start(1, BUILT_IN, &[])?, |world| agent::run(world)),
        }
    }
}

/// Runs a bench in a world, which ends with it. When it fails, what the controller said last is shown.
fn within(mut world: World, bench: impl FnOnce(&mut World) -> Result<Vec<Figure>>) -> Result<Vec<Figure>> {
    let figures = bench(&mut world);
    if figures.is_err() {
        eprintln!("the last lines of Defib's log:\n{}\n", world.lab.controller_log(20));
    }
    let figures = figures?;
    world.stop()?;
    Ok(figures)
}

fn main() -> ExitCode {
    match run(&Bench::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(bench: &Bench) -> Result<()> {
    // First: the file may be the one that this run writes over.
    let earlier = bench.compare.as_deref().map(Earlier::read).transpose()?;
    let names = bench.name.map_or_else(|| Name::value_variants().to_vec(), |name| vec![name]);
    let (mut all, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        let began = Instant::now();
        match name.run(bench.vms) {
            Ok(figures) => {
                say(&format!("{}: {} s", name.word(), began.elapsed().as_secs()));
                write(name.word(), &figures)?;
                all.extend(figures);
            }
            Err(error) => {
                eprintln!("error: {}: {error:#}", name.word());
                failed.push(name.word());
            }
        }
    }
    if bench.name.is_none() && failed.is_empty() {
        write("all", &all)?;
    }
    let style = if bench.markdown { Style::Markdown } else { Style::Plain };
    println!("{}\n", machine::words(bench.vms));
    println!("{}", table(&all, earlier.as_ref(), style));
    let missed = all.iter().filter(|figure| figure.met() == Some(false)).count();
    if missed > 0 {
        say(&format!("{missed} targets MISSED"));
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

fn write(name: &str, figures: &[Figure]) -> Result<()> {
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, to_json(figures)?).with_context(|| format!("cannot write {}", path.display()))?;
    say(&format!("written: {}", path.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Bench::command().debug_assert();
    }
}
