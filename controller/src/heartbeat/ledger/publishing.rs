//! What is not published yet, and in which order it should be.
//!
//! Each VM stands in one place at a time: nothing to do, waiting for a refresh, urgent, put off after a failure, or in a call. Only the newest report is kept,
//! and it is looked up when the call is made: whatever happens before, an older value cannot land after it.

use super::{Inner, Ledger};
use crate::heartbeat::VmKey;
use crate::heartbeat::publisher::status;
use defib_api::HeartbeatStatus;
use defib_core::heartbeat::Report;
use defib_core::time::Mono;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Refreshes a second that any API server takes: with the built-in report period of 30 s, every heartbeat of 600 VMs.
const MIN_REFRESHES: f64 = 20.0;

/// Two queues with a budget each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::heartbeat) enum Queue {
    /// What people and other parts wait for: a new boot, the first report, a goodbye, the end of a silence.
    Urgent,
    /// Mere beats, the least recently published VM first.
    Refresh,
}

/// The newest report of a VM, to be published.
#[derive(Clone, Debug)]
pub(in crate::heartbeat) struct Patch {
    pub(in crate::heartbeat) vm: VmKey,
    pub(in crate::heartbeat) report: Arc<Report>,
    pub(in crate::heartbeat) heartbeat: HeartbeatStatus,
    uid: Arc<str>,
    version: u64,
    dirty_since: Mono,
}

/// What became of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::heartbeat) enum Outcome {
    /// It landed.
    Published,
    /// There is no such ManagedVM any more.
    Gone,
    /// It failed, and this VM is to be tried again at that time.
    PutOff(Mono),
}

/// How many VMs wait, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::heartbeat) struct Backlog {
    pub(in crate::heartbeat) urgent: usize,
    pub(in crate::heartbeat) refresh: usize,
    pub(in crate::heartbeat) put_off: usize,
    pub(in crate::heartbeat) in_call: usize,
    /// When the first VM that was put off is due.
    pub(in crate::heartbeat) due: Option<Mono>,
}

type Waiting = BTreeSet<(Mono, VmKey)>;

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// By the time since when it is urgent.
    urgent: Waiting,
    /// By the time of the last publication.
    refresh: Waiting,
    /// By the time when it is due.
    put_off: Waiting,
    in_call: usize,
}

/// Where a VM stands. The moment is its key in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Clean,
    Urgent(Mono),
    Refresh(Mono),
    PutOff(Mono),
    InCall,
}

#[derive(Debug)]
struct Newest {
    report: Arc<Report>,
    received: Timestamp,
    boot_time: Option<Timestamp>,
    version: u64,
}

#[derive(Debug)]
pub(super) struct Publication {
    newest: Option<Newest>,
    /// Counts the reports, so that the end of a call can tell whether a newer one came meanwhile.
    versions: u64,
    /// What the API server has, as far as we know.
    published: Option<HeartbeatStatus>,
    /// When it was published by us; zero for never, so that it is first in line.
    published_at: Mono,
    /// When the oldest report arrived that is not published in any form.
    dirty_since: Option<Mono>,
    place: Place,
    failures: u32,
}

impl Publication {
    pub(super) fn new(published: Option<HeartbeatStatus>) -> Self {
        Self {
            newest: None,
            versions: 0,
            published,
            published_at: Mono::default(),
            dirty_since: None,
            place: Place::Clean,
            failures: 0,
        }
    }

    /// Takes an accepted report. Returns whether the VM has entered a queue or come nearer to its head.
    pub(super) fn take(
        &mut self,
        vm: &VmKey,
        report: Arc<Report>,
        received: Timestamp,
        now: Mono,
        was_silent: bool,
        queues: &mut Queues,
    ) -> bool {
        let boot_time = self.boot_time(&report, received);
        self.versions += 1;
        let urgent = was_silent || self.is_news(&report);
        self.newest = Some(Newest {
            report,
            received,
            boot_time,
            version: self.versions,
        });
        self.dirty_since.get_or_insert(now);
        match self.place {
            Place::Clean | Place::Refresh(_) if urgent => self.stand(Place::Urgent(now), vm, queues),
            Place::Clean => self.stand(Place::Refresh(self.published_at), vm, queues),
            Place::Refresh(_) | Place::Urgent(_) | Place::PutOff(_) | Place::InCall => return false,
        }
        true
    }

    /// Drops what was not published yet: it was not this VM's.
    pub(super) fn give_up(&mut self, vm: &VmKey, queues: &mut Queues) {
        self.newest = None;
        self.dirty_since = None;
        if self.place != Place::InCall {
            self.stand(Place::Clean, vm, queues);
        }
    }

    /// Leaves the queues, as the VM is forgotten.
    pub(super) fn leave(&mut self, vm: &VmKey, queues: &mut Queues) {
        self.stand(Place::Clean, vm, queues);
    }

    /// Whether somebody waits for it. Compared with what is published, so that a beat after a restart of the controller is a mere beat.
    fn is_news(&self, report: &Report) -> bool {
        self.published
            .as_ref()
            .is_none_or(|known| known.boot_id.as_deref() != Some(&*report.boot_id) || known.state != Some(report.state))
    }

    /// When the guest booted. The difference of two clocks flickers by what the network took; a stored time that is near enough is kept.
    fn boot_time(&self, report: &Report, received: Timestamp) -> Option<Timestamp> {
        let computed = status::boot_time(report, received);
        let newest = self
            .newest
            .as_ref()
            .filter(|n| n.report.boot_id == report.boot_id)
            .and_then(|n| n.boot_time);
        let published = || {
            let same = self.published.as_ref().filter(|p| p.boot_id.as_deref() == Some(&*report.boot_id));
            same.and_then(|p| p.boot_time)
        };
        status::steady_boot_time(newest.or_else(published), computed)
    }

    fn stand(&mut self, place: Place, vm: &VmKey, queues: &mut Queues) {
        match std::mem::replace(&mut self.place, place) {
            Place::Urgent(at) => drop(queues.urgent.remove(&(at, vm.clone()))),
            Place::Refresh(at) => drop(queues.refresh.remove(&(at, vm.clone()))),
            Place::PutOff(at) => drop(queues.put_off.remove(&(at, vm.clone()))),
            Place::InCall => queues.in_call = queues.in_call.saturating_sub(1),
            Place::Clean => {}
        }
        match place {
            Place::Urgent(at) => drop(queues.urgent.insert((at, vm.clone()))),
            Place::Refresh(at) => drop(queues.refresh.insert((at, vm.clone()))),
            Place::PutOff(at) => drop(queues.put_off.insert((at, vm.clone()))),
            Place::InCall => queues.in_call += 1,
            Place::Clean => {}
        }
    }

    /// Stands where its newest report belongs. Whose last call failed goes to the end of the line: if its call fails again, or hangs, others were first.
    fn queue(&mut self, vm: &VmKey, now: Mono, queues: &mut Queues) {
        let failed = self.failures > 0;
        let place = match &self.newest {
            None => Place::Clean,
            Some(newest) if self.is_news(&newest.report) => Place::Urgent(if failed { now } else { self.dirty_since.unwrap_or(now) }),
            Some(_) => Place::Refresh(if failed { now } else { self.published_at }),
        };
        self.stand(place, vm, queues);
    }
}

impl Ledger {
    /// Until a VM may have entered a queue. Safe to cancel.
    pub(in crate::heartbeat) async fn dirtied(&self) {
        self.dirtied.notified().await;
    }

    /// Refreshes a second that are due to the fleet: every armed VM twice within the shortest time-out, and never less than what costs nothing.
    pub(in crate::heartbeat) fn refreshes_per_second(&self) -> f64 {
        let inner = self.lock();
        let armed: usize = inner.armed.values().sum();
        let shortest = inner.armed.keys().find(|timeout| **timeout > 0);
        shortest.map_or(MIN_REFRESHES, |t| MIN_REFRESHES.max(armed as f64 / (f64::from(*t) / 2.0)))
    }

    /// Who waits at `now`. VMs whose delay is over go back to their queue.
    pub(in crate::heartbeat) fn backlog(&self, now: Mono) -> Backlog {
        let mut guard = self.lock();
        let Inner { entries, queues, .. } = &mut *guard;
        while let Some((_, vm)) = queues.put_off.first().filter(|(due, _)| *due <= now).cloned() {
            match entries.get_mut(&vm) {
                Some(entry) => entry.publication.queue(&vm, now, queues),
                None => drop(queues.put_off.pop_first()),
            }
        }
        Backlog {
            urgent: queues.urgent.len(),
            refresh: queues.refresh.len(),
            put_off: queues.put_off.len(),
            in_call: queues.in_call,
            due: queues.put_off.first().map(|(due, _)| *due),
        }
    }

    /// The first VM of a queue, with its newest report. It must be given back with [`Ledger::published`].
    pub(in crate::heartbeat) fn next_patch(&self, queue: Queue) -> Option<Patch> {
        let mut guard = self.lock();
        let Inner { entries, queues, .. } = &mut *guard;
        loop {
            let waiting = match queue {
                Queue::Urgent => &mut queues.urgent,
                Queue::Refresh => &mut queues.refresh,
            };
            let (at, vm) = waiting.first().cloned()?;
            let Some(entry) = entries.get_mut(&vm) else {
                waiting.remove(&(at, vm));
                continue;
            };
            let told = entry.told_seconds();
            let publication = &mut entry.publication;
            publication.stand(Place::InCall, &vm, queues);
            let Some(newest) = &publication.newest else {
                publication.stand(Place::Clean, &vm, queues);
                continue;
            };
            return Some(Patch {
                report: newest.report.clone(),
                heartbeat: status::heartbeat(&newest.report, newest.received, newest.boot_time, told),
                uid: entry.uid.clone(),
                version: newest.version,
                dirty_since: publication.dirty_since.take().unwrap_or(at),
                vm,
            });
        }
    }

    /// Takes back a patch with what became of it.
    pub(in crate::heartbeat) fn published(&self, patch: &Patch, outcome: Outcome, now: Mono) {
        let mut guard = self.lock();
        let Inner { entries, queues, .. } = &mut *guard;
        let Some(entry) = entries.get_mut(&patch.vm).filter(|e| e.uid == patch.uid) else {
            return;
        };
        let publication = &mut entry.publication;
        let newer = publication.newest.as_ref().is_some_and(|n| n.version > patch.version);
        match outcome {
            Outcome::Published => {
                publication.published = Some(patch.heartbeat.clone());
                publication.published_at = now;
                publication.failures = 0;
                if newer {
                    publication.queue(&patch.vm, now, queues);
                } else {
                    publication.stand(Place::Clean, &patch.vm, queues);
                }
            }
            Outcome::Gone => {
                // The decider hears of the deletion by its watch, and then forgets the VM.
                publication.dirty_since = None;
                publication.stand(Place::Clean, &patch.vm, queues);
            }
            // Given up meanwhile.
            Outcome::PutOff(_) if publication.newest.is_none() => {
                publication.stand(Place::Clean, &patch.vm, queues);
            }
            Outcome::PutOff(due) => {
                publication.dirty_since = Some(patch.dirty_since);
                publication.failures = publication.failures.saturating_add(1);
                publication.stand(Place::PutOff(due), &patch.vm, queues);
            }
        }
    }

    /// How often in a row the VM's own patches have failed.
    pub(in crate::heartbeat) fn failures(&self, vm: &VmKey) -> u32 {
        self.lock().entries.get(vm).map_or(0, |e| e.publication.failures)
    }

    /// How long the oldest report has been waiting that is not published in any form; zero when there is none.
    pub(in crate::heartbeat) fn publishing_lag(&self, now: Mono) -> Duration {
        let inner = self.lock();
        let oldest = inner.entries.values().filter_map(|e| e.publication.dirty_since).min();
        oldest.map_or(Duration::ZERO, |since| now.since(since))
    }
}
