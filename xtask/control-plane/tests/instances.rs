//! Control planes that outlive the command that started them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic as tests do")]

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use control_plane::{Error, Health, Instance, Instances, Options};
use rustix::process::{Pid, Signal};

fn kubectl(instance: &Instance, args: &[&str]) -> String {
    let tools = control_plane::tools::find().unwrap();
    let output = Command::new(tools.kubectl.path)
        .arg("--kubeconfig")
        .arg(&instance.kubeconfig)
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn up(instances: &Instances, name: &str) -> (Instance, bool) {
    instances.up(name, Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Takes down what a failed test leaves: these outlive their owner on purpose.
struct Cleanup<'a>(&'a Instances);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        for name in self.0.names().unwrap_or_default() {
            let _ = self.0.down(&name);
        }
    }
}

fn kill(instance: &Instance, process: &str) {
    let (_, id) = instance.processes.iter().find(|(name, _)| name == process).unwrap();
    rustix::process::kill_process(Pid::from_raw(i32::try_from(id.pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while id.is_running() {
        assert!(Instant::now() < deadline, "{process} survives SIGKILL");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn up_status_down() {
    let parent = tempfile::tempdir().unwrap();
    let instances = Instances::in_folder(parent.path().join("control-planes"));
    let _cleanup = Cleanup(&instances);
    assert_eq!(instances.names().unwrap(), Vec::<String>::new());
    assert_eq!(instances.get("first").unwrap(), None);

    let (first, started) = up(&instances, "first");
    assert!(started);
    assert_eq!(first.health(), Health::Ready);
    kubectl(&first, &["create", "configmap", "kept"]);
    let (again, started) = up(&instances, "first");
    assert!(!started, "it runs already");
    assert_eq!(again, first);
    assert_eq!(
        instances.get("first").unwrap(),
        Some(first.clone()),
        "another process would see the same"
    );

    let (second, _) = up(&instances, "second");
    assert_ne!(second.server_url, first.server_url);
    assert_eq!(instances.names().unwrap(), ["first", "second"]);
    assert!(
        kubectl(&second, &["get", "configmaps", "--output=name"])
            .lines()
            .all(|name| name != "configmap/kept")
    );

    // Half of it dies, then all of it, as in a restart of the machine: `up` brings it back with its data.
    kill(&first, "kube-controller-manager");
    assert_eq!(first.health(), Health::Degraded(vec!["kube-controller-manager".to_owned()]));
    let (repaired, started) = up(&instances, "first");
    assert!(started);
    kubectl(&repaired, &["get", "configmap", "kept"]);
    for process in ["kube-apiserver", "etcd", "kube-controller-manager"] {
        kill(&repaired, process);
    }
    assert_eq!(repaired.health(), Health::Stopped);
    let (resumed, _) = up(&instances, "first");
    kubectl(&resumed, &["get", "configmap", "kept"]);

    instances.down("first").unwrap();
    assert!(resumed.processes.iter().all(|(_, id)| !id.is_running()), "down waits for the end");
    assert!(!Path::new(&resumed.kubeconfig).exists());
    assert_eq!(second.health(), Health::Ready, "the other is untouched");
    assert!(matches!(instances.down("first"), Err(Error::NoSuchInstance(_))));
    instances.down("second").unwrap();
    assert_eq!(instances.names().unwrap(), Vec::<String>::new());
}
