//! A thin typed client for the Proxmox VE API.
//!
//! Reads go through [`Client`]: pooled, retried on another endpoint where that is safe, tolerant of
//! Proxmox's loose JSON. The destructive requests go through [`Connection`]: opened beforehand, used
//! for exactly one request, never retried. [`Error::delivery`] says what a caller may conclude.
//!
//! Facts this crate is built on, all from the source of Proxmox VE 9.2 (and 8 where it differs):
//!
//! * The text of an error is in the HTTP *reason phrase*; 401 and 59x have an empty body.
//! * 200 with a UPID means only that a worker was forked. "VM is locked" is the exit status of that
//!   task ([`TaskExit`]), not an HTTP error.
//! * 595 means the request never reached its node. 596, 597 and 599 say nothing about that.
//! * The server closes a connection that was idle for 5 s.

mod answer;
mod client;
mod cluster;
mod config;
mod connection;
mod endpoints;
mod error;
mod fence;
#[doc(hidden)]
pub mod fuzz;
mod limits;
mod loose;
mod refusal;
mod task;
mod text;
mod transport;
mod trust;
mod upid;
mod vm;
mod vm_config;

pub use client::Client;
pub use cluster::{ClusterHaStatus, ClusterNode, ClusterStatus, Node, NodeState, Permissions, Version};
pub use config::{ApiToken, Config, ConfigError, DEFAULT_REQUESTS_PER_NODE, Endpoint, MAX_ENDPOINTS, MAX_REQUESTS};
pub use connection::{Connection, MAX_CONNECTION_AGE};
pub use error::{Delivery, Error};
pub use task::{PowerAction, TaskEntry, TaskExit, TaskKind, TaskStatus};
pub use trust::{Fingerprint, Trust};
pub use upid::{Upid, UpidError};
pub use vm::{GuestAgent, HaStatus, PowerState, RunState, VmCounters, VmResource, VmStatus};
pub use vm_config::VmConfig;

/// The number of a virtual machine, unique in its cluster at any one time, and reused after deletion.
pub type Vmid = u32;
