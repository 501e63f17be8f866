//! What the Proxmox simulator is told, and what it tells: tests judge by that.

use super::{Lab, output};
use crate::paths::program;
use anyhow::Result;
use serde_json::Value;
use std::process::Command;

impl Lab {
    /// A control of the simulator, as `pve-sim ctl`.
    ///
    /// # Errors
    /// When the simulator refuses it.
    pub fn pve(&self, control: &[&str]) -> Result<String> {
        let mut command = Command::new(program("pve-sim")?);
        command.arg("ctl").arg("--state-dir").arg(self.simulator_state()).args(control);
        output(command)
    }

    /// Write requests that the simulator received, in order, answered or not.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn requests(&self) -> Result<Vec<Value>> {
        rows(&self.pve(&["--output", "json", "audit"])?)
    }

    /// What it was asked for of a VM, in order.
    ///
    /// # Errors
    /// As [`Lab::requests`].
    pub fn asked(&self, vmid: u32) -> Result<Vec<String>> {
        let requests = self.requests()?;
        let of_vm = requests.iter().filter(|row| row["vmid"] == vmid);
        Ok(of_vm.filter_map(|row| row["action"].as_str().map(str::to_owned)).collect())
    }

    /// What happened to the simulator's guests, in order.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn guest_events(&self) -> Result<Vec<Value>> {
        rows(&self.pve(&["--output", "json", "events"])?)
    }

    /// How many POSTs of a reset the simulator received for a VM.
    ///
    /// # Errors
    /// When the audit cannot be read.
    pub fn resets_of(&self, vmid: u32) -> Result<usize> {
        Ok(self.asked(vmid)?.iter().filter(|action| *action == "reset").count())
    }
}

/// A JSON value a line.
pub(super) fn rows(lines: &str) -> Result<Vec<Value>> {
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
