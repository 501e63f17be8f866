//! Rules 5 to 7: what was written before the request, and what was made of its answer.

use super::Finding;
use super::story::{INTENT_TO_POST, Intent, Reset, Story};
use crate::evidence::{Written, before, seconds};
use std::collections::BTreeMap;

/// Each request was in the journal first.
pub fn journal(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("5", "each POST had its currentReset in the journal before");
    for reset in &story.resets {
        let violation = reset
            .intent
            .is_none()
            .then(|| format!("{}: nothing was in the journal", reset.shown()));
        if let Some(Intent { written: None, .. }) = reset.intent {
            finding.notes.push(format!(
                "{}: the API server was taken away before it logged the write",
                reset.shown()
            ));
        }
        finding.case(violation);
    }
    finding
}

/// Each request had its VMReset first.
pub fn record(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("5", "each POST had its VMReset created before");
    for reset in &story.resets {
        let Some(intent) = &reset.intent else { continue };
        let created = story.evidence.writes.iter().any(|write| {
            let ours = matches!(&write.what, Written::Created(name) if *name == intent.name);
            ours && write.done <= reset.post.time
        });
        let lost = !created && story.api_down_between(before(intent.time, 1.0), reset.post.time);
        if lost {
            finding.notes.push(format!(
                "{}: the API server was taken away before it logged the creation",
                reset.shown()
            ));
        }
        finding.case((!created && !lost).then(|| format!("{}: its VMReset was not there", reset.shown())));
    }
    finding
}

/// No request came long after its decision.
pub fn fresh(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new(
        "5",
        "no POST over 10 s after its decision, and the 5 s that a connection may be idle",
    );
    for reset in &story.resets {
        let Some(intent) = &reset.intent else { continue };
        let age = seconds(intent.time, reset.post.time);
        finding.case((age > INTENT_TO_POST).then(|| format!("{}: decided {age:.1} s before", reset.shown())));
    }
    finding
}

/// Each request went over a connection of its own, opened after the journal was written.
pub fn connection(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new(
        "5",
        "each POST came on a connection of its own, opened after the journal was written",
    );
    for reset in &story.resets {
        let facts = &reset.post.connection;
        let written = reset.intent.as_ref().and_then(|intent| intent.written);
        let idle = seconds(facts.secured, reset.post.time);
        let why = if facts.request != 1 {
            Some(format!("it was request {} of its connection", facts.request))
        } else if written.is_some_and(|written| facts.accepted < written) {
            Some(format!(
                "its connection was opened at {}, before the journal was written",
                facts.accepted
            ))
        } else {
            (idle > 5.0).then(|| format!("its connection was idle for {idle:.1} s"))
        };
        finding.case(why.map(|why| format!("{}: {why}", reset.shown())));
    }
    finding
}

/// What is called recovered runs in a boot that began after the request.
pub fn recovered(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("6", "each Recovered names a boot that began after its decision, and that reported");
    for record in story
        .records
        .values()
        .filter(|record| record.outcome.as_deref() == Some("Recovered"))
    {
        let vmid = story
            .evidence
            .vms
            .iter()
            .find(|(_, vm)| vm.name == record.vm)
            .map(|(vmid, _)| *vmid);
        let Some((vmid, intent)) = vmid.zip(record.intent_time) else {
            continue;
        };
        let began = story.guests.get(&vmid).into_iter().flatten().find(|event| {
            let id = event.boot_id_after.map(|id| id.to_string());
            event.boot_id_before != event.boot_id_after && id.is_some() && id == record.boot_id_after
        });
        let why = match began {
            None => Some("no guest ever had its bootIDAfter".to_owned()),
            Some(event) if event.time < intent => Some(format!("its boot began at {}, before the decision", event.time)),
            Some(event) => {
                let heard = story.evidence.heard.get(&vmid).map_or(&[][..], Vec::as_slice);
                let after = heard.iter().any(|report| report.answered > event.time);
                (!after).then(|| "no report was taken after its boot".to_owned())
            }
        };
        finding.case(why.map(|why| format!("{}: {why}", record.name)));
    }
    finding
}

/// A request that was carried out, or may have been, was not repeated.
pub fn once(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("7", "no POST of a reset whose earlier POST was carried out or may have been");
    let mut by_name: BTreeMap<&str, Vec<&Reset<'_>>> = BTreeMap::new();
    for reset in &story.resets {
        if let Some(intent) = &reset.intent {
            by_name.entry(&intent.name).or_default().push(reset);
        }
    }
    for resets in by_name.values() {
        let first = resets.iter().position(|reset| reset.happened || reset.ambiguous());
        let again = first.and_then(|index| Some((resets.get(index)?, resets.get(index + 1)?)));
        finding.case(again.map(|(first, again)| format!("{}, after {}", again.shown(), first.shown())));
    }
    finding
}

/// The task of each request that was answered is told by its VMReset.
pub fn told(story: &Story<'_>) -> Finding {
    let mut finding = Finding::new("7", "each POST that was answered with a task is told by its VMReset");
    for reset in story
        .resets
        .iter()
        .filter(|reset| reset.post.status == Some(200) && !reset.ambiguous())
    {
        // With the ManagedVM its VMResets go; a task that refused to touch the VM costs nothing and leaves no record.
        if story.deleted(reset.vmid).is_some() || !reset.happened {
            continue;
        }
        let record = reset.intent.as_ref().and_then(|intent| story.records.get(intent.name.as_str()));
        let why = match record {
            None => Some("it has no VMReset".to_owned()),
            Some(record) if record.upid == reset.post.upid => None,
            Some(record) if record.outcome.as_deref() == Some("Unknown") => {
                finding.notes.push(format!("{}: its VMReset says Unknown", reset.shown()));
                None
            }
            Some(record) => Some(format!(
                "its VMReset tells of {:?}, the task was {:?}",
                record.upid, reset.post.upid
            )),
        };
        finding.case(why.map(|why| format!("{}: {why}", reset.shown())));
    }
    finding
}
