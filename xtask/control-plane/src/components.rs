//! The command lines of the processes. Paths are relative: each runs in the data folder, so that a Unix socket's path stays short
//! (the kernel allows some 100 bytes) wherever the folder lies.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::error::Tried;
use crate::process::leashed;

/// The socket of etcd, in the data folder. A socket and not a port: etcd asks nobody for a password, and a folder that only its
/// owner may enter keeps other users of the machine away from it.
pub(crate) const ETCD_SOCKET: &str = "etcd.sock";
const ETCD_PEER_SOCKET: &str = "etcd-peer.sock";

/// The kubeconfig of kube-controller-manager, in the data folder.
pub(crate) const CONTROLLER_MANAGER_KUBECONFIG: &str = "pki/kube-controller-manager.kubeconfig";

/// The controllers that act on what Defib and its chart create; those for pods and nodes would have nothing to do.
const CONTROLLERS: [&str; 6] = [
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "clusterrole-aggregation-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Who asked for what, and with which answer; no bodies, which may hold secrets.
const AUDIT_POLICY: &str =
    r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}"#;
const AUDIT_POLICY_FILE: &str = "audit-policy.json";

/// On a leash, in the data folder, and without the caller's environment: etcd takes settings from `ETCD_...`, and a proxy
/// meant for the internet would be asked for 127.0.0.1.
fn in_folder(program: &Path, folder: &Path) -> Command {
    let mut command = leashed(program);
    command.current_dir(folder).env_clear();
    if let Some(path) = env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

pub(crate) fn etcd(program: &Path, folder: &Path) -> Command {
    let mut etcd = in_folder(program, folder);
    etcd.args([
        "--name=control-plane",
        "--data-dir=etcd",
        "--log-level=warn",
        "--enable-grpc-gateway=false",
    ]);
    // A fsync for each write is most of the time of a write here, and protects from a crash of the machine only.
    etcd.arg("--unsafe-no-fsync");
    etcd.args(["--listen-client-urls", "--advertise-client-urls"].map(|flag| format!("{flag}=unix://{ETCD_SOCKET}")));
    etcd.args(["--listen-peer-urls", "--initial-advertise-peer-urls"].map(|flag| format!("{flag}=unix://{ETCD_PEER_SOCKET}")));
    etcd.arg(format!("--initial-cluster=control-plane=unix://{ETCD_PEER_SOCKET}"));
    etcd
}

pub(crate) fn kube_apiserver(
    program: &Path,
    folder: &Path,
    port: u16,
    audit: Option<(&Path, Option<&str>)>,
    more: &[OsString],
) -> Result<Command, Error> {
    let mut api = in_folder(program, folder);
    api.arg(format!("--etcd-servers=unix://{ETCD_SOCKET}"));
    // `--permit-port-sharing`: the port is held by our own socket, see port.rs.
    api.arg(format!("--secure-port={port}"))
        .args(["--bind-address=127.0.0.1", "--permit-port-sharing"]);
    // Kubernetes refuses a loopback address as an endpoint of the Service `kubernetes`, and nothing here resolves that Service.
    api.args([
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.96.0.0/16",
    ]);
    api.args([
        "--tls-cert-file=pki/kube-apiserver.crt",
        "--tls-private-key-file=pki/kube-apiserver.key",
        "--client-ca-file=pki/ca.crt",
    ]);
    api.args([
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
    ]);
    api.args([
        "--service-account-key-file=pki/service-account.pub",
        "--service-account-signing-key-file=pki/service-account.key",
    ]);
    api.args(["--allow-privileged", "--profiling=false"]);
    // Without it a stop waits up to a minute for clients to end their watches.
    api.arg("--shutdown-watch-termination-grace-period=100ms");
    if let Some((log, wanted)) = audit {
        let policy = folder.join(AUDIT_POLICY_FILE);
        fs::write(&policy, wanted.unwrap_or(AUDIT_POLICY)).tried("write", &policy)?;
        let mut path = OsString::from("--audit-log-path=");
        path.push(log);
        api.arg(format!("--audit-policy-file={AUDIT_POLICY_FILE}")).arg(path);
        // In MiB. By default a file of 100 is put aside, and whoever reads the log at the end of half an hour finds its last minutes only.
        api.arg("--audit-log-maxsize=100000");
    }
    api.args(more);
    Ok(api)
}

pub(crate) fn kube_controller_manager(program: &Path, folder: &Path) -> Command {
    let mut manager = in_folder(program, folder);
    manager.args(["--kubeconfig", CONTROLLER_MANAGER_KUBECONFIG]);
    manager.args([
        "--leader-elect=false",
        "--secure-port=0",
        "--root-ca-file=pki/ca.crt",
        "--profiling=false",
    ]);
    // Each controller acts as its own ServiceAccount: the roles that Kubernetes has for them are bound to those, and the user
    // `system:kube-controller-manager` itself may hardly do anything.
    manager.arg("--use-service-account-credentials");
    manager.arg(format!("--controllers={}", CONTROLLERS.join(",")));
    manager
}

/// Where a process writes what it has to say.
pub(crate) fn log_of(folder: &Path, process: &str) -> PathBuf {
    folder.join(format!("{process}.log"))
}
