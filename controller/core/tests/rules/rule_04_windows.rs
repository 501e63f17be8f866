//! **Gates**, continued: maintenance windows (cron, duration, time zone). While one is open nothing is reset automatically, and when it closes silence is counted anew.

use crate::common::*;
use defib_api::MaintenanceWindow;
use defib_core::window::{Windows, windows};
use jiff::Timestamp;

fn window(schedule: &str, minutes: u32, zone: Option<&str>) -> MaintenanceWindow {
    MaintenanceWindow {
        schedule: schedule.into(),
        duration_seconds: minutes * 60,
        time_zone: zone.map(str::to_owned),
    }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// `open until ...`, `opens ...`, `never opens` or `invalid`.
fn state(declared: &[MaintenanceWindow], now: &str) -> String {
    match windows(declared, time(now)) {
        Windows::Open { schedule, closes } => format!("{schedule}: open until {closes}"),
        Windows::Closed { opens: Some(opens) } => format!("opens {opens}"),
        Windows::Closed { opens: None } => "never opens".into(),
        Windows::Invalid { message } => format!("invalid: {message}"),
    }
}

#[test]
fn a_window_is_open_from_its_beginning_until_its_length_has_passed() {
    let sundays = [window("30 2 * * SUN", 90, None)];
    for (now, expected) in [
        ("2027-01-16T12:00:00Z", "opens 2027-01-17T02:30:00Z"),
        ("2027-01-17T02:29:59.999Z", "opens 2027-01-17T02:30:00Z"),
        ("2027-01-17T02:30:00Z", "30 2 * * SUN: open until 2027-01-17T04:00:00Z"),
        ("2027-01-17T03:59:59.999Z", "30 2 * * SUN: open until 2027-01-17T04:00:00Z"),
        ("2027-01-17T04:00:00Z", "opens 2027-01-24T02:30:00Z"),
    ] {
        assert_eq!(state(&sundays, now), expected, "{now}");
    }
}

#[test]
fn the_first_sunday_of_a_month_can_be_said() {
    let first = [window("0 3 * * SUN#1", 180, Some("Europe/Berlin"))];
    assert_eq!(state(&first, "2027-01-15T00:00:00Z"), "opens 2027-02-07T02:00:00Z");
}

#[test]
fn a_time_zone_moves_it_with_the_summer() {
    let berlin = [window("0 22 * * *", 60, Some("Europe/Berlin"))];
    assert_eq!(state(&berlin, "2027-01-15T20:00:00Z"), "opens 2027-01-15T21:00:00Z");
    assert_eq!(state(&berlin, "2027-07-15T19:00:00Z"), "opens 2027-07-15T20:00:00Z");
    // 02:30 does not exist in the night in which the clocks go forward.
    let missing = [window("30 2 * * *", 60, Some("Europe/Berlin"))];
    assert_eq!(state(&missing, "2027-03-28T00:00:00Z"), "opens 2027-03-29T00:30:00Z");
}

#[test]
fn of_several_the_one_that_closes_last_is_told_and_of_closed_ones_the_next() {
    let two = [window("0 2 * * *", 60, None), window("30 2 * * *", 120, None)];
    for (now, expected) in [
        ("2027-01-15T01:00:00Z", "opens 2027-01-15T02:00:00Z"),
        ("2027-01-15T02:10:00Z", "0 2 * * *: open until 2027-01-15T03:00:00Z"),
        ("2027-01-15T02:40:00Z", "30 2 * * *: open until 2027-01-15T04:30:00Z"),
    ] {
        assert_eq!(state(&two, now), expected, "{now}");
    }
    assert_eq!(state(&[], "2027-01-15T02:10:00Z"), "never opens");
}

#[test]
fn a_window_that_is_longer_than_its_period_never_closes() {
    let always = [window("* * * * *", 60 * 24 * 7, None)];
    let Windows::Open { closes, .. } = windows(&always, time("2027-01-15T02:10:30Z")) else {
        panic!("it is open")
    };
    assert!(
        matches!(windows(&always, closes), Windows::Open { .. }),
        "and when its first part is over, still"
    );
}

#[test]
fn what_cannot_be_understood_is_said_with_what_would_be_right() {
    for (schedule, zone) in [
        ("", None),
        ("0 2 * * SOMEDAY", None),
        ("99 2 * * *", None),
        ("0 2 * *", None),
        ("0 2 * * * Europe/Berlin", None),
        ("0 2 * *", Some("* UTC")),
        ("0 2 * * *", Some("Mars/Olympus")),
        ("0 2 * * *", Some("")),
        ("0 0 31 2 *", None),
    ] {
        let said = state(&[window("0 2 * * *", 60, None), window(schedule, 60, zone)], "2027-01-15T02:10:00Z");
        assert!(said.starts_with("invalid: maintenanceWindows"), "{schedule} {zone:?}: {said}");
        assert!(said.contains("five fields are wanted") && said.len() < 600, "{said}");
    }
}

#[test]
fn no_clock_makes_it_fail() {
    for now in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
        for declared in [window("0 2 29 2 *", 60, Some("Asia/Kathmandu")), window("* * * * *", 10_080, None)] {
            let _ = windows(&[declared], now);
        }
    }
}

#[test]
fn a_vm_is_looked_at_when_its_window_opens_and_closes() {
    let closed = healthy().with(|s| {
        s.windows = Windows::Closed {
            opens: Some(wall(NOW as i64 + 7)),
        }
    });
    assert_eq!(closed.decide().check_after, secs(7));
    let open = healthy().with(|s| {
        s.windows = Windows::Open {
            schedule: "30 2 * * SUN".into(),
            closes: wall(NOW as i64 + 9),
        }
    });
    let decision = open.decide();
    assert_eq!(decision.check_after, secs(9));
    assert!(decision.held, "its end restarts the clock");
    assert_eq!(open.requested().looked().verdict(), "Reset Manual", "a person may reset it");
}
