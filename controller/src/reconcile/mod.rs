//! From what is observed to what is done: one file a kind, each observe -> decide -> act -> report. The decisions themselves are in `defib_core`.

pub mod cache;
pub mod context;
pub mod controllers;
pub mod error;
pub mod events;
pub mod health_policy;
pub mod kube_api;
pub mod managed_vm;
pub mod proxmox_cluster;
pub mod vm_reset;

pub use context::Context;
pub use error::Error;

use kube::runtime::controller::Action;
use rand::Rng;
use std::time::Duration;

/// Looks again after `wait`, give or take a tenth: a fleet that starts together shall not stay in step.
pub(crate) fn again(wait: Duration) -> Action {
    Action::requeue(wait.mul_f64(rand::rng().random_range(0.9..1.1)))
}

/// Looks again at a deadline, never before it.
pub(crate) fn at_deadline(wait: Duration) -> Action {
    Action::requeue(wait + Duration::from_millis(rand::rng().random_range(1..25)))
}
