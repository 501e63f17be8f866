//! Replays the corpus, and changes each of its entries a little: the same changes in each run, so that a failure comes back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of tests fail their test"
)]

use fuzz_targets::{TARGETS, run};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Changed forms of each entry. All of them take some seconds without optimisation; cargo-fuzz goes further.
const FORMS: usize = 40;
/// What stands in texts that parsers stumble over.
const DICTIONARY: [&[u8]; 24] = [
    b"null",
    b"true",
    b"0",
    b"-0.0",
    b"-1",
    b"1e308",
    b"5e-324",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551615",
    b"\"\"",
    b"[]",
    b"{}",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    "\u{202e}ä😀".as_bytes(),
    b"\x1b[2J",
    b"\n",
    b"_",
    b":",
    b"%",
    b"-009999-01-02T01:59:59Z",
    b"9999-12-30T22:00:00Z",
];

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn entries(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(target)).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect()
}

/// SplitMix64: small, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// One to three changes: cut, flipped, replaced by a word, a piece of another entry put in, a piece twice.
fn changed(entry: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = entry.to_vec();
    for _ in 0..=chance.below(3) {
        let at = chance.below(bytes.len() + 1);
        let end = (at + chance.below(24)).min(bytes.len());
        match chance.below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            2 => drop(bytes.splice(at..end, DICTIONARY[chance.below(DICTIONARY.len())].iter().copied())),
            3 => {
                let from = chance.below(other.len() + 1);
                let to = (from + chance.below(200)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                // A number or a word of JSON as a whole: what else would stand there.
                let is_value = |b: &u8| b.is_ascii_alphanumeric() || b"+-.".contains(b);
                let begin = bytes[..at].iter().rposition(|b| !is_value(b)).map_or(0, |p| p + 1);
                let end = bytes[at..].iter().position(|b| !is_value(b)).map_or(bytes.len(), |p| at + p);
                bytes.splice(begin..end, DICTIONARY[chance.below(DICTIONARY.len())].iter().copied());
            }
        }
    }
    bytes
}

fn is_broken(target: &str, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| run(target, input))).is_err()
}

/// Tells all inputs that break something, not only the first, as bytes that can be put into the corpus.
fn replay(target: &str) {
    let all = entries(target);
    assert!(!all.is_empty());
    let mut chance = Chance(0);
    let mut broken = Vec::new();
    for (name, entry) in &all {
        for form in 0..=FORMS {
            let other = &all[chance.below(all.len())].1;
            let input = if form == 0 {
                entry.clone()
            } else {
                changed(entry, other, &mut chance)
            };
            if is_broken(target, &input) {
                broken.push(format!("a form of {name}: {}", input.escape_ascii()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "{target}: {} inputs break a property:\n{}",
        broken.len(),
        broken.join("\n")
    );
}

#[test]
fn reports_and_what_is_near_them_hold_their_properties() {
    replay("report");
}

#[test]
fn keys_and_what_is_near_them_hold_their_properties() {
    replay("agent-key");
}

#[test]
fn stored_objects_and_what_is_near_them_hold_their_properties() {
    replay("objects");
}

#[test]
fn answers_of_proxmox_and_what_is_near_them_hold_their_properties() {
    replay("proxmox-answer");
}

#[test]
fn texts_of_proxmox_and_what_is_near_them_hold_their_properties() {
    replay("proxmox-text");
}

/// A folder that no target reads would be a corpus that nobody replays.
#[test]
fn each_folder_of_the_corpus_has_its_target() {
    let folders: BTreeSet<String> = std::fs::read_dir(folder(""))
        .unwrap()
        .map(|f| f.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(folders, targets);
}
