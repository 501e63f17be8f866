//! Builds pinned tools with Go: once a machine, even when several ask at the same time, and never half.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::pinned::{BUILD_FLAGS, Pinned};
use super::{Version, is_executable};
use crate::Error;
use crate::cache::lock;
use crate::command::output_within;
use crate::error::Tried;
use crate::process::{Process, leashed};

/// kube-apiserver takes 4 to 5 minutes on two cores with nothing cached; ten times that is a hang.
const BUILD_PATIENCE: Duration = Duration::from_secs(50 * 60);
/// Go may fetch a newer toolchain (some 80 MB) before it answers.
const GO_PATIENCE: Duration = Duration::from_secs(10 * 60);
const PROGRESS_EVERY: Duration = Duration::from_secs(20);

/// Builds the tools into the folder. Nothing to build is no work.
pub(super) fn build(folder: &Path, tools: &[&Pinned]) -> Result<(), Error> {
    if tools.is_empty() {
        return Ok(());
    }
    let waiting = || say("another process builds these tools; waiting for it");
    // Waiting for every tool that the other may have to build.
    let _lock = lock(&folder.with_extension("lock"), 2 * BUILD_PATIENCE, waiting)?;
    let tools: Vec<&Pinned> = tools
        .iter()
        .copied()
        .filter(|tool| !is_executable(&folder.join(tool.name)))
        .collect();
    if tools.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder).tried("create", folder)?;
    let names: Vec<&str> = tools.iter().map(|tool| tool.name).collect();
    say(&format!("building {} in {}", names.join(", "), folder.display()));
    say("this takes about 10 minutes on 2 cores, once; it needs 5 GB for Go's caches, and the Go module proxy");
    if names.contains(&super::KUBE_APISERVER.name) {
        say(super::ENVTEST_HINT.trim_start());
    }
    for (at, tool) in tools.iter().enumerate() {
        build_one(folder, tool, at + 1, tools.len())?;
    }
    Ok(())
}

fn build_one(folder: &Path, tool: &Pinned, at: usize, of: usize) -> Result<(), Error> {
    // The module's files are part of this program: the build neither needs nor touches a checkout.
    let module = folder.join("go").join(tool.module.name);
    fs::create_dir_all(&module).tried("create", &module)?;
    for (name, text) in [("go.mod", tool.module.go_mod), ("go.sum", tool.module.go_sum)] {
        fs::write(module.join(name), text).tried("write", module.join(name))?;
    }
    check_go(&module, tool)?;

    let title = format!("{} {} ({at} of {of})", tool.name, tool.module.version());
    let partial = folder.join(format!("{}.partial", tool.name));
    let log = folder.join(format!("{}.log", tool.name));
    let mut command = in_module(leashed(Path::new("go")), &module);
    command
        .arg("build")
        .args(BUILD_FLAGS)
        .args(["-ldflags", &tool.module.ldflags(), "-o"])
        .arg(&partial)
        .arg(tool.package);
    let mut build = Process::start("go build", command, &log)?;
    let began = Instant::now();
    let mut told = began;
    say(&format!("{title}: building"));
    let status = loop {
        if let Some(status) = build.wait_until(Instant::now() + Duration::from_millis(500))? {
            break status;
        }
        if began.elapsed() > BUILD_PATIENCE {
            let outcome = format!("no end after {}", minutes(began.elapsed()));
            return Err(Error::Build {
                tool: tool.name.to_owned(),
                outcome,
                tail: build.tail(),
            });
        }
        if told.elapsed() > PROGRESS_EVERY {
            told = Instant::now();
            say(&format!("{title}: still building, {}", minutes(began.elapsed())));
        }
    };
    if !status.success() {
        return Err(Error::Build {
            tool: tool.name.to_owned(),
            outcome: status.to_string(),
            tail: build.tail(),
        });
    }
    let finished = folder.join(tool.name);
    fs::rename(&partial, &finished).tried("rename", &partial)?;
    let _ = fs::remove_file(&log);
    say(&format!("{title}: built in {}", minutes(began.elapsed())));
    Ok(())
}

/// Go in the module's folder, free of settings of the caller that would build something else.
fn in_module(mut go: Command, module: &Path) -> Command {
    go.current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "")
        .env("GOWORK", "off")
        .env_remove("GOOS")
        .env_remove("GOARCH");
    go
}

/// A clear word before the build, instead of the compiler's ten minutes into it.
fn check_go(module: &Path, tool: &Pinned) -> Result<(), Error> {
    let named = || (tool.name.to_owned(), tool.module.go_version().to_owned());
    if !super::path_folders().iter().any(|folder| is_executable(&folder.join("go"))) {
        let (tool, wanted) = named();
        return Err(Error::GoMissing { tool, wanted });
    }
    // Run in the module's folder, Go 1.21 and newer fetches the toolchain that the go.mod asks for, or says that it may not.
    let answer = output_within(in_module(Command::new("go"), module).arg("version"), GO_PATIENCE);
    let wanted = Version::find_in(tool.module.go_version());
    let too_old = |found: String| {
        let (tool, wanted) = named();
        Err(Error::GoTooOld { tool, wanted, found })
    };
    match answer {
        Err(found) => too_old(found),
        Ok(found) if Version::find_in(&found) < wanted => too_old(found.trim().to_owned()),
        Ok(_) => Ok(()),
    }
}

fn minutes(time: Duration) -> String {
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

/// Written to stderr itself, not with `eprintln!`: a test's progress would be captured until the test ends.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "control-plane: {line}");
}
