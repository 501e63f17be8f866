//! `cargo xtask simulate`: see `controller/world`.

use anyhow::{Context, Result, bail};
use std::process::Command;

/// Lives through worlds, in a release build: a world takes a tenth of a second there, and seconds otherwise.
///
/// # Errors
/// When something does not hold; what, and how to see it again, is printed.
pub fn run(arguments: &[String]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "run",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "defib-world",
            "--example",
            "simulate",
            "--",
        ])
        .args(arguments)
        .current_dir(xtask::paths::root())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("simulate failed: {status}");
    }
    Ok(())
}
