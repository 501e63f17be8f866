//! A decider that dies, or stands still, at the worst moment, and another that takes over.

use super::*;
use fault_proxy::{Act, Moment, Rule};

/// Between the stop and the start of a PowerCycle the decider dies. The start is owed all the same.
#[test]
fn the_second_of_two_controllers_starts_what_the_first_stopped_and_goes_on() -> Result<()> {
    let mut story = Story::begin()?;
    let steps = r#"{"spec":{"resetPolicy":{"steps":[{"action":"PowerCycle","maxAttempts":1,"recoveryDeadlineSeconds":60}]}}}"#;
    story
        .lab
        .kubectl(&["patch", VMS, "vm-101", "-n", "vms", "--type=merge", "-p", steps])?;
    let first = story.holder()?;
    story.faults.target(story.lab.nth(first)?.process()?.pid());
    // Of the end of the stop, only the journal tells.
    let killed = story.faults.add(Rule::new(Moment::Before, Act::Kill).matching(|request| {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        request.path.contains("/vmresets/vm-101") && body["status"]["state"] == "Verifying"
    }));
    story.lab.pve(&["hang", "101"])?;
    story.expect(101, &["stop", "start"], &["Recovered"]);
    story.wait_fired(killed, "the decider has died before the start")?;
    ensure!(
        story.asked(101)? == ["stop"],
        "Proxmox was not asked for a start yet\n{}",
        story.logs()
    );
    story.lab.nth(first)?.kill()?;
    story.wait_takeover(first)?;
    until(PATIENCE, "the other starts the VM", || {
        let asked = story.asked(101)?;
        Ok(if asked == ["stop", "start"] {
            Ok(())
        } else {
            Err(format!("{asked:?}"))
        })
    })
    .with_context(|| story.logs())?;
    let holder = story.lab.get(VMS, "vm-101")?["status"]["currentReset"]["holder"].clone();
    ensure!(
        holder == format!("defib-{first}"),
        "it started the VM only when it had taken the reset over, a minute later\n{}",
        story.logs()
    );
    story.lab.nth(first)?.start()?;
    story.wait_cured(101)?;
    story.end()
}

/// The decider stands still after its last write before the request, for longer than it holds the lease.
#[test]
fn a_decider_that_stood_still_before_the_request_sends_it_no_more() -> Result<()> {
    let mut story = Story::begin()?;
    let first = story.holder()?;
    story.faults.target(story.lab.nth(first)?.process()?.pid());
    let stopped = story.faults.add(Rule::new(Moment::After, Act::Stop).matching(|request| {
        let of_record = request.path.contains("/vmresets/vm-102") && request.path.ends_with("/status");
        request.is_write() && of_record && request.status_fields().iter().any(|field| field == "evidence")
    }));
    story.hang(102)?;
    story.wait_fired(stopped, "the decider stands still before the request")?;
    let journal = story.lab.get(VMS, "vm-102")?["status"]["currentReset"].clone();
    ensure!(
        journal["holder"] == format!("defib-{first}"),
        "the lease changed hands before that, on a machine that is too slow: {journal}\n{}",
        story.logs()
    );
    story.wait_takeover(first)?;
    ensure!(story.asked(102)?.is_empty(), "nothing was sent yet\n{}", story.logs());
    story.lab.nth(first)?.process()?.thaw();
    story.wait_cured(102)?;
    ensure!(
        story.holder()? == 1 - first,
        "the one that had stood still decides again\n{}",
        story.logs()
    );
    story.end()
}
