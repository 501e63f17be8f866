//! Development commands of Defib: cargo xtask --help.

mod control_plane;
mod demo;

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
}

fn main() -> ExitCode {
    let result = match Xtask::parse().command {
        Command::ControlPlane(command) => control_plane::run(command),
        Command::Demo(demo) => demo::run(&demo),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
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
