//! Installs the Helm chart. Nothing starts its pod here, as there is no kubelet: the lab's controller stands in for it, with its ServiceAccount's token.

use super::{NAMESPACE, SYSTEM, output};
use crate::paths::root;
use anyhow::Result;
use control_plane::{ControlPlane, tools};
use std::path::Path;
use std::process::Command;

/// Name of the Secrets that the ProxmoxCluster of the lab names.
pub const SECRETS: [&str; 2] = ["pve-token", "pve-ca"];

/// `helm install`, with the rights to read the Secrets of the lab's ProxmoxCluster.
pub fn install(plane: &ControlPlane, folder: &Path) -> Result<()> {
    let values = folder.join("values.yaml");
    let [token, ca] = SECRETS;
    // The ProxmoxCluster itself follows when the simulator has its ports: here are only the rights to read its Secrets.
    let text = format!(
        "proxmoxClusters:\n- {{name: pve, namespace: {NAMESPACE}, create: false, tokenSecretRef: {{name: {token}}}, tls: {{caSecretRef: {{name: {ca}}}}}}}\n"
    );
    std::fs::write(&values, text)?;
    super::kube::apply_text(
        plane,
        &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"),
    )?;
    let mut helm = Command::new(tools::helm()?.path);
    helm.args(["install", "defib"])
        .arg(root().join("charts/defib"))
        .args(["--namespace", SYSTEM, "--create-namespace", "--values"])
        .arg(&values)
        .env("KUBECONFIG", plane.kubeconfig())
        .env("HELM_CACHE_HOME", folder.join("helm/cache"))
        .env("HELM_CONFIG_HOME", folder.join("helm/config"))
        .env("HELM_DATA_HOME", folder.join("helm/data"));
    output(helm).map(|_| ())
}
