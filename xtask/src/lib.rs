//! What the commands of `cargo xtask` and the tests of the whole system share.

pub mod lab;
pub mod paths;
