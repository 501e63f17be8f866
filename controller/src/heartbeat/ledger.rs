//! The newest heartbeat of each VM, in memory: the truth about who is alive (rule 9).
//!
//! One lock guards all of it. It is never held over an await, and under it nothing is done but moving a few values, so that tens of thousands of
//! reports a second pass. The size is bounded by the number of VMs that were made [`Ledger::known`].

mod publishing;

pub(super) use publishing::{Outcome, Patch, Queue};

use super::VmKey;
use super::bucket::Bucket;
use defib_api::HeartbeatStatus;
use defib_core::heartbeat::{Expectation, Heartbeat, Report, Taken, same_machine};
use defib_core::policy::built_in;
use defib_core::time::{Mono, Now, to_millis};
use jiff::Timestamp;
use publishing::{Publication, Queues};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use uuid::Uuid;

/// Reports that a VM may send at once: an agent that was started anew a few times, and the retries of a bad line.
const BURST: f64 = 20.0;
/// Reports that a VM may send each second, whatever its period.
const MIN_RATE: f64 = 1.0;
/// Reports that a VM may send in each of its periods: a lost answer is retried, a stop and a start report at once.
const PER_PERIOD: f64 = 4.0;

/// What the ledger must know of a ManagedVM before it takes its reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// `metadata.uid`. Another uid is another ManagedVM of the same name: what was known is forgotten.
    pub uid: Arc<str>,
    /// `spec.agent.keyGeneration`, or 1.
    pub key_generation: u32,
    /// `status.heartbeat`: what is published already, so that a restart of the controller does not publish it again.
    pub published: Option<HeartbeatStatus>,
}

/// Whether a right key opens a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It does.
    Admitted,
    /// There is no such ManagedVM.
    Unknown,
    /// The key's generation is neither the present nor the previous one. Taken down as contact.
    Retired,
    /// The VM has sent more than it may. It may send again after this time. Taken down as life.
    Limited(Duration),
}

/// The newest heartbeat of each VM.
#[derive(Debug, Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
    woken: Notify,
    dirtied: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Boxed: a table keeps up to half of its places free, and an entry is large.
    entries: HashMap<VmKey, Box<Entry>>,
    wakes: VecDeque<VmKey>,
    queues: Queues,
    /// How many armed VMs have each time-out.
    armed: BTreeMap<u32, usize>,
}

#[derive(Debug)]
struct Entry {
    uid: Arc<str>,
    key_generation: u32,
    heartbeat: Heartbeat,
    expectation: Expectation,
    bucket: Option<Bucket>,
    /// Greatest receive time that was given to a report.
    received: Option<Timestamp>,
    /// Whether it stands in `wakes`.
    woken: bool,
    publication: Publication,
}

impl Ledger {
    /// Lets a VM's reports in, or tells what changed about it.
    pub fn known(&self, vm: &VmKey, facts: Facts) {
        let mut inner = self.lock();
        if let Some(entry) = inner.entries.get_mut(vm)
            && entry.uid == facts.uid
        {
            entry.key_generation = facts.key_generation;
            return;
        }
        inner.remove(vm);
        let entry = Entry {
            uid: facts.uid,
            key_generation: facts.key_generation,
            heartbeat: Heartbeat::default(),
            expectation: Expectation::default(),
            bucket: None,
            received: None,
            woken: false,
            publication: Publication::new(facts.published),
        };
        inner.entries.insert(vm.clone(), Box::new(entry));
    }

    /// Forgets a VM that was deleted.
    pub fn forget(&self, vm: &VmKey) {
        self.lock().remove(vm);
    }

    /// The VMs that are known, in no order.
    pub fn vms(&self) -> Vec<VmKey> {
        self.lock().entries.keys().cloned().collect()
    }

    /// What is known of a VM's heartbeat. An unknown VM is like one that never reported.
    pub fn view(&self, vm: &VmKey) -> Heartbeat {
        self.lock().entries.get(vm).map(|e| e.heartbeat.clone()).unwrap_or_default()
    }

    /// The greatest `lastReceivedTime` that this process gave to a report of the VM, published or not. A greater one in the live object is of another process.
    pub fn newest_received(&self, vm: &VmKey) -> Option<Timestamp> {
        self.lock().entries.get(vm).and_then(|e| e.received)
    }

    /// Tells what the decider expects of a VM. When that makes the identity known and the reports so far turn out to be another machine's, they are given up;
    /// returns whether that happened.
    pub fn expect(&self, vm: &VmKey, expectation: Expectation) -> bool {
        let mut guard = self.lock();
        let Inner {
            entries, queues, armed, ..
        } = &mut *guard;
        let Some(entry) = entries.get_mut(vm) else {
            return false;
        };
        uncount(armed, &entry.expectation);
        if expectation.armed {
            *armed.entry(expectation.timeout_seconds).or_default() += 1;
        }
        let before = std::mem::replace(&mut entry.expectation, expectation);
        let given_up = match entry.expectation.identity {
            Some(identity) if before.identity != Some(identity) => entry.heartbeat.identify(identity),
            _ => false,
        };
        if given_up {
            entry.publication.give_up(vm, queues);
        }
        given_up
    }

    /// Whether a right key of this generation opens the VM now. Uses up one report of its rate.
    ///
    /// A report over the rate is life all the same (rule 3): it came with a right key, and only for its number nobody read on. Whoever holds a copy of a VM's
    /// key can so make it look alive, as by sending reports; other VMs it does not concern.
    pub fn admit(&self, vm: &VmKey, generation: u32, now: Mono) -> Admission {
        let mut guard = self.lock();
        let Inner { entries, wakes, .. } = &mut *guard;
        let Some(entry) = entries.get_mut(vm) else {
            return Admission::Unknown;
        };
        let present = entry.key_generation;
        if generation == 0 || (generation != present && generation.checked_add(1) != Some(present)) {
            drop(guard);
            self.contact(vm, now);
            return Admission::Retired;
        }
        let period = f64::from(entry.expectation.told_seconds());
        let rate = MIN_RATE.max(PER_PERIOD / period);
        match entry.bucket.get_or_insert_with(|| Bucket::new(BURST, now)).take(rate, BURST, now) {
            Ok(()) => Admission::Admitted,
            Err(wait) => {
                let wake = entry.heartbeat.limit(&entry.expectation, now) && entry.wake(vm, wakes);
                drop(guard);
                self.notify(wake, false);
                Admission::Limited(wait)
            }
        }
    }

    /// Takes a checked report that came with a key that was admitted. None when the VM is not known.
    pub fn on_report(&self, vm: &VmKey, report: Report, now: Now) -> Option<Taken> {
        let mut guard = self.lock();
        let Inner {
            entries, queues, wakes, ..
        } = &mut *guard;
        let entry = entries.get_mut(vm)?;
        let report = Arc::new(report);
        let previous = entry.heartbeat.report.as_ref().map(|(at, _)| *at);
        let strange_before = entry.heartbeat.wrong_machine.is_some();
        let taken = entry.heartbeat.take(report.clone(), &entry.expectation, now.mono);
        let (mut wake, mut dirty) = (false, false);
        match taken {
            Taken::Accepted { wake: news } => {
                let received = to_millis(now.wall);
                entry.received = entry.received.max(Some(received));
                let timeout = Duration::from_secs(u64::from(entry.expectation.timeout_seconds));
                let silent = !timeout.is_zero() && previous.is_some_and(|at| now.mono.since(at) >= timeout);
                dirty = entry.publication.take(vm, report, received, now.mono, silent, queues);
                wake = news;
            }
            Taken::WrongMachine => wake = !strange_before,
            Taken::Stale => {}
        }
        let wake = wake && entry.wake(vm, wakes);
        drop(guard);
        self.notify(wake, dirty);
        Some(taken)
    }

    /// Takes down a request with an admitted key whose body was refused: life, whatever it said (rule 3) - unless so much could be read of it that it came
    /// from another machine. Returns whether it was that, and none when the VM is not known.
    pub fn refuse(&self, vm: &VmKey, detail: Arc<str>, machine: Option<Uuid>, now: Mono) -> Option<bool> {
        let mut guard = self.lock();
        let Inner { entries, wakes, .. } = &mut *guard;
        let entry = entries.get_mut(vm)?;
        let stranger = machine.filter(|got| entry.expectation.identity.is_some_and(|own| !same_machine(own, *got)));
        let news = match stranger {
            Some(got) => entry.heartbeat.wrong_machine.replace((now, got)).is_none(),
            None => entry.heartbeat.refuse(detail, &entry.expectation, now),
        };
        let wake = news && entry.wake(vm, wakes);
        drop(guard);
        self.notify(wake, false);
        Some(stranger.is_some())
    }

    /// Takes down a request that named the VM with a wrong key. Does nothing when the VM is not known.
    pub fn contact(&self, vm: &VmKey, now: Mono) {
        let mut guard = self.lock();
        let Inner { entries, wakes, .. } = &mut *guard;
        let Some(entry) = entries.get_mut(vm) else {
            return;
        };
        let wake = entry.heartbeat.contact(now) && entry.wake(vm, wakes);
        drop(guard);
        self.notify(wake, false);
    }

    /// A reset caused this boot of the VM: it is none of a boot loop. Does nothing when the VM is not known.
    pub fn caused(&self, vm: &VmKey, boot_id: &str) {
        if let Some(entry) = self.lock().entries.get_mut(vm) {
            entry.heartbeat.boots.caused(boot_id);
        }
    }

    /// Wakes the decider for a VM, for a reason outside the ledger. Does nothing when the VM is not known.
    pub fn wake(&self, vm: &VmKey) {
        let mut guard = self.lock();
        let Inner { entries, wakes, .. } = &mut *guard;
        let wake = entries.get_mut(vm).is_some_and(|entry| entry.wake(vm, wakes));
        drop(guard);
        self.notify(wake, false);
    }

    /// Seconds after which the VM's agent should report again. It is what was taken down with its newest report, as its silence is measured by that.
    pub fn report_seconds(&self, vm: &VmKey) -> u32 {
        self.lock().entries.get(vm).map_or(built_in::REPORT_SECONDS, |e| e.told_seconds())
    }

    /// The next VM that the decider should look at. A VM that is woken several times before it is fetched comes once; none is lost. Safe to cancel.
    pub async fn next_wake(&self) -> VmKey {
        loop {
            let woken = self.woken.notified();
            if let Some(vm) = self.pop_wake() {
                return vm;
            }
            woken.await;
        }
    }

    fn pop_wake(&self) -> Option<VmKey> {
        let mut inner = self.lock();
        let vm = inner.wakes.pop_front()?;
        if let Some(entry) = inner.entries.get_mut(&vm) {
            entry.woken = false;
        }
        let more = !inner.wakes.is_empty();
        drop(inner);
        // A notification stands for the whole queue: pass it on to whoever waits beside us.
        self.notify(more, false);
        Some(vm)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that is done under the lock leaves it half done, so a panic elsewhere is no reason to go deaf.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self, woken: bool, dirty: bool) {
        if woken {
            self.woken.notify_one();
        }
        if dirty {
            self.dirtied.notify_one();
        }
    }
}

impl Inner {
    fn remove(&mut self, vm: &VmKey) {
        let Some(mut entry) = self.entries.remove(vm) else {
            return;
        };
        uncount(&mut self.armed, &entry.expectation);
        entry.publication.leave(vm, &mut self.queues);
        if entry.woken {
            self.wakes.retain(|woken| woken != vm);
        }
    }
}

impl Entry {
    fn told_seconds(&self) -> u32 {
        self.heartbeat.promised_seconds.unwrap_or_else(|| self.expectation.told_seconds())
    }

    /// Puts the VM among those to look at. Returns whether it was not there yet.
    fn wake(&mut self, vm: &VmKey, wakes: &mut VecDeque<VmKey>) -> bool {
        let first = !std::mem::replace(&mut self.woken, true);
        if first {
            wakes.push_back(vm.clone());
        }
        first
    }
}

fn uncount(armed: &mut BTreeMap<u32, usize>, expectation: &Expectation) {
    if expectation.armed
        && let Some(count) = armed.get_mut(&expectation.timeout_seconds)
    {
        *count = count.saturating_sub(1);
        if *count == 0 {
            armed.remove(&expectation.timeout_seconds);
        }
    }
}

#[cfg(test)]
mod tests;
