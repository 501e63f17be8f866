//! Tasks: the workers behind every action, and the records of them.

pub(crate) mod ha;
pub(crate) mod qm;
pub(crate) mod qm_shutdown;
mod store;
mod upid;
mod worker;

pub use store::TaskRecord;
pub(crate) use store::{Task, TaskSource, TaskStore};
pub use upid::{ParseUpidError, Upid};
pub(crate) use worker::{Worker, not_on_node};
