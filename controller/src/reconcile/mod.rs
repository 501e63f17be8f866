//! From what is observed to what is done: one file a kind, each observe -> decide -> act -> report. The decisions themselves are in `defib_core`.

pub mod cache;
pub mod context;
pub mod controllers;
pub mod error;
pub mod events;
pub mod health_policy;
pub mod kube_api;
pub mod managed_vm;
pub mod proxmox;
pub mod proxmox_cluster;
pub mod vm_reset;

pub use context::Context;
pub use error::Error;

use crate::jitter;
use kube::runtime::controller::Action;
use std::time::Duration;

/// Looks again after `wait`, give or take a tenth: a fleet that starts together shall not stay in step.
pub(crate) fn again(wait: Duration) -> Action {
    Action::requeue(jitter::around(wait))
}

/// Looks again at a deadline, never before it.
pub(crate) fn at_deadline(wait: Duration) -> Action {
    Action::requeue(wait + jitter::between(Duration::from_millis(1), Duration::from_millis(25)))
}
