//! What was asked and what came of it: the record that oracles judge by.

use super::fault::{Call, Loss, Outcome};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::VecDeque;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// When it was carried out or refused, by the server's clock. Entries are in this order.
    pub time: Timestamp,
    /// Who asked for what.
    pub call: Call,
    /// HTTP status code of the answer; 0 when the request was lost on its way.
    pub code: u16,
    /// Reason of a refusal, such as `Conflict`; else empty.
    pub reason: String,
    /// Whether the answer was lost, and how.
    pub lost: Option<Loss>,
    /// What the hook did with it.
    pub outcome: Outcome,
    /// resourceVersion of the object before a write.
    pub before: Option<u64>,
    /// And after it; `None` when it is gone, or was never there.
    pub after: Option<u64>,
    /// Version of the whole store after the request.
    pub version: u64,
    /// Body of a write.
    pub body: Option<Value>,
}

impl Entry {
    /// Whether it changed an object.
    pub fn changed(&self) -> bool {
        self.before != self.after
    }
}

/// The last entries.
#[derive(Debug)]
pub(super) struct Audit {
    entries: VecDeque<Entry>,
    kept: usize,
    dropped: u64,
}

impl Audit {
    pub(super) fn new(kept: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            kept,
            dropped: 0,
        }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        while self.entries.len() > self.kept {
            self.entries.pop_front();
            self.dropped += 1;
        }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }

    /// How many entries were dropped to keep the log bounded.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
