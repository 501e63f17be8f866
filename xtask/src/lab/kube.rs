//! kubectl, and the credentials of a ServiceAccount.

use super::output;
use anyhow::{Context, Result, bail};
use control_plane::ControlPlane;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Runs kubectl as the administrator.
pub fn kubectl(plane: &ControlPlane, args: &[&str], input: Option<&str>) -> Result<String> {
    let mut command = plane.kubectl();
    command.args(args);
    let Some(input) = input else { return output(command) };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run kubectl")?;
    child.stdin.take().context("kubectl has no stdin")?.write_all(input.as_bytes())?;
    let out = child.wait_with_output()?;
    if !out.status.success() {
        bail!("kubectl {} failed: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Applies a file or folder.
pub fn apply(plane: &ControlPlane, path: &Path) -> Result<()> {
    kubectl(plane, &["apply", "-f", &path.to_string_lossy()], None).map(|_| ())
}

/// Applies manifests given as text.
pub fn apply_text(plane: &ControlPlane, text: &str) -> Result<()> {
    kubectl(plane, &["apply", "-f", "-"], Some(text)).map(|_| ())
}

/// A server that is reached by HTTPS.
pub struct Server<'a> {
    /// Address.
    pub url: &'a str,
    /// The authority of its certificate, PEM.
    pub ca_pem: &'a str,
}

/// A kubeconfig with a token of a ServiceAccount: no kubelet runs here to hand one to a pod, but its rights are the pod's.
pub fn service_account(plane: &ControlPlane, server: &Server<'_>, folder: &Path, namespace: &str, name: &str) -> Result<PathBuf> {
    let token = kubectl(plane, &["create", "token", name, "-n", namespace, "--duration", "24h"], None)?;
    let ca = folder.join("kube-ca.pem");
    std::fs::write(&ca, server.ca_pem)?;
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters:\n- name: lab\n  cluster:\n    server: {}\n    certificate-authority: {}\nusers:\n- name: {name}\n  user:\n    token: {}\ncontexts:\n- name: lab\n  context: {{cluster: lab, user: {name}}}\n",
        server.url,
        ca.display(),
        token.trim()
    );
    let path = folder.join("defib.kubeconfig");
    private(&path, &text)?;
    Ok(path)
}

/// Writes a file that only its owner may read.
pub fn private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
