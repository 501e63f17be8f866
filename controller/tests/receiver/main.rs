//! The receiver of reports from outside: every answer, what each request does to the ledger, and what no request can do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of tests fail their test"
)]

mod answers;
mod fuzz;
mod keys;
mod odd;
mod siege;
mod slow;
mod support;
mod wire;
