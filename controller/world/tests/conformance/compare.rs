//! The answers of two servers, side by side.

use crate::side::Outcome;
use crate::steps::Step;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Puts ranks in place of resourceVersions (by size) and uids (by first appearance).
pub fn ranked(mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let mut versions = BTreeSet::new();
    for outcome in &outcomes {
        visit(&outcome.body, &mut |key, text| {
            if key == "resourceVersion"
                && let Ok(version) = text.parse::<u64>()
            {
                versions.insert(version);
            }
        });
    }
    let versions: Vec<u64> = versions.into_iter().collect();
    let mut uids: Vec<String> = Vec::new();
    for outcome in &mut outcomes {
        replace(&mut outcome.body, &mut |key, text| match key {
            "resourceVersion" => {
                let rank = text.parse().ok().and_then(|version| versions.binary_search(&version).ok());
                rank.map(|rank| format!("version {rank}"))
            }
            "uid" => {
                let known = uids.iter().position(|uid| uid == text);
                let rank = known.unwrap_or_else(|| {
                    uids.push(text.to_owned());
                    uids.len() - 1
                });
                Some(format!("uid {rank}"))
            }
            _ => None,
        });
    }
    outcomes
}

fn visit(value: &Value, each: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if let Value::String(text) = value {
                    each(key, text);
                }
                visit(value, each);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, each)),
        _ => {}
    }
}

fn replace(value: &mut Value, with: &mut dyn FnMut(&str, &str) -> Option<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if let Value::String(text) = value
                    && let Some(other) = with(key, text)
                {
                    *value = json!(other);
                }
                replace(value, with);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, with)),
        _ => {}
    }
}

/// The first answer in which the two differ, with the requests that lead to it.
pub fn first_difference(steps: &[Step], ours: &[Outcome], theirs: &[Outcome]) -> Option<String> {
    assert_eq!(ours.len(), theirs.len());
    let same = |a: &Outcome, b: &Outcome| a.code == b.code && a.reason == b.reason && a.body == b.body;
    let at = ours.iter().zip(theirs).position(|(a, b)| !same(a, b))?;
    let mut report = format!("request {at} is answered differently, after these:\n");
    for outcome in &theirs[..at.min(steps.len())] {
        let _ = writeln!(report, "  {} -> {} {}", outcome.what, outcome.code, outcome.reason);
    }
    let (a, b) = (&ours[at], &theirs[at]);
    let _ = writeln!(report, "  {}", a.what);
    let _ = writeln!(report, "in memory: {} {}\nreal:      {} {}", a.code, a.reason, b.code, b.reason);
    let pretty = |body: &Value| serde_json::to_string_pretty(body).unwrap_or_default();
    report += &lines(&pretty(&a.body), &pretty(&b.body));
    Some(report)
}

/// The lines in which two texts differ, with some around them: `-` is in memory only, `+` real only.
fn lines(a: &str, b: &str) -> String {
    const AROUND: usize = 6;
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let head = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let tail = a[head..]
        .iter()
        .rev()
        .zip(b[head..].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let mut text = String::new();
    let part = |text: &mut String, mark: &str, lines: &[&str]| {
        for line in lines.iter().take(60) {
            let _ = writeln!(text, "{mark} {line}");
        }
    };
    part(&mut text, " ", &a[head.saturating_sub(AROUND)..head]);
    part(&mut text, "-", &a[head..a.len() - tail]);
    part(&mut text, "+", &b[head..b.len() - tail]);
    part(&mut text, " ", &a[a.len() - tail..(a.len() - tail + AROUND).min(a.len())]);
    text
}
