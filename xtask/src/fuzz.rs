//! `cargo xtask fuzz`: lets libFuzzer search, guided by coverage, for inputs that break a property of a parser.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;
use xtask::paths::root;

/// Longest input in bytes. Limits of size have tests of their own; longer inputs only make the search slow.
const MAX_INPUT: u32 = 8192;
/// What parsers of a few KiB must never need, in MiB.
const MEMORY: u32 = 1024;

/// Searches for inputs that break a property of a parser. What it finds belongs into `controller/fuzz/corpus/`, under a name that says what it is.
#[derive(clap::Args)]
pub struct Fuzz {
    /// Which parser: a folder of `controller/fuzz/corpus/`. Left out: each in turn.
    target: Option<String>,
    /// How long each is searched.
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u32,
}

pub fn run(options: &Fuzz) -> Result<()> {
    let corpus = root().join("controller/fuzz/corpus");
    let known = targets(&corpus)?;
    let chosen = match &options.target {
        None => known,
        Some(target) if known.contains(target) => vec![target.clone()],
        Some(target) => bail!("there is no target {target:?}; there are {}", known.join(", ")),
    };
    let found = Command::new("cargo").args(["fuzz", "--version"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        bail!("cargo-fuzz is not installed; install it with: cargo install cargo-fuzz");
    }
    let mut broken = Vec::new();
    for target in &chosen {
        if !search(target, &corpus.join(target), options.seconds)? {
            broken.push(target.as_str());
        }
    }
    if broken.is_empty() {
        println!("all properties held: {}", chosen.join(", "));
        return Ok(());
    }
    bail!(
        "a property was broken in {}: the input is in target/fuzz/found/, and the message above says how",
        broken.join(", ")
    )
}

fn targets(corpus: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(corpus).with_context(|| format!("cannot read {}", corpus.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Whether all properties held.
fn search(target: &str, corpus: &Path, seconds: u32) -> Result<bool> {
    let work = root().join("target/fuzz");
    // What the search learns stays out of the checkout: libFuzzer writes into the first folder only.
    let learned = work.join("learned").join(target);
    let found = work.join("found").join(target);
    for folder in [&learned, &found] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    println!("== {target}, for {seconds} s");
    let status = Command::new("cargo")
        .args(["fuzz", "run", "--fuzz-dir", "controller/fuzz/cargo-fuzz"])
        // The address sanitizer needs a nightly compiler, and there is no unsafe code here for it to watch.
        .args(["--sanitizer", "none", "--target-dir"])
        .arg(work.join("build"))
        .arg(target)
        .args([learned.as_path(), corpus])
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .args(["-timeout=5", "-print_final_stats=1", "-use_value_profile=1"])
        .arg(format!("-artifact_prefix={}/", found.display()))
        .current_dir(root())
        .status()
        .context("cannot run cargo fuzz")?;
    Ok(status.success())
}
