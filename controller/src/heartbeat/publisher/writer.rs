//! The one call of the publisher.

use super::status;
use crate::heartbeat::VmKey;
use defib_api::{HeartbeatStatus, ManagedVM, UsageStatus};
use http::{HeaderValue, header};
use kube::api::{Patch, PatchParams};
use kube::core::{PartialObjectMeta, Request};
use kube::{Client, Resource};
use std::future::Future;
use std::time::Duration;

/// Field manager of the publisher.
pub const FIELD_MANAGER: &str = "defib-publisher";

/// What is written into the status of a ManagedVM.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusPatch {
    /// `status.heartbeat`.
    pub heartbeat: HeartbeatStatus,
    /// `status.usage`.
    pub usage: UsageStatus,
}

/// Why a patch did not land.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no such ManagedVM.
    #[error("the ManagedVM is gone")]
    Gone,
    /// The API server is overloaded, broken or unreachable: all VMs are concerned.
    #[error("the Kubernetes API does not take writes: {detail}")]
    Overloaded {
        /// What it said.
        detail: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The API server refused the patch of this VM.
    #[error("the Kubernetes API refused the patch: {0}")]
    Refused(String),
}

/// Writes the status of a ManagedVM.
pub trait StatusWriter: Send + Sync {
    /// Writes `heartbeat` and `usage`, and nothing else. The publisher ends a call that takes too long.
    fn write(&self, vm: &VmKey, patch: &StatusPatch) -> impl Future<Output = Result<(), WriteError>> + Send;
}

/// Writes by merge patch without resourceVersion: heartbeats never collide with the decider's compare-and-swap, whose fields are others.
#[derive(Clone)]
pub struct KubeStatusWriter {
    client: Client,
}

impl KubeStatusWriter {
    /// A writer that uses this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl StatusWriter for KubeStatusWriter {
    async fn write(&self, vm: &VmKey, patch: &StatusPatch) -> Result<(), WriteError> {
        /// The answer is thrown away, so only its metadata is asked for: no spec and no journal travels, and a malformed object is no error.
        const METADATA_ONLY: HeaderValue = HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
        let body = status::merge_patch(&patch.heartbeat, &patch.usage);
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        let url = ManagedVM::url_path(&(), Some(vm.namespace()));
        let mut request = Request::new(url)
            .patch_subresource("status", vm.name(), &params, &Patch::Merge(body))
            .map_err(|e| WriteError::Refused(e.to_string()))?;
        request.headers_mut().insert(header::ACCEPT, METADATA_ONLY);
        self.client
            .request::<PartialObjectMeta<ManagedVM>>(request)
            .await
            .map(drop)
            .map_err(classify)
    }
}

fn classify(error: kube::Error) -> WriteError {
    match error {
        kube::Error::Api(status) if status.is_not_found() => WriteError::Gone,
        kube::Error::Api(status) if status.code == 429 || status.code >= 500 => {
            let seconds = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
            WriteError::Overloaded {
                retry_after: (seconds > 0).then(|| Duration::from_secs(u64::from(seconds))),
                detail: status.message.clone(),
            }
        }
        kube::Error::Api(status) => WriteError::Refused(status.message.clone()),
        // No answer at all, or none that is Kubernetes': nothing about this VM.
        other => WriteError::Overloaded {
            detail: other.to_string(),
            retry_after: None,
        },
    }
}

#[cfg(test)]
mod tests;
