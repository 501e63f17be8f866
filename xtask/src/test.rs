//! `cargo xtask test`: everything that must hold, in one command.

use anyhow::{Result, bail};
use control_plane::tools;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use xtask::paths::{PREBUILT, root};

/// One of the test runs.
struct Run {
    what: &'static str,
    program: &'static str,
    args: &'static [&'static str],
}

/// Programs that the runs call, and the Debian package of each.
const NEEDED: [(&str, &str); 6] = [
    ("node", "nodejs"),
    ("curl", "curl"),
    ("shellcheck", "shellcheck"),
    ("openssl", "openssl"),
    ("systemd-analyze", "systemd"),
    ("cc", "build-essential"),
];

const LINT: [Run; 4] = [
    Run {
        what: "formatting",
        program: "cargo",
        args: &["fmt", "--all", "--check"],
    },
    Run {
        what: "clippy",
        program: "cargo",
        args: &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
    },
    Run {
        what: "shellcheck of the agent",
        program: "shellcheck",
        args: &["-x", "agents/linux-agent.sh"],
    },
    Run {
        what: "documentation",
        program: "cargo",
        args: &["doc", "--locked", "--workspace", "--no-deps"],
    },
];

/// Programs and tests are built by one command over the whole workspace: with any other choice, features differ and most is built twice.
const TESTS: [Run; 7] = [
    Run {
        what: "programs and tests",
        program: "cargo",
        args: &["build", "--locked", "--workspace", "--bins", "--tests"],
    },
    Run {
        what: "the agent",
        program: "node",
        args: &["--test", "agents/tests/"],
    },
    Run {
        what: "the workspace",
        program: "cargo",
        args: &["test", "--locked", "--workspace", "--no-fail-fast", "--", "--test-threads", "2"],
    },
    Run {
        what: "a thousand worlds in virtual time, each lived through twice",
        program: "cargo",
        args: &["xtask", "simulate", "--seeds", "1000", "--twice"],
    },
    Run {
        what: "the demo's story",
        program: "cargo",
        args: &["xtask", "demo", "--once"],
    },
    Run {
        what: "every write of a reset, with the controller killed just there",
        program: "cargo",
        args: &["xtask", "crash-table", "--three-stops", "--cells", "5"],
    },
    Run {
        what: "a soak",
        program: "cargo",
        args: &["xtask", "soak", "--seconds", "90"],
    },
];

pub fn run() -> Result<()> {
    let missing: Vec<&(&str, &str)> = NEEDED.iter().filter(|(program, _)| !on_path(program)).collect();
    if !missing.is_empty() {
        let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
        let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
        bail!(
            "not found: {}; on Debian: apt-get install {}",
            programs.join(", "),
            packages.join(" ")
        );
    }
    // Before anything else: it may take ten minutes, once, and says so.
    tools::ensure()?;
    tools::helm()?;
    let runs: Vec<&Run> = LINT.iter().chain(&TESTS).collect();
    let mut failed = Vec::new();
    for run in &runs {
        println!("\n== {}: {} {}", run.what, run.program, run.args.join(" "));
        let began = Instant::now();
        let status = Command::new(run.program)
            .args(run.args)
            .env(PREBUILT, "1")
            .current_dir(root())
            .status();
        let ok = status.is_ok_and(|s| s.success());
        println!(
            "== {}: {} after {} s",
            run.what,
            if ok { "passed" } else { "FAILED" },
            began.elapsed().as_secs()
        );
        if !ok {
            failed.push(run.what);
        }
    }
    println!();
    for what in &failed {
        println!("FAILED: {what}");
    }
    // The closing line that test runners end with.
    println!("{} passed, {} failed", runs.len() - failed.len(), failed.len());
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("{} of {} runs failed", failed.len(), runs.len())
    }
}

fn on_path(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder: PathBuf| folder.join(program))
        .any(|path| path.is_file())
}
