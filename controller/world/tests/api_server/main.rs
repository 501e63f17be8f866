//! The API server in memory, as kube's client, watcher and controller see it, in paused time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic as tests do")]

mod faults;
mod objects;
mod support;
mod watches;
