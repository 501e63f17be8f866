//! The Kubernetes kinds of Defib, group `defib.dev`, version `v1alpha1`: the types and nothing else.
//!
//! The doc comment of a field becomes its text in `kubectl explain`. No field that merges (see
//! `defib_core::policy`) has a schema default: a default written into the stored object would hide the policy for ever.

#![allow(clippy::duplicated_attributes, reason = "the print columns of kube's derive repeat their keys")]

mod common;
mod health_policy;
mod managed_vm;
mod proxmox_cluster;
mod schema;
mod time;
mod vm_reset;

pub use common::*;
pub use health_policy::*;
pub use managed_vm::*;
pub use proxmox_cluster::*;
pub use vm_reset::*;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of all kinds.
pub const GROUP: &str = "defib.dev";

/// All custom resource definitions, as they are applied and as `crds/` holds them. `ManagedVM::crd()` and its like are only the raw form of these.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [ManagedVM::crd(), HealthPolicy::crd(), ProxmoxCluster::crd(), VMReset::crd()]
        .map(schema::finish)
        .into()
}
