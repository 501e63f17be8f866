//! The binary: the example, `ctl`, and what is left when it is killed.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{DEADLINE, process_state};

struct Serving {
    child: Child,
    directory: tempfile::TempDir,
}

fn serve() -> Serving {
    let directory = tempfile::tempdir().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/three-nodes.yaml");
    let child = Command::new(env!("CARGO_BIN_EXE_pve-sim"))
        .args(["serve", "--config", example, "--state-dir"])
        .arg(directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let serving = Serving { child, directory };
    wait(|| serving.directory.path().join("endpoints.json").exists());
    serving
}

fn wait(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "the condition never held");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ctl(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pve-sim"));
    command
        .args(["ctl", "-o", "json", "--state-dir"])
        .arg(directory)
        .args(arguments)
        .output()
        .unwrap()
}

fn rows(directory: &Path, arguments: &[&str]) -> Vec<Value> {
    let output = ctl(directory, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn vm(directory: &Path, vmid: u32) -> Value {
    rows(directory, &["list"]).into_iter().find(|row| row["vmid"] == vmid).unwrap()
}

/// Process ids of the four guests of the example that have a command.
fn guests(directory: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    wait(|| {
        let rows = rows(directory, &["list"]);
        pids = rows
            .iter()
            .filter_map(|row| u32::try_from(row["guestPid"].as_u64()?).ok())
            .collect();
        pids.len() == 4
    });
    pids
}

impl Serving {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn ctl_does_what_it_says() {
    let serving = serve();
    let directory = serving.directory.path();
    guests(directory);
    assert_eq!(rows(directory, &["hang", "101"])[0]["guest"], "hung");
    assert_eq!(rows(directory, &["thaw", "101"])[0]["guest"], "running");
    assert_eq!(rows(directory, &["crash", "101"])[0]["guest"], "crashed");
    assert_eq!(rows(directory, &["stop", "101"])[0]["running"], false);
    assert_eq!(rows(directory, &["start", "101"])[0]["running"], true);
    assert_eq!(rows(directory, &["lock", "101", "backup"])[0]["lock"], "backup");
    assert_eq!(rows(directory, &["unlock", "101"])[0]["lock"], Value::Null);
    assert_eq!(rows(directory, &["migrate", "101", "pve2"])[0]["node"], "pve2");
    assert_eq!(rows(directory, &["ha", "101", "started"])[0]["ha"], "started");
    assert_eq!(rows(directory, &["ha", "101", "none"])[0]["ha"], Value::Null);
    assert_eq!(rows(directory, &["monitor-hang", "101"])[0]["monitorHung"], true);
    rows(directory, &["node-down", "pve2"]);
    assert_eq!(vm(directory, 101)["running"], false);
    rows(directory, &["node-up", "pve2"]);
    assert_eq!(vm(directory, 101)["running"], true);
    let status = rows(directory, &["status"]);
    assert_eq!((&status[0]["name"], &status[0]["quorate"]), (&"lab".into(), &true.into()));
    let add = [
        "fault",
        "add",
        "--method",
        "POST",
        "--path-contains",
        "status/reset",
        "--kind",
        "status:596",
        "--count",
        "2",
    ];
    assert_eq!(rows(directory, &add)[0]["kind"], "status:596:Connection timed out");
    assert_eq!(rows(directory, &["fault", "list"])[0]["count"], 2);
    assert!(rows(directory, &["fault", "clear"]).is_empty());
    assert!(rows(directory, &["audit"]).is_empty(), "controls are no writes");
    let refused = ctl(directory, &["hang", "4711"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no VM 4711"));
    for text in [&["list"], &["audit"], &["events"], &["tasks"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_pve-sim"))
            .args(["ctl", "--state-dir"])
            .arg(directory)
            .args(text)
            .output()
            .unwrap();
        assert!(output.status.success() && !output.stdout.is_empty());
    }
}

#[test]
fn no_guest_survives_the_simulator_however_it_ends() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let mut serving = serve();
        let directory = serving.directory.path().to_owned();
        let pids = guests(&directory);
        // A stopped group must go too.
        rows(&directory, &["hang", "102"]);
        serving.signal(signal);
        let status = serving.child.wait().unwrap();
        assert_eq!(status.success(), signal != Signal::KILL, "{signal:?}: {status}");
        wait(|| pids.iter().all(|pid| process_state(*pid).is_none()));
    }
}

#[test]
fn no_guest_survives_a_kill_while_guests_are_being_started() {
    for _ in 0..8 {
        let mut serving = serve();
        let directory = serving.directory.path().to_str().unwrap().to_owned();
        serving.signal(rustix::process::Signal::KILL);
        serving.child.wait().unwrap();
        wait(|| processes_of(&directory).is_empty());
    }
}

/// Live processes that were given this directory in their environment.
fn processes_of(directory: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(directory)
    })
    .collect()
}

#[test]
fn a_second_simulator_is_refused_and_a_dead_one_replaced() {
    let mut serving = serve();
    let directory = serving.directory.path().to_owned();
    let ca = std::fs::read_to_string(directory.join("pve-root-ca.pem")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pve-sim"));
    command.args(["serve", "--state-dir"]).arg(&directory);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("already runs"));
    serving.signal(rustix::process::Signal::KILL);
    serving.child.wait().unwrap();

    let old = std::fs::read_to_string(directory.join("endpoints.json")).unwrap();
    let key = std::fs::read_to_string(directory.join("pve-root-ca.key")).unwrap();
    serving.child = command.stdout(Stdio::null()).spawn().unwrap();
    wait(|| std::fs::read_to_string(directory.join("endpoints.json")).is_ok_and(|new| new != old));
    assert_eq!(
        std::fs::read_to_string(directory.join("pve-root-ca.key")).unwrap(),
        key,
        "the CA stays"
    );
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"));
}
