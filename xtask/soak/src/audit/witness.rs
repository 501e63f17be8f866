//! Rule 1: only witnessed silence counts.

use super::Finding;
use super::story::Story;
use crate::evidence::{Did, Heard, before, seconds};

/// From the last look at the ledger to the arrival of the request. A report in this time cannot hold the request back any more.
const LEAVING: f64 = 1.0;

/// No VM was reset whose report was taken within the time-out before.
pub fn heard(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("1", "no reset of a VM that was heard within its time-out before the POST");
    for reset in &story.resets {
        let at = reset.post.time;
        let from = before(at, f64::from(reset.limits.timeout));
        let heard = story.evidence.heard.get(&reset.vmid).map_or(&[][..], Vec::as_slice);
        let since = heard.partition_point(|report| report.sent <= from);
        let until = heard.partition_point(|report| report.sent <= at);
        let within = heard.get(since..until).unwrap_or_default();
        let (racing, early): (Vec<&Heard>, Vec<&Heard>) = within.iter().partition(|report| seconds(report.sent, at) <= LEAVING);
        for report in racing {
            let note = format!("{}: a report was sent {:.3} s before it", reset.shown(), seconds(report.sent, at));
            finding.notes.push(note);
        }
        let violation = early.last().map(|report| {
            format!(
                "{}: a report sent {:.3} s before it was taken, the time-out is {} s",
                reset.shown(),
                seconds(report.sent, at),
                reset.limits.timeout
            )
        });
        finding.case(violation);
    }
    finding
}

/// No VM was reset by a controller that had not listened for its time-out.
pub fn witnessed(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("1", "no reset by a controller that started less than a time-out before the POST");
    for reset in &story.resets {
        let at = reset.post.time;
        let mut started = story
            .evidence
            .deeds
            .iter()
            .filter(|deed| deed.what == Did::Started)
            .map(|deed| deed.time);
        let newest = started.by_ref().take_while(|time| *time <= at).last();
        let violation = match newest {
            Some(time) if seconds(time, at) >= f64::from(reset.limits.timeout) => None,
            Some(time) => Some(format!("{}: the controller was {:.1} s old", reset.shown(), seconds(time, at))),
            None => Some(format!("{}: no controller had been started", reset.shown())),
        };
        finding.case(violation);
    }
    finding
}
