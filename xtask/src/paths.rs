//! Where things are.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// A program of this workspace, built beside the one that runs now.
///
/// # Errors
/// When it is not there; the message names the command that builds it.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    // Tests lie one folder deeper, in `deps`.
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    match found {
        Some(path) => Ok(path),
        None => bail!("{name} is not built; build it with: cargo build --workspace --bins"),
    }
}

/// Set by whoever has just built the programs, so that they are not built again with other features.
pub const PREBUILT: &str = "DEFIB_PREBUILT";

/// Builds the programs that a lab runs, with the progress that cargo shows.
///
/// # Errors
/// When they do not compile.
pub fn build(say: &dyn Fn(&str)) -> Result<()> {
    if std::env::var_os(PREBUILT).is_some() {
        return Ok(());
    }
    say("building the programs (the first build takes a few minutes)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--locked", "--workspace", "--bins"])
        .current_dir(root())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the programs do not build");
    }
    Ok(())
}

/// Builds the programs of this workspace and runs one of them, which tells the rest itself.
///
/// # Errors
/// When they do not compile, or it fails.
pub fn run(name: &str, arguments: &[String]) -> Result<()> {
    build(&|text| eprintln!("{text}"))?;
    control_plane::tools::ensure()?;
    let status = Command::new(program(name)?).args(arguments).status();
    let status = status.with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} failed: {status}");
    }
    Ok(())
}
