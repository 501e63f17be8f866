//! What holds for every input, however odd: the decision is total and deterministic, never begins an automatic reset that a rule forbids, and the journal's books balance.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this is tests; clippy looks for the attribute on each function"
)]

#[path = "../common/mod.rs"]
mod common;

mod books;
mod decision;
mod generate;
mod heartbeat;
mod oracle;
mod stored;
