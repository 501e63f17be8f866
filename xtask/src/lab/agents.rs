//! The configuration of each guest's agent: where Defib is, and the VM's own key.

use super::kube::private;
use super::{FleetVm, NAMESPACE, SYSTEM, output};
use crate::paths::program;
use anyhow::Result;
use control_plane::ControlPlane;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The configuration file of a guest's agent.
pub fn config(folder: &Path, vmid: u32) -> PathBuf {
    folder.join("agents").join(format!("{vmid}.conf"))
}

/// Writes the configuration of all agents, with keys as `defib key` prints them.
pub fn write(plane: &ControlPlane, folder: &Path, vms: &[FleetVm], port: u16) -> Result<()> {
    std::fs::create_dir_all(folder.join("agents"))?;
    for vm in vms.iter().filter(|vm| vm.agent) {
        let mut defib = Command::new(program("defib")?);
        defib
            .args(["key", "--namespace", SYSTEM])
            .arg(format!("{NAMESPACE}/{}", vm.key_of.as_deref().unwrap_or(&vm.name)))
            .env("KUBECONFIG", plane.kubeconfig());
        let key = output(defib)?;
        let text = format!(
            "DEFIB_URL=http://127.0.0.1:{port}\nDEFIB_KEY={}\nDEFIB_REPORT_SECONDS=1\n",
            key.trim()
        );
        private(&config(folder, vm.vmid), &text)?;
    }
    Ok(())
}
