//! `cargo xtask soak`: a whole Defib for as long as one likes, with everything around it breaking at random: guests hang and crash, the controller is killed,
//! the API server and Proxmox go away and answer wrongly. Afterwards the logs of those who cannot be wrong (the simulator and the API server) are audited by
//! the ten rules of `ARCHITECTURE.md`.
//!
//! [`plan`] says from a seed what happens when, [`run`] does it, [`evidence`] is what was logged, and [`audit`] judges it: a pure function, so that each rule is
//! seen to fail on a log that was doctored.

pub mod audit;
pub mod evidence;
pub mod fleet;
pub mod plan;
pub mod run;
pub mod sample;
