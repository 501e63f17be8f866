//! The rules by which a VM is reset, as tables that a reader can check: one file a rule, in the rules' own words, each case in plain words with what must follow.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this is tests; clippy looks for the attribute on each function"
)]

#[path = "../common/mod.rs"]
mod common;

mod rule_01_witnessed_silence;
mod rule_02_arming;
mod rule_03_contact;
mod rule_04_budgets;
mod rule_04_corroboration;
mod rule_04_gates;
mod rule_04_observe;
mod rule_04_power;
mod rule_04_steps;
mod rule_04_storms;
mod rule_04_thresholds;
mod rule_04_triggers;
mod rule_04_windows;
mod rule_05_protocol;
mod rule_06_boot_loops;
mod rule_06_recovered;
mod rule_07_ambiguous;
mod rule_08_start_owed;
mod rule_09_memory;
mod rule_10_deleting;
