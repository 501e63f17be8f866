//! The controller of a lab: how it is started, and its process while it runs.

use super::service::Backend;
use super::{SYSTEM, http_get};
use crate::paths::program;
use anyhow::{Context, Result};
use control_plane::{Process, leashed};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// `defib run`, with the rights of the chart's ServiceAccount.
pub struct Controller {
    pub(super) identity: String,
    pub(super) kubeconfig: PathBuf,
    pub(super) ports: Backend,
    pub(super) args: Vec<String>,
    pub(super) log: PathBuf,
    /// The probe that tells that it is there. Of two, the other may be the one that serves.
    pub(super) awaits: &'static str,
    pub(super) running: Option<Process>,
}

impl Controller {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// When it ends, or does not serve in time.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let (port, probe) = (self.ports.metrics, self.awaits);
        self.process()?
            .wait_ready(Duration::from_secs(60), || match http_get(port, probe) {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
                Ok(answer) => Err(answer.lines().last().unwrap_or_default().to_owned()),
                Err(error) => Err(error.to_string()),
            })
            .inspect_err(|_| self.running = None)?;
        Ok(())
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn spawn(&mut self) -> Result<()> {
        let mut command = leashed(&program("defib")?);
        command
            .args(["run", "--plain-http", "--namespace", SYSTEM])
            .arg(format!("--identity={}", self.identity))
            .arg(format!("--listen=127.0.0.1:{}", self.ports.listen))
            .arg(format!("--metrics-listen=127.0.0.1:{}", self.ports.metrics))
            .args(arguments(&self.args))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("RUST_BACKTRACE", "1");
        self.running = Some(Process::start("defib", command, &self.log)?);
        Ok(())
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.running.as_mut().context("the controller does not run")
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it survives.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.running.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// SIGTERM, as Kubernetes stops a pod.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.running.take() {
            process.stop(Instant::now() + Duration::from_secs(60))?;
        }
        Ok(())
    }
}

/// The arguments, with the period of the readings of Proxmox that suits a story, where they name no other.
fn arguments(more: &[String]) -> Vec<String> {
    let story = (!more.iter().any(|arg| arg.starts_with("--poll-seconds"))).then(|| "--poll-seconds=2".to_owned());
    story.into_iter().chain(more.iter().cloned()).collect()
}
