//! The simulator over its own HTTPS, judged by what is read off the socket.

// Clippy's allowance for tests covers test functions only, not the helpers they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audit;
mod authorization;
mod cluster;
mod faults;
mod guests;
mod lab;
mod process;
mod reset;
mod resources;
mod tasks;
mod transport;
