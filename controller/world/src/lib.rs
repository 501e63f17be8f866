//! A world for Defib in one process and in virtual time, for tests.
//!
//! [`api_server`] is a Kubernetes API server in memory, for clients in the same process.

pub mod api_server;
