//! Maintenance windows of a HealthPolicy: times that come again and again, in which nothing is reset automatically.

use defib_api::MaintenanceWindow;
use jiff::{SignedDuration, Timestamp};

/// How the windows of a policy stand at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Windows {
    /// None is open.
    Closed {
        /// When the next one opens, if any ever does.
        opens: Option<Timestamp>,
    },
    /// One is open.
    Open {
        /// Its schedule.
        schedule: String,
        /// When it closes.
        closes: Timestamp,
    },
    /// One of them cannot be understood. Nobody knows whether it would be open.
    Invalid {
        /// Which, why, and what would be right.
        message: String,
    },
}

impl Windows {
    /// Until when this is so.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Closed { opens } => *opens,
            Self::Open { closes, .. } => Some(*closes),
            Self::Invalid { .. } => None,
        }
    }
}

/// How these windows stand at `now`. Of several that are open, the one that closes last is told.
pub fn windows(declared: &[MaintenanceWindow], now: Timestamp) -> Windows {
    let mut next: Option<Timestamp> = None;
    let mut open: Option<(String, Timestamp)> = None;
    for window in declared {
        match stands(window, now) {
            Ok(Windows::Open { schedule, closes }) => {
                if open.as_ref().is_none_or(|(_, known)| *known < closes) {
                    open = Some((schedule, closes));
                }
            }
            Ok(Windows::Closed { opens }) => next = next.into_iter().chain(opens).min(),
            Ok(invalid @ Windows::Invalid { .. }) => return invalid,
            Err(message) => return Windows::Invalid { message },
        }
    }
    match open {
        Some((schedule, closes)) => Windows::Open { schedule, closes },
        None => Windows::Closed { opens: next },
    }
}

fn stands(window: &MaintenanceWindow, now: Timestamp) -> Result<Windows, String> {
    let zone = window.time_zone.as_deref().unwrap_or("UTC");
    let wrong = |why: &str| {
        // The parser draws the place of the error below its first line.
        let why: String = why.lines().next().unwrap_or_default().chars().take(128).collect();
        format!(
            "maintenanceWindows: schedule {:?} in time zone {zone:?} cannot be used ({why}); five fields are wanted, such as \"30 2 * * SUN\", and a zone such as Europe/Berlin",
            window.schedule
        )
    };
    // With more or fewer fields, the zone would be read as one of them, or one of them as the zone.
    if window.schedule.split_whitespace().count() != 5 || zone.split_whitespace().count() != 1 {
        return Err(wrong("it has not five fields, or its zone is not one word"));
    }
    let crontab = cronexpr::parse_crontab(&format!("{} {zone}", window.schedule)).map_err(|e| wrong(&e.to_string()))?;
    let length = SignedDuration::from_secs(window.duration_seconds.into());
    let Some(from) = now.checked_sub(length).ok().filter(|_| in_reach(now)) else {
        return Ok(Windows::Closed { opens: None });
    };
    // Of the windows that are not over yet, the first.
    let start = crontab.find_next(from).map_err(|_| wrong("it never begins"))?.timestamp();
    Ok(if start > now {
        Windows::Closed { opens: Some(start) }
    } else {
        Windows::Open {
            schedule: window.schedule.clone(),
            closes: start.checked_add(length).unwrap_or(Timestamp::MAX),
        }
    })
}

/// The search looks four years ahead, and a calendar has an end. No clock shows a time out of these bounds; 2^37 s is the year 6325.
fn in_reach(now: Timestamp) -> bool {
    (0..1 << 37).contains(&now.as_second())
}
