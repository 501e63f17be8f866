//! However the owner of a control plane ends, nothing is left of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use control_plane::{ControlPlane, Options, ProcessId};
use rustix::process::{Pid, Signal};

/// What belongs to the control planes in that folder: every process that runs there, or has the folder in its command line.
/// This finds also helpers whose ids nobody told.
fn processes_of(folder: &Path) -> Vec<String> {
    let text = folder.to_string_lossy().into_owned();
    let of_process = |entry: PathBuf| {
        let command = std::fs::read(entry.join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let works_in = std::fs::read_link(entry.join("cwd")).ok();
        let belongs = command.contains(&text) || works_in.is_some_and(|cwd| cwd.to_string_lossy().starts_with(&text));
        belongs.then(|| format!("{}: {command}", entry.display()))
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| of_process(entry.unwrap().path()))
        .collect()
}

fn assert_nothing_is_left(processes: &[ProcessId], folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left = processes_of(folder);
        if left.is_empty() && !folder.exists() && processes.iter().all(|process| !process.is_running()) {
            return;
        }
        assert!(Instant::now() < deadline, "left: {left:#?}; the folder exists: {}", folder.exists());
        thread::sleep(Duration::from_millis(20));
    }
}

struct Owner {
    child: Child,
    folder: PathBuf,
    processes: Vec<ProcessId>,
}

fn start_owner() -> Owner {
    // A shell without job control starts what runs in its background with SIGINT ignored, and that is inherited down to here.
    let mut child = Command::new("env")
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_control-plane-owner")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the owner could not start a control plane; its stderr tells why");
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let pids = told["pids"].as_array().unwrap();
    let processes: Vec<_> = pids
        .iter()
        .map(|pid| ProcessId::of(pid.as_u64().unwrap().try_into().unwrap()).unwrap())
        .collect();
    assert_eq!(processes.len(), 3);
    let folder = PathBuf::from(told["folder"].as_str().unwrap());
    assert!(processes_of(&folder).len() > 3, "the watchers are seen by this test");
    Owner { child, folder, processes }
}

#[test]
fn nothing_is_left_after_sigkill_of_the_owner() {
    let mut owner = start_owner();
    owner.child.kill().unwrap();
    owner.child.wait().unwrap();
    assert_nothing_is_left(&owner.processes, &owner.folder);
}

/// As the terminal does on Ctrl-C: the owner gets SIGINT, and does not handle it.
#[test]
fn nothing_is_left_after_sigint_of_the_owner() {
    let mut owner = start_owner();
    rustix::process::kill_process(Pid::from_child(&owner.child), Signal::INT).unwrap();
    assert!(!owner.child.wait().unwrap().success());
    assert_nothing_is_left(&owner.processes, &owner.folder);
}

/// It is started in one thread and shared by others, as tests do: the end of that thread must not be its end.
#[test]
fn it_outlives_the_thread_that_started_it_and_ends_with_a_panic() {
    let plane = thread::spawn(|| ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}")))
        .join()
        .unwrap();
    let processes: Vec<_> = plane.processes().into_iter().map(|(_, pid)| ProcessId::of(pid).unwrap()).collect();
    let folder = plane.folder().to_path_buf();
    assert!(
        plane
            .kubectl()
            .args(["get", "--raw=/readyz"])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    assert!(processes.iter().all(ProcessId::is_running));

    let failed = thread::spawn(move || {
        let _owned = plane;
        panic!("as a failing test does");
    });
    failed.join().unwrap_err();
    for process in &processes {
        assert!(!process.is_running(), "dropping waits for the end");
    }
    assert_nothing_is_left(&processes, &folder);
}
