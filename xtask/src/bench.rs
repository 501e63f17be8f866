//! `cargo xtask bench`: builds everything in release and hands over to the program that measures, `xtask/bench`.

use anyhow::{Context, Result, bail};
use clap::Args;
use std::path::PathBuf;
use std::process::Command;
use xtask::paths::root;

#[derive(Args)]
pub struct Bench {
    /// What to measure, and how to show it; `--help` tells.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME AND OPTIONS")]
    arguments: Vec<String>,
}

pub fn run(bench: &Bench) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // All of it by one command: with any other choice of packages features differ, and most is built twice.
    let packages = ["--package", "bench", "--package", "defib", "--package", "pve-sim"];
    let built = Command::new(cargo)
        .args(["build", "--locked", "--release"])
        .args(packages)
        .current_dir(root())
        .status()
        .context("cannot run cargo")?;
    if !built.success() {
        bail!("the programs do not build");
    }
    let status = Command::new(program()?)
        .args(&bench.arguments)
        .status()
        .context("cannot run the bench")?;
    if !status.success() {
        bail!("not everything was measured");
    }
    Ok(())
}

/// The program, in the folder of release builds beside our own.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let target = own.ancestors().nth(2).context("this program is in no target folder")?;
    Ok(target.join("release/bench"))
}
