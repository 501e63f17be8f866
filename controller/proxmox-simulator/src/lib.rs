//! A Proxmox VE API over HTTPS that behaves like the real one; its guests are real processes.
//!
//! [`Simulator::start`] runs a whole cluster inside a test; the binary `pve-sim` runs the same for
//! people. Tests act behind Proxmox VE's back with controls ([`Control`]) and judge by what they can
//! read back: [`Simulator::audit`] (every write request), [`Simulator::guest_events`] (what really
//! happened to guests) and [`Simulator::vm`].
//!
//! What a call answers follows Proxmox VE 9.2, down to status line and error text. What differs: there
//! are API tokens only, no containers, and an error with an empty body carries `Content-Length: 0`.

mod access;
mod api;
mod audit;
mod cluster;
pub mod config;
mod control;
mod ctl;
mod fault;
mod guest;
mod http;
mod simulator;
mod task;
mod text_enum;
mod tls;
mod vm;

pub use audit::{ConnectionFacts, GuestEvent, GuestEventKind, WriteRequest};
pub use cluster::{Endpoint, NodePower, NodeSnapshot};
pub use config::{Config, ConfigError};
pub use control::{ClusterSnapshot, Control, ControlError, FaultControl, HaSetting, Quorum, Reply};
pub use ctl::{CtlError, Format, render, send};
pub use fault::{Fault, FaultKind};
pub use simulator::{Simulator, StartError};
pub use task::{ParseUpidError, TaskRecord, Upid};
pub use tls::TlsError;
pub use vm::{GuestAgent, GuestState, HaState, Lock, QmpStatus, Unresponsive, VmSnapshot};
