//! Scenarios and what comes of them. `NAME.yaml` says what there is and what happens, `NAME.log` beside it is the story that follows, word for word.
//!
//! After a change of behaviour `DEFIB_GOLDEN=update cargo test -p defib-world --test golden` writes the stories anew: the difference is what is reviewed.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "all of this is tests; clippy looks for the attribute on each function"
)]

mod coverage;
mod crashes;
mod diff;
mod reading;
mod stories;

use stories::{Story, stories};

/// Read each file of scenarios once more: what is told must be what is written there.
#[test]
fn each_story_is_as_it_is_written() {
    let mut bad = Vec::new();
    for story in stories() {
        bad.extend(story.problem.clone());
    }
    let mut slow: Vec<&Story> = stories().iter().collect();
    slow.sort_by_key(|story| std::cmp::Reverse(story.took));
    for story in slow.iter().take(5) {
        println!("{:?} {}", story.took, story.name);
    }
    assert!(bad.is_empty(), "{}\n{} of {} scenarios", bad.join("\n"), bad.len(), stories().len());
}

#[test]
fn safety_holds_in_each() {
    let told = |story: &Story| story.violations.iter().map(|v| format!("{}: {v}", story.name)).collect::<Vec<_>>();
    let bad: Vec<String> = stories().iter().flat_map(told).collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
