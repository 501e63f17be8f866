//! The pure decisions of Defib: what is observed and the time go in, what to do comes out.
//!
//! Nothing here reads a clock, calls anybody, draws a random number or panics. Time is an argument, every effect is data.

pub mod heartbeat;
pub mod time;
