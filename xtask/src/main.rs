//! Development commands of Defib: cargo xtask --help.

mod bench;
mod control_plane;
mod demo;
mod fuzz;
mod simulate;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development commands of Defib.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A local Kubernetes control plane, without nodes: start, stop, list.
    #[command(subcommand)]
    ControlPlane(control_plane::Command),
    /// The main job on this machine: VMs that fall silent are reset and proved alive again.
    Demo(demo::Demo),
    /// Every write of a reset, and what becomes of it when the controller is killed, stopped or left without an answer just there.
    #[command(disable_help_flag = true)]
    CrashTable(Arguments),
    /// A whole Defib with 1,000 simulated agents, under hangs, kills and outages; afterwards its logs are audited by the ten rules.
    #[command(disable_help_flag = true)]
    Soak(Arguments),
    /// Many whole Defibs in virtual time, one a seed, in which everything goes wrong; each is judged by eighteen rules.
    #[command(disable_help_flag = true)]
    Simulate(Arguments),
    /// Searches, guided by coverage, for inputs that break what must hold of a parser. Needs cargo-fuzz.
    Fuzz(fuzz::Fuzz),
    /// Everything that must hold: lints, unit and property tests, kinds and chart on a real API server, the agent, outages, the demo's story.
    Test,
    /// Measure Defib in a release build, print a table, and write target/bench/NAME.json.
    #[command(disable_help_flag = true)]
    Bench(bench::Bench),
    /// Write crds/*.yaml and the chart's copy of them anew from the types.
    Crds,
}

/// Arguments of a program of its own, which knows its `--help`.
#[derive(clap::Args)]
struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Xtask::parse().command {
        Command::ControlPlane(command) => control_plane::run(command),
        Command::Demo(demo) => demo::run(&demo),
        Command::CrashTable(Arguments { arguments }) => xtask::paths::run("crash-table", &arguments),
        Command::Soak(Arguments { arguments }) => xtask::paths::run("soak", &arguments),
        Command::Simulate(Arguments { arguments }) => simulate::run(&arguments),
        Command::Fuzz(fuzz) => fuzz::run(&fuzz),
        Command::Test => test::run(),
        Command::Bench(bench) => bench::run(&bench),
        Command::Crds => crds(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The golden test knows how to write them.
fn crds() -> anyhow::Result<()> {
    let status = std::process::Command::new("cargo")
        .args(["test", "--locked", "--package", "defib-api", "--test", "crds"])
        .env("DEFIB_UPDATE", "1")
        .current_dir(xtask::paths::root())
        .status()?;
    anyhow::ensure!(status.success(), "the definitions were not written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Xtask::command().debug_assert();
    }
}
