//! The way of a heartbeat: [`receiver`] (HTTP) -> [`ledger`] (newest value per VM, in memory) -> [`publisher`] (`status.heartbeat` and `status.usage`).
//!
//! The ledger is the truth about who is alive; what is published is for people and for the next process.

pub mod keys;
pub mod ledger;
pub mod problem;
pub mod publisher;
pub mod receiver;
pub mod report;
pub mod server;
pub mod serving;

mod bucket;
mod crowd;
mod vm_key;

pub use ledger::{Facts, Ledger};
pub use serving::{Serving, ServingSink};
pub use vm_key::VmKey;

/// A door for the fuzz targets; no part of what this crate offers.
#[doc(hidden)]
pub mod fuzz {
    use super::publisher::status;
    use defib_core::heartbeat::Report;
    use jiff::Timestamp;

    /// The merge patch in which a report is published.
    pub fn published(report: &Report, received: Timestamp) -> serde_json::Value {
        let boot_time = status::boot_time(report, received);
        let heartbeat = status::heartbeat(report, received, boot_time, 30);
        status::merge_patch(&heartbeat, &status::usage(report))
    }
}
