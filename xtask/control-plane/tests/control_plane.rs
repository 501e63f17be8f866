//! A control plane as its users see it.
//!
//! These tests run the real programs. Where those are missing they fail, and say which command builds them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic as tests do")]

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use control_plane::{ControlPlane, Options, ProcessId};

fn start(options: Options) -> ControlPlane {
    ControlPlane::start(options).unwrap_or_else(|error| panic!("{error}"))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

fn kubectl(plane: &ControlPlane, args: &[&str]) -> Result<String, String> {
    run(plane.kubectl().args(args))
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn ids(plane: &ControlPlane) -> Vec<ProcessId> {
    plane.processes().into_iter().map(|(_, pid)| ProcessId::of(pid).unwrap()).collect()
}

fn assert_gone(processes: &[ProcessId], folder: &Path) {
    for process in processes {
        assert!(!process.is_running(), "{process:?} is still running");
    }
    assert!(!folder.exists(), "{} is still there", folder.display());
}

/// One start for all that needs no fresh one: they take seconds each.
#[test]
fn a_control_plane_does_what_defib_needs_of_it() {
    let plane = start(Options::default());
    assert_eq!(plane.processes().len(), 3);

    // A token of a ServiceAccount (`default` is there from the beginning) is known, and RBAC gives it no rights.
    let token = kubectl(&plane, &["create", "token", "default"]).unwrap();
    let mut as_token = plane.kubectl();
    as_token
        .env("KUBECONFIG", "/dev/null")
        .args(["--server", &plane.server_url(), "--token", &token]);
    let ca = plane.folder().join("test-ca.crt");
    fs::write(&ca, plane.ca_pem()).unwrap();
    as_token.arg("--certificate-authority").arg(&ca);
    let refused = run(as_token.args(["get", "secrets"])).unwrap_err();
    assert!(
        refused.contains("Forbidden") && refused.contains("system:serviceaccount:default:default"),
        "{refused}"
    );

    // The controllers run: what an owner leaves is collected, and a deleted namespace goes away with its contents.
    let owner = ["create", "configmap", "owner", "--output=jsonpath={.metadata.uid}"];
    let uid = kubectl(&plane, &owner).unwrap();
    kubectl(&plane, &["create", "configmap", "owned"]).unwrap();
    let reference =
        format!(r#"{{"metadata":{{"ownerReferences":[{{"apiVersion":"v1","kind":"ConfigMap","name":"owner","uid":"{uid}"}}]}}}}"#);
    kubectl(&plane, &["patch", "configmap", "owned", "--patch", &reference]).unwrap();
    kubectl(&plane, &["create", "namespace", "short-lived"]).unwrap();
    kubectl(&plane, &["create", "configmap", "inside", "--namespace=short-lived"]).unwrap();
    kubectl(&plane, &["delete", "configmap", "owner"]).unwrap();
    kubectl(&plane, &["delete", "namespace", "short-lived", "--wait=false"]).unwrap();
    let not_found = |args: &[&str]| kubectl(&plane, args).is_err_and(|error| error.contains("NotFound"));
    eventually("the owned ConfigMap is collected", || not_found(&["get", "configmap", "owned"]));
    eventually("the namespace is gone", || not_found(&["get", "namespace", "short-lived"]));

    // The kubeconfig is for its owner's eyes.
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(plane.kubeconfig()).unwrap().permissions());
    assert_eq!(mode & 0o077, 0);
    assert_eq!(fs::read_to_string(plane.kubeconfig()).unwrap(), plane.kubeconfig_yaml());
    assert!(!format!("{plane:?}").contains("client-key-data"));

    let (processes, folder) = (ids(&plane), plane.folder().to_path_buf());
    plane.stop().unwrap();
    assert_gone(&processes, &folder);
}

#[test]
fn two_at_once_are_two() {
    let (one, two) = thread::scope(|scope| {
        let [one, two] = [(); 2].map(|()| scope.spawn(|| start(Options::default())));
        (one.join().unwrap(), two.join().unwrap())
    });
    kubectl(&one, &["create", "configmap", "mine"]).unwrap();
    kubectl(&one, &["get", "configmap", "mine"]).unwrap();
    let error = kubectl(&two, &["get", "configmap", "mine"]).unwrap_err();
    assert!(error.contains("NotFound"), "{error}");
    // The certificates of one are worth nothing at the other.
    let mut mixed = one.kubectl();
    let error = run(mixed.args(["--server", &two.server_url(), "get", "configmaps"])).unwrap_err();
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn the_apiserver_can_go_away_and_come_back() {
    let audit = tempfile::tempdir().unwrap();
    let audit_log = audit.path().join("audit.jsonl");
    let mut plane = start(Options {
        audit_log: Some(audit_log.clone()),
        ..Options::default()
    });
    let url = plane.server_url();
    let address = url.trim_start_matches("https://").to_owned();
    kubectl(&plane, &["create", "configmap", "kept", "--from-literal=key=value"]).unwrap();
    let token = kubectl(&plane, &["create", "token", "default"]).unwrap();
    let mut watch = plane
        .kubectl()
        .args(["get", "configmaps", "--watch"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    for kill in [false, true] {
        if kill { plane.kill_apiserver() } else { plane.stop_apiserver() }.unwrap();
        let refused = TcpStream::connect(&address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(plane.processes().len(), 2);
        plane.start_apiserver().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plane.server_url(), url);
        assert_eq!(
            kubectl(&plane, &["get", "configmap", "kept", "--output=jsonpath={.data.key}"]).unwrap(),
            "value"
        );
    }
    plane.start_apiserver().unwrap();
    assert_eq!(plane.processes().len(), 3, "starting what runs does nothing");

    let review = format!(r#"{{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{{"token":"{token}"}}}}"#);
    let file = audit.path().join("review.json");
    fs::write(&file, review).unwrap();
    let file = file.to_string_lossy().into_owned();
    let authenticated = kubectl(
        &plane,
        &["create", "--filename", &file, "--output=jsonpath={.status.authenticated}"],
    );
    assert_eq!(authenticated.as_deref(), Ok("true"), "a token from before is still good");

    let log = fs::read_to_string(&audit_log).unwrap();
    let created = |line: &str| line.contains(r#""verb":"create""#) && line.contains(r#""name":"kept""#);
    assert!(log.lines().any(created), "the request is in the audit log");
    assert!(!log.contains(&token), "bodies are not");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

/// The data outlives the control plane only where it was asked for.
#[test]
fn a_kept_folder_is_used_again() {
    let parent = tempfile::tempdir().unwrap();
    // Longer than the path of a Unix socket may be.
    let folder = parent.path().join("long-".repeat(30));
    let options = Options {
        folder: Some(folder.clone()),
        ..Options::default()
    };
    let plane = start(options.clone());
    let processes = ids(&plane);
    kubectl(&plane, &["create", "configmap", "kept"]).unwrap();
    drop(plane);
    assert!(processes.iter().all(|process| !process.is_running()));
    assert!(folder.is_dir());
    let plane = start(options);
    kubectl(&plane, &["get", "configmap", "kept"]).unwrap();
}

#[test]
fn a_process_that_cannot_start_is_told_with_its_log() {
    let options = Options {
        apiserver_args: vec!["--no-such-flag".into()],
        ..Options::default()
    };
    let error = ControlPlane::start(options).map(drop).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("kube-apiserver ended") && text.contains("unknown flag: --no-such-flag"),
        "{text}"
    );
}
