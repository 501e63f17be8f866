//! Memory and file descriptors of the controller must not grow.

use super::Finding;
use crate::evidence::{Did, Evidence};
use crate::sample::Sample;

/// A third of the samples of the last process is its warm-up; what is left is halved and compared. Fewer than this tell nothing.
const FEWEST: usize = 20;
/// Memory may grow by a tenth and 8 MiB: caches, and what an allocator keeps of a burst. A leak of one request's memory in a hundred grows faster.
const MEMORY_SHARE: f64 = 0.10;
const MEMORY_KIB: f64 = 8.0 * 1024.0;
/// Descriptors are as many as connections at that moment. One that is not closed for each reset or outage soon is more than this.
const DESCRIPTORS: f64 = 40.0;

/// Resident memory.
pub fn memory(evidence: &Evidence) -> Finding {
    let finding = Finding::new("size", "the controller's memory did not grow in the part without kills");
    compare(
        evidence,
        finding,
        "KiB",
        |sample| sample.resident,
        |before| before * (1.0 + MEMORY_SHARE) + MEMORY_KIB,
    )
}

/// Open file descriptors.
pub fn descriptors(evidence: &Evidence) -> Finding {
    let finding = Finding::new("size", "the controller's open files did not become more in the part without kills");
    compare(
        evidence,
        finding,
        "descriptors",
        |sample| sample.descriptors,
        |before| before + DESCRIPTORS,
    )
}

fn compare(evidence: &Evidence, mut finding: Finding, unit: &str, value: impl Fn(&Sample) -> u64, allowed: impl Fn(f64) -> f64) -> Finding {
    let Some(last) = evidence.samples.last().map(|sample| sample.pid) else {
        finding.violations.push("the controller was never looked at".into());
        return finding;
    };
    // While things break it works hardest: the calm at the end is not comparable.
    let calm = evidence.deeds.iter().find(|deed| deed.what == Did::Calm).map(|deed| deed.time);
    let all: Vec<&Sample> = evidence
        .samples
        .iter()
        .filter(|sample| sample.pid == last && calm.is_none_or(|calm| sample.time <= calm))
        .collect();
    finding.checked = all.len();
    if all.len() < FEWEST {
        let note = format!("only {} samples of the last process: too few to compare", all.len());
        finding.notes.push(note);
        return finding;
    }
    let warm = all.get(all.len() / 3..).unwrap_or_default();
    let (first, second) = warm.split_at(warm.len() / 2);
    let (before, after) = (median(first, &value), median(second, &value));
    finding.notes.push(format!("{before} {unit}, then {after}"));
    if after > allowed(before) {
        let most = allowed(before);
        finding
            .violations
            .push(format!("{before} {unit} grew to {after}, at most {most:.0} allowed"));
    }
    finding
}

fn median(samples: &[&Sample], value: impl Fn(&Sample) -> u64) -> f64 {
    let mut values: Vec<u64> = samples.iter().map(|sample| value(sample)).collect();
    values.sort_unstable();
    // Sizes of a process are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    values.get(values.len() / 2).map_or(0.0, |value| *value as f64)
}
