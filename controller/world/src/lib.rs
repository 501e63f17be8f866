//! A world for Defib in one process and in virtual time, for tests: the real controllers, between a Kubernetes API server, a Proxmox VE and agents that are all
//! simulated and that fail as their seed says.
//!
//! [`api_server`] is a Kubernetes API server in memory, for clients in the same process; it knows nothing of the rest. [`run::live`] lives through a [`plan::Plan`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a world that cannot be set up ends its test"
)]

pub mod agents;
pub mod api_server;
pub mod chance;
pub mod clock;
pub mod declared;
pub mod evidence;
pub mod golden;
pub mod oracle;
pub mod plan;
pub mod process;
pub mod proxmox;
pub mod record;
pub mod run;
pub mod sabotage;
pub mod simulate;
pub mod transcript;
pub mod weather;
pub mod world;
