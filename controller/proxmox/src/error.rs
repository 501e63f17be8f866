//! What can go wrong with a call, and what may be concluded from it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Vmid;
use crate::upid::Upid;

/// What is known about a request that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// It provably reached nobody who could act on it: it may be sent again.
    NotDelivered,
    /// It may have been carried out, or may still be. It must be looked up
    /// ([`Client::search_tasks`](crate::Client::search_tasks)), never sent again. (A read can simply
    /// be made again.)
    Ambiguous,
    /// Proxmox answered, and said no. Nothing was started.
    Answered,
}

/// Why a call failed.
///
/// All text is from Proxmox or the network: at most 512 characters, without control characters, and
/// without the token's secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// 401: token unknown, expired, or its secret wrong. Proxmox takes 3 s for this answer.
    #[error("Proxmox refused the API token: {detail}; check its id, secret and expiry")]
    AuthFailed { detail: String },

    /// 403: the token, or with privilege separation its user, lacks a privilege. Several joined by
    /// `|` mean any of them; `None` when the answer named none.
    #[error("the API token lacks {} on {path}", privilege.as_deref().unwrap_or("a privilege"))]
    Forbidden { path: String, privilege: Option<String> },

    /// 400: Proxmox did not accept these parameters (name to fault).
    #[error("Proxmox refused the parameters: {}", join(errors))]
    BadParam { errors: BTreeMap<String, String> },

    /// The VM is not on the node that was asked: it moved, or is gone. Resolve its node again.
    #[error("{} is not on node {node}: {detail}", vm(*vmid))]
    NotOnNode { node: String, vmid: Option<Vmid>, detail: String },

    /// The VM's process does not exist, so it cannot be reset or resumed: it needs a start.
    #[error("{} is not running", vm(*vmid))]
    NotRunning { vmid: Option<Vmid> },

    /// The cluster, as this endpoint sees it, has no quorum; what needs one fails.
    #[error("the Proxmox cluster has no quorum")]
    NoQuorum,

    /// 595: the endpoint could not connect to the node (or to its own API daemon). Not delivered.
    #[error("{endpoint} cannot reach {}: {detail}", node.as_deref().map_or_else(|| "its API daemon".to_owned(), |node| format!("node {node}")))]
    NodeUnreachable {
        endpoint: String,
        node: Option<String>,
        detail: String,
    },

    /// A power action was sent, and whether it arrived is unknown: 596 to 599, an answer that is not
    /// one, a time-out, a lost connection. Never repeat it; search the node's tasks.
    #[error("{endpoint} may or may not have carried out the request: {detail}")]
    Ambiguous { endpoint: String, detail: String },

    /// No endpoint could be connected to, or the connection ended before any byte was sent on it.
    #[error("nothing was sent to {endpoint}: {detail}")]
    NotDelivered { endpoint: String, detail: String },

    /// The opened connection was too old to send on; nothing was sent. See
    /// [`MAX_CONNECTION_AGE`](crate::MAX_CONNECTION_AGE).
    #[error("nothing was sent to {endpoint}: the connection was opened {} ms ago, which is too long", age.as_millis())]
    Stale { endpoint: String, age: Duration },

    /// The node does not know this task (any more), or it is another user's.
    #[error("the task {upid} is unknown to its node: {detail}")]
    TaskUnknown { upid: Upid, detail: String },

    /// A read was not answered in time.
    #[error("no answer to GET {path} within {} s", after.as_secs())]
    Timeout { path: String, after: Duration },

    /// The endpoint could not prove who it is, or TLS failed otherwise. Nothing was sent.
    #[error("no trusted TLS connection to {endpoint}: {detail}")]
    Tls { endpoint: String, detail: String },

    /// A read ended without an answer: the connection was lost, or 596 to 599 came from the proxy.
    #[error("GET {path} got no answer: {detail}")]
    ReadFailed { path: String, detail: String },

    /// The answer is not what the API promises: no JSON, another shape, cut short, too large.
    #[error("the answer to GET {path} cannot be read: {detail}")]
    InvalidAnswer { path: String, detail: String },

    /// The caller asked for something that cannot be sent, such as a node name with a slash.
    #[error("{what} {value:?} cannot be used")]
    InvalidArgument { what: &'static str, value: String },

    /// Any other status, with its reason phrase (or the message of the body).
    #[error("Proxmox answered {status} {reason}")]
    Other { status: u16, reason: String },
}

impl Error {
    /// A constant word for events, conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AuthFailed { .. } => "AuthFailed",
            Self::Forbidden { .. } => "Forbidden",
            Self::BadParam { .. } => "BadParam",
            Self::NotOnNode { .. } => "NotOnNode",
            Self::NotRunning { .. } => "NotRunning",
            Self::NoQuorum => "NoQuorum",
            Self::NodeUnreachable { .. } => "NodeUnreachable",
            Self::Ambiguous { .. } => "Ambiguous",
            Self::NotDelivered { .. } => "NotDelivered",
            Self::Stale { .. } => "Stale",
            Self::TaskUnknown { .. } => "TaskUnknown",
            Self::Timeout { .. } => "Timeout",
            Self::Tls { .. } => "Tls",
            Self::ReadFailed { .. } => "ReadFailed",
            Self::InvalidAnswer { .. } => "InvalidAnswer",
            Self::InvalidArgument { .. } => "InvalidArgument",
            Self::Other { .. } => "Other",
        }
    }

    /// Whether the same call may succeed later although nobody changed anything. Back off between
    /// tries: some of these last. An [`Error::Ambiguous`] is not retryable, it is looked up; after
    /// [`Error::NotOnNode`] the node must be resolved again first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotOnNode { .. }
            | Self::NoQuorum
            | Self::NodeUnreachable { .. }
            | Self::NotDelivered { .. }
            | Self::Stale { .. }
            | Self::Timeout { .. }
            | Self::ReadFailed { .. }
            | Self::InvalidAnswer { .. } => true,
            Self::Other { status, .. } => *status >= 500,
            // A certificate does not mend itself; a handshake cut short by the network is NotDelivered.
            Self::Tls { .. }
            | Self::AuthFailed { .. }
            | Self::Forbidden { .. }
            | Self::BadParam { .. }
            | Self::NotRunning { .. }
            | Self::Ambiguous { .. }
            | Self::TaskUnknown { .. }
            | Self::InvalidArgument { .. } => false,
        }
    }

    /// What is known about the request.
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::NodeUnreachable { .. }
            | Self::NotDelivered { .. }
            | Self::Stale { .. }
            | Self::Tls { .. }
            | Self::InvalidArgument { .. } => Delivery::NotDelivered,
            Self::Ambiguous { .. } | Self::Timeout { .. } | Self::ReadFailed { .. } => Delivery::Ambiguous,
            // A worker may have been started before the server failed; only refusals with a known text are made before that.
            Self::Other { status, .. } if *status >= 500 && *status != 501 => Delivery::Ambiguous,
            Self::AuthFailed { .. }
            | Self::Forbidden { .. }
            | Self::BadParam { .. }
            | Self::NotOnNode { .. }
            | Self::NotRunning { .. }
            | Self::NoQuorum
            | Self::TaskUnknown { .. }
            | Self::InvalidAnswer { .. }
            | Self::Other { .. } => Delivery::Answered,
        }
    }
}

fn vm(vmid: Option<Vmid>) -> String {
    vmid.map_or_else(|| "the VM".to_owned(), |vmid| format!("VM {vmid}"))
}

fn join(errors: &BTreeMap<String, String>) -> String {
    let all: Vec<String> = errors.iter().map(|(name, fault)| format!("{name}: {fault}")).collect();
    crate::text::clean(&all.join("; "))
}
