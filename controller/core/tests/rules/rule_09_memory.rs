//! **Memory decides, status publishes.** The decider's ledger is the truth about liveness; what is published serves a process that has heard nothing yet.

use crate::common::*;
use defib_api::AgentState;

#[test]
fn the_ledger_wins_over_what_is_published() {
    let published = |change: fn(&mut defib_api::HeartbeatStatus)| silent().published(NOW as i64 - 150, change);
    check(vec![
        (
            "published as goodbye, heard as running since",
            published(|h| h.state = Some(AgentState::Stopping)),
            "Look",
        ),
        (
            "published as unsupervised, heard as supervised",
            published(|h| h.supervised = Some(false)),
            "Look",
        ),
        (
            "published as running, heard as goodbye",
            published(|_| {}).reporting(|r| r.state = AgentState::Stopping),
            "Stopping",
        ),
        (
            "published as this machine, heard as another",
            published(|_| {}).reporting(|r| r.machine_uuid = Some(OTHER_MACHINE)),
            "WrongMachine",
        ),
    ]);
}

#[test]
fn only_the_time_is_the_newest_of_both() {
    check(vec![
        ("published a moment ago", silent().published(NOW as i64 - 1, |_| {}), "Armed"),
        ("heard a moment ago", healthy().published(NOW as i64 - 5_000, |_| {}), "Armed"),
    ]);
}
