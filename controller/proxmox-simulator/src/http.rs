//! HTTP as Proxmox VE speaks it.

mod answer;
mod connection;
mod exchange;
mod listener;
mod parameters;

pub(crate) use answer::{ApiError, Data};
pub(crate) use listener::NodeListener;
pub(crate) use parameters::{Parameters, percent_decode};
