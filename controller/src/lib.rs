//! The Defib controller: resets Proxmox VE virtual machines whose heartbeat stopped, and proves that they came back.
//!
//! The decisions are in `defib-core`, pure; this crate gathers what they rest on and carries them out. `ARCHITECTURE.md` has the map.

pub mod assembly;
pub mod cli;
pub mod clock;
pub mod config;
pub mod heartbeat;
pub mod jitter;
pub mod key;
pub mod lease;
pub mod metrics;
pub mod observer;
pub mod reconcile;
pub mod run;
