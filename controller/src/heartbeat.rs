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
