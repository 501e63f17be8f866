//! The pure decisions of Defib: what is observed and the time go in, what to do comes out.
//!
//! Nothing here reads a clock, calls anybody, draws a random number or panics. Time is an argument, every effect is data.

pub mod boots;
pub mod conditions;
pub mod corroboration;
pub mod decide;
pub mod fleet;
pub mod gate;
pub mod heartbeat;
pub mod journal;
pub mod lease;
pub mod life;
pub mod observer;
pub mod policy;
pub mod power;
pub mod start;
pub mod steps;
pub mod storm;
pub mod time;
pub mod window;
