//! Puts the logs together: to each request that Proxmox received, the intent in the journal that it came from.

use crate::evidence::{Did, EndReset, Evidence, Journal, Vm, Written, before};
use crate::fleet::Limits;
use jiff::Timestamp;
use pve_sim::{GuestEvent, GuestEventKind, WriteRequest};
use std::collections::{BTreeMap, BTreeSet};

/// Longest time from a decision to its request: 10 s that an intent lives, and 5 s after which Proxmox closes an idle connection.
pub const INTENT_TO_POST: f64 = 15.0;

/// The evidence, put in order.
pub struct Story<'a> {
    pub evidence: &'a Evidence,
    /// Requests of VMs of the run, in the order of arrival.
    pub resets: Vec<Reset<'a>>,
    /// What happened to each guest, in order.
    pub guests: BTreeMap<u32, Vec<&'a GuestEvent>>,
    /// VMResets at the end, by name.
    pub records: BTreeMap<&'a str, &'a EndReset>,
}

/// One request for a reset.
pub struct Reset<'a> {
    pub post: &'a WriteRequest,
    pub vmid: u32,
    pub vm: &'a Vm,
    pub limits: Limits,
    /// What stood in the journal of its VM when it came.
    pub intent: Option<Intent>,
    /// The machine was reset by it.
    pub happened: bool,
}

/// An intent.
#[derive(Clone, Debug)]
pub struct Intent {
    pub name: String,
    pub time: Timestamp,
    /// When the write of the journal was answered. None: the API server was killed in the meantime and its log lacks the line, but what was written later
    /// tells of it.
    pub written: Option<Timestamp>,
}

impl Reset<'_> {
    /// In a few words, for a violation.
    pub fn shown(&self) -> String {
        let name = self.intent.as_ref().map_or("no intent", |intent| intent.name.as_str());
        format!("POST {} of VM {} at {} ({name})", self.post.sequence, self.vmid, self.post.time)
    }

    /// When it was decided, as far as it is known; the latest time that it can have been.
    pub fn decided(&self) -> Timestamp {
        self.intent
            .as_ref()
            .map_or(self.post.time, |intent| intent.time.min(self.post.time))
    }

    /// Defib could not know whether it was carried out: the connection broke, or a proxy answered for Proxmox.
    pub fn ambiguous(&self) -> bool {
        let fault = self.post.fault.as_deref().unwrap_or_default();
        fault.starts_with("drop") || (fault.starts_with("status") && !fault.contains(":595"))
    }
}

impl<'a> Story<'a> {
    pub fn of(evidence: &'a Evidence) -> Self {
        let mut guests: BTreeMap<u32, Vec<&GuestEvent>> = BTreeMap::new();
        for event in &evidence.guests {
            guests.entry(event.vmid).or_default().push(event);
        }
        let happened: BTreeSet<&str> = evidence
            .guests
            .iter()
            .filter(|event| event.event == GuestEventKind::Reset)
            .map(|event| event.cause.as_str())
            .collect();
        let mut journals: BTreeMap<&str, Vec<(Timestamp, Option<&Journal>)>> = BTreeMap::new();
        for write in &evidence.writes {
            if let Written::Journal { vm, current } = &write.what {
                journals.entry(vm).or_default().push((write.done, current.as_ref()));
            }
        }
        let resets = evidence
            .posts
            .iter()
            .filter_map(|post| {
                let vmid = post.vmid?;
                let vm = evidence.vms.get(&vmid)?;
                let journal = journals.get(vm.name.as_str()).map_or(&[][..], Vec::as_slice);
                Some(Reset {
                    post,
                    vmid,
                    vm,
                    limits: *evidence.policies.get(&vm.policy)?,
                    intent: intent(evidence, vm, journal, post.time),
                    happened: post.upid.as_deref().is_some_and(|upid| happened.contains(upid)),
                })
            })
            .collect();
        Self {
            evidence,
            resets,
            guests,
            records: evidence.end.resets.iter().map(|reset| (reset.name.as_str(), reset)).collect(),
        }
    }

    /// Whether the API server was taken away between two times: its log may lack what it answered last.
    pub fn api_down_between(&self, from: Timestamp, to: Timestamp) -> bool {
        api_down_between(self.evidence, from, to)
    }

    /// When the ManagedVM of a VM was deleted.
    pub fn deleted(&self, vmid: u32) -> Option<Timestamp> {
        let mut deeds = self.evidence.deeds.iter();
        deeds.find(|deed| deed.what == Did::Deleted(vmid)).map(|deed| deed.time)
    }

    /// The last thing that happened to a guest before a time.
    pub fn guest_at(&self, vmid: u32, time: Timestamp) -> Option<&'a GuestEvent> {
        let events = self.guests.get(&vmid)?;
        events.iter().rev().find(|event| event.time <= time).copied()
    }
}

fn api_down_between(evidence: &Evidence, from: Timestamp, to: Timestamp) -> bool {
    let mut deeds = evidence.deeds.iter();
    deeds.any(|deed| deed.what == Did::ApiDown && from <= deed.time && deed.time <= to)
}

fn intent(evidence: &Evidence, vm: &Vm, journal: &[(Timestamp, Option<&Journal>)], at: Timestamp) -> Option<Intent> {
    let past = journal.partition_point(|(done, _)| *done <= at);
    if let Some((_, Some(current))) = past.checked_sub(1).and_then(|last| journal.get(last)) {
        // The first write of this very intent: later ones tell of its progress.
        let mut writes = journal.iter().take(past);
        let first = writes.find(|(_, entry)| entry.is_some_and(|entry| entry == *current));
        return Some(Intent {
            name: current.name.clone(),
            time: current.intent_time,
            written: first.map(|(done, _)| *done),
        });
    }
    let fits = |time: Timestamp| before(at, INTENT_TO_POST) <= time && time <= at;
    let later = journal.iter().skip(past).filter_map(|(_, entry)| *entry);
    let later = later.map(|entry| (entry.name.clone(), entry.intent_time));
    let recorded = evidence.end.resets.iter().filter(|reset| reset.vm == vm.name);
    let recorded = recorded.filter_map(|reset| Some((reset.name.clone(), reset.intent_time?)));
    later
        .chain(recorded)
        .find(|(_, time)| fits(*time) && api_down_between(evidence, before(*time, 1.0), at))
        .map(|(name, time)| Intent { name, time, written: None })
}
