//! What can go wrong in a reconcile.

use std::time::Duration;

/// A step of a reconcile that failed. It is retried; nothing destructive follows from it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Kubernetes API refused or could not be reached.
    #[error("cannot {step}: {source}")]
    Kubernetes {
        /// What was tried.
        step: &'static str,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The Kubernetes API did not answer in time.
    #[error("cannot {step}: no answer of the Kubernetes API in {} s", after.as_secs())]
    Timeout {
        /// What was tried.
        step: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The object was changed by somebody else between read and write. Read again, decide again.
    #[error("cannot {step}: the object changed in between")]
    Conflict {
        /// What was tried.
        step: &'static str,
    },
    /// The object is gone.
    #[error("cannot {step}: the object is gone")]
    Gone {
        /// What was tried.
        step: &'static str,
    },
    /// The stored object does not have the shape of its kind.
    #[error("the stored object is malformed: {0}; mend it with kubectl edit")]
    Malformed(String),
    /// Something that Proxmox was asked for.
    #[error("cannot {step}: {source}")]
    Proxmox {
        /// What was tried.
        step: &'static str,
        /// What it said.
        #[source]
        source: Box<defib_proxmox::Error>,
    },
    /// What a ProxmoxCluster says cannot be used.
    #[error("{0}")]
    ClusterSpec(String),
}

impl Error {
    /// Reason of events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kubernetes { .. } => "KubernetesError",
            Self::Timeout { .. } => "KubernetesTimeout",
            Self::Conflict { .. } => "Conflict",
            Self::Gone { .. } => "Gone",
            Self::Malformed(_) => "Malformed",
            Self::Proxmox { source, .. } => source.reason(),
            Self::ClusterSpec(_) => "InvalidSpec",
        }
    }

    /// All values of [`Error::reason`] that are not Proxmox's.
    pub const REASONS: [&'static str; 6] = [
        "KubernetesError",
        "KubernetesTimeout",
        "Conflict",
        "Gone",
        "Malformed",
        "InvalidSpec",
    ];
}
