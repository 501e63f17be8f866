//! That the scenarios show all there is to show.

use crate::stories::{Story, files, stories};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Proxmox HA's own simulator has 144 scenarios.
const LEAST: usize = 150;

/// Reasons of gates that ResetAllowed never has, and why.
const NEVER_SHOWN: [(&str, &str); 2] = [
    ("NotSilent", "ResetAllowed is True with reason Armed then"),
    (
        "ObserverNotServing",
        "while it lasts, silence is counted from the present, and HeartbeatFresh says Listening: one write for each VM of a fleet would tell of one trouble of our own",
    ),
];

/// Rows of the table of what a reset does in which situation.
const ROWS: [&str; 12] = [
    "running, unlocked",
    "stopped",
    "paused, prelaunch, io-error, internal-error, guest-panicked, suspended",
    "config lock set",
    "other task holds the file lock",
    "QEMU monitor hung",
    "reboot: 0",
    "HA-managed",
    "live migration running",
    "moved to another node",
    "no quorum",
    "owner node down",
];

#[test]
fn there_are_as_many_as_promised() {
    assert!(files("yaml").len() >= LEAST, "{}", files("yaml").len());
}

#[test]
fn each_lesson_each_rule_and_each_row_of_the_table_has_one() {
    let files = files("yaml");
    let numbers = [("lessons", 22), ("rules", 10), ("reset-table", ROWS.len())];
    for (folder, last) in numbers {
        for number in 1..=last {
            let begin = format!("{folder}/{number:02}-");
            assert!(files.iter().any(|file| file.starts_with(&begin)), "no {begin}*.yaml");
        }
    }
    for name in files.iter().filter(|name| !name.starts_with("gates/")) {
        let number = name
            .split_once('/')
            .and_then(|(folder, file)| Some((folder, file.get(..2)?.parse::<usize>().ok()?)));
        let known = number.is_some_and(|(folder, n)| numbers.iter().any(|(known, last)| *known == folder && (1..=*last).contains(&n)));
        assert!(known, "{name} belongs to no lesson, rule or row");
    }
}

#[test]
fn each_story_has_its_scenario() {
    let (scenarios, stories) = (files("yaml"), files("log"));
    let lone: Vec<_> = stories.iter().filter(|story| !scenarios.contains(story)).collect();
    assert!(lone.is_empty(), "no .yaml beside {lone:?}");
}

/// Reasons of gates, as they stand in the code.
fn reasons() -> BTreeSet<String> {
    let controller = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    let mut read = |file: &str, patterns: &[&str]| {
        let text = std::fs::read_to_string(controller.join(file)).unwrap();
        // What follows are tests.
        let text = text.split("#[cfg(test)]").next().unwrap();
        for pattern in patterns {
            let pattern = regex_lite::Regex::new(pattern).unwrap();
            found.extend(pattern.captures_iter(text).map(|c| c[1].to_owned()));
        }
    };
    let blocked = r#"Blocked::new\(\s*"(\w+)""#;
    for entry in std::fs::read_dir(controller.join("core/src")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        // What keeps a VM from being started is told by Ready, not by ResetAllowed.
        if name.ends_with(".rs") && name != "power.rs" {
            read(&format!("core/src/{name}"), &[blocked]);
        }
    }
    let word = r#"=> "([A-Z]\w+)""#;
    read("core/src/life.rs", &[word]);
    read("core/src/policy.rs", &[word]);
    read("src/reconcile/managed_vm/observe.rs", &[r#"failed\(\s*"(\w+)""#]);
    for (reason, _) in NEVER_SHOWN {
        assert!(found.remove(reason), "{reason} is no reason any more");
    }
    found
}

/// Whether a gate is seen to block, and whether it is seen to open again.
fn seen(stories: &[Story]) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut blocks, mut lifted) = (BTreeSet::new(), BTreeSet::new());
    let all = stories.iter().flat_map(|story| story.allowed.values());
    for row in all {
        for (n, (status, reason)) in row.iter().enumerate() {
            if status == "False" {
                blocks.insert(reason.as_str());
                if n + 1 < row.len() {
                    lifted.insert(reason.as_str());
                }
            }
        }
    }
    (blocks, lifted)
}

#[test]
fn each_gate_is_seen_to_block_and_to_open() {
    let stories = stories();
    let (blocks, lifted) = seen(stories);
    let reasons = reasons();
    assert!(reasons.len() > 30, "{reasons:?}");
    if std::env::var("DEFIB_GOLDEN_ONLY").is_ok() {
        return;
    }
    let missing = |seen: &BTreeSet<&str>| reasons.iter().filter(|r| !seen.contains(r.as_str())).cloned().collect::<Vec<_>>();
    let missing = BTreeMap::from([("to block", missing(&blocks)), ("to open", missing(&lifted))]);
    assert!(missing.values().all(Vec::is_empty), "not seen {missing:?}");
}
