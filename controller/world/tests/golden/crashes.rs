//! The plain story with the controller killed before and after each write of its reset. `cargo xtask simulate --crash-points` does the same with all scenarios.

use crate::stories::{folder, on_a_runtime, stand_still};
use defib_world::golden::{Scenario, crash};
use defib_world::plan::{CrashPoint, WriteTo};

#[test]
fn whoever_dies_at_a_write_of_a_reset_resets_nobody_twice() {
    let text = std::fs::read_to_string(folder().join("rules/06-reset-and-back.yaml")).unwrap();
    let scenario = Scenario::read(&text).unwrap();
    let play = |crashes: &[CrashPoint]| on_a_runtime(|| crash::play(&scenario, crashes, stand_still)).unwrap();
    let without = play(&[]).evidence;
    let points = crash::points(&without);
    // The last ones are those of the reset.
    let points: Vec<CrashPoint> = points.into_iter().rev().take(18).step_by(3).collect();
    assert!(points.iter().any(|point| point.to == WriteTo::Proxmox), "{points:?}");
    for point in points {
        let with = play(&[point]);
        let violations = crash::violations(&without, &with.evidence);
        assert!(violations.is_empty(), "{point}: {violations:#?}\n{}", with.story);
        let resets = with.evidence.posts.iter().filter(|s| s.counts()).count();
        assert!(resets <= 2, "{point}: {resets} resets\n{}", with.story);
    }
}
