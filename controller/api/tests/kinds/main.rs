//! The four kinds on a real API server: what it accepts, what it refuses and why, and what kubectl shows.
//!
//! Where the programs of a control plane are missing, these tests fail and say how to get them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic as tests do")]

mod bounds;
mod examples;
mod rules;
mod shown;
#[path = "../support/mod.rs"]
mod support;

use std::sync::OnceLock;

/// Applies `crds/` to the control plane, once.
fn with_crds() {
    static APPLIED: OnceLock<()> = OnceLock::new();
    APPLIED.get_or_init(|| {
        let folder = support::checkout().join("crds");
        // Strict: a field that API servers do not know is an error; and what they warn of shows in standard error.
        let said = support::kubectl(&[
            "apply",
            "--server-side",
            "--validate=strict",
            "--filename",
            &folder.to_string_lossy(),
        ]);
        assert_eq!(said.cleanly().lines().count(), support::CRDS.len());
        support::wait_established();
    });
}
