//! One control plane for all tests of a program, and kubectl on it.

#![allow(dead_code, reason = "each program of tests uses a part of this")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic as tests do")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use control_plane::{ControlPlane, Options};

/// Names of the four definitions.
pub const CRDS: [&str; 4] = [
    "managedvms.defib.dev",
    "healthpolicies.defib.dev",
    "proxmoxclusters.defib.dev",
    "vmresets.defib.dev",
];

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The control plane of this program. It ends when the program does.
pub fn plane() -> &'static ControlPlane {
    static PLANE: OnceLock<ControlPlane> = OnceLock::new();
    PLANE.get_or_init(|| ControlPlane::start(Options::default()).unwrap_or_else(|error| panic!("{error}")))
}

/// What a command printed.
#[derive(Debug)]
pub struct Said {
    /// Whether it succeeded.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error: errors and warnings.
    pub err: String,
}

impl Said {
    /// Standard output of a command that succeeded without a warning.
    pub fn cleanly(self) -> String {
        assert!(self.ok && self.err.is_empty(), "{}{}", self.out, self.err);
        self.out
    }

    /// What a command that failed said.
    pub fn refused(self) -> String {
        assert!(!self.ok, "not refused: {}", self.out);
        self.err
    }
}

/// Runs a command, with `input` as its standard input.
pub fn run_with(command: &mut Command, input: &str) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Beside the reading: a command may print before it has read all.
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let _ = writing.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    Said {
        ok: output.status.success(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Runs kubectl as the administrator.
pub fn kubectl(args: &[&str]) -> Said {
    kubectl_with(args, "")
}

/// Runs kubectl as the administrator, with `input` as its standard input.
pub fn kubectl_with(args: &[&str], input: &str) -> Said {
    run_with(plane().kubectl().args(args), input)
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the API server serves the four kinds.
pub fn wait_established() {
    let mut args = vec!["wait", "--for=condition=Established", "--timeout=60s", "crd"];
    args.extend(CRDS);
    kubectl(&args).cleanly();
    // Established is said a moment before the kinds are served.
    eventually("the kinds are served", || {
        kubectl(&["get", "managedvms,healthpolicies,proxmoxclusters,vmresets"]).ok
    });
}

/// An empty namespace.
pub fn namespace(name: &str) -> String {
    kubectl(&["create", "namespace", name]).cleanly();
    name.to_owned()
}

/// The YAML files of a folder, by name.
pub fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}
