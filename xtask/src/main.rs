//! Development commands of Defib: cargo xtask --help.

mod control_plane;
mod demo;
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
    /// A whole Defib with 1,000 simulated agents, under hangs, kills and outages; afterwards its logs are audited by the ten rules. `soak --help` has its options.
    #[command(disable_help_flag = true)]
    Soak {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Everything that must hold: lints, unit and property tests, kinds and chart on a real API server, the agent, outages, the demo's story.
    Test,
    /// Write crds/*.yaml and the chart's copy of them anew from the types.
    Crds,
}

fn main() -> ExitCode {
    let result = match Xtask::parse().command {
        Command::ControlPlane(command) => control_plane::run(command),
        Command::Demo(demo) => demo::run(&demo),
        Command::Soak { arguments } => soak(&arguments),
        Command::Test => test::run(),
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

/// The soak is a program of its own: its client of Kubernetes would make this one slow to build.
fn soak(arguments: &[String]) -> anyhow::Result<()> {
    xtask::paths::build(&|text| println!("{text}"))?;
    let status = std::process::Command::new(xtask::paths::program("soak")?)
        .args(arguments)
        .status()?;
    anyhow::ensure!(status.success(), "the soak failed");
    Ok(())
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
