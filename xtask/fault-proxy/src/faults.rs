//! The rules in force and the record of what passed, shared by all proxies of a test.

use crate::request::{Exchange, Request};
use crate::rule::{Act, Moment, Rule, RuleId};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// Most requests that are remembered. A test that sends more is no story any more, and keeps the newest.
const REMEMBERED: usize = 100_000;

/// What watches do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watches {
    /// Nothing of them gets through.
    pub(crate) held: bool,
    /// Grows with each cut: a watch that began before it ends.
    pub(crate) cuts: u64,
}

/// The rules in force and the record of what passed.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    began: Instant,
    inner: Mutex<Inner>,
    released: watch::Sender<u64>,
    watches: watch::Sender<Watches>,
}

#[derive(Default)]
struct Inner {
    target: Option<u32>,
    rules: Vec<Armed>,
    record: Vec<Exchange>,
    arrived: u64,
}

struct Armed {
    rule: Rule,
    seen: u64,
    fired: u64,
    in_force: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(Shared {
            began: Instant::now(),
            inner: Mutex::default(),
            released: watch::Sender::new(0),
            watches: watch::Sender::new(Watches { held: false, cuts: 0 }),
        }))
    }
}

impl Faults {
    /// The process that [`Act::Kill`] and [`Act::Stop`] mean.
    pub fn target(&self, pid: u32) {
        self.lock().target = Some(pid);
    }

    /// Puts a rule in force. The first that is met by a request counts.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut inner = self.lock();
        inner.rules.push(Armed {
            rule,
            seen: 0,
            fired: 0,
            in_force: true,
        });
        RuleId(inner.rules.len() - 1)
    }

    /// Ends all rules, and lets go what they hold.
    pub fn clear(&self) {
        for armed in &mut self.lock().rules {
            armed.in_force = false;
        }
        self.release();
        self.hold_watches(false);
    }

    /// How often a rule was met.
    pub fn fired(&self, id: RuleId) -> u64 {
        self.lock().rules.get(id.0).map_or(0, |armed| armed.fired)
    }

    /// Lets go what [`Act::Hold`] and [`Act::StopAndHold`] hold now.
    pub fn release(&self) {
        self.0.released.send_modify(|count| *count += 1);
    }

    /// Ends all watches under way, as an API server does that shuts down.
    pub fn cut_watches(&self) {
        self.0.watches.send_modify(|watches| watches.cuts += 1);
    }

    /// Holds back what watches tell, as a network does that has lost its way without closing anything.
    pub fn hold_watches(&self, held: bool) {
        self.0.watches.send_modify(|watches| watches.held = held);
    }

    /// All requests so far, in the order of their arrival.
    pub fn record(&self) -> Vec<Exchange> {
        self.lock().record.clone()
    }

    /// Number of the newest request.
    pub fn newest(&self) -> u64 {
        self.lock().arrived
    }

    pub(crate) fn arrived(&self, request: &Request) -> u64 {
        let at = self.0.began.elapsed();
        let mut inner = self.lock();
        inner.arrived += 1;
        let number = inner.arrived;
        if inner.record.len() >= REMEMBERED {
            inner.record.drain(..REMEMBERED / 10);
        }
        inner.record.push(Exchange {
            number,
            at,
            request: request.clone(),
            forwarded: false,
            status: None,
            fault: None,
        });
        number
    }

    pub(crate) fn note(&self, number: u64, change: impl FnOnce(&mut Exchange)) {
        let mut inner = self.lock();
        if let Ok(index) = inner.record.binary_search_by_key(&number, |exchange| exchange.number)
            && let Some(exchange) = inner.record.get_mut(index)
        {
            change(exchange);
        }
    }

    /// What a rule wants for this request at this moment. Each call counts as one that was seen. Signals are sent here.
    pub(crate) fn decide(&self, moment: Moment, request: &Request) -> Option<Act> {
        let mut inner = self.lock();
        let mut found = None;
        for armed in inner.rules.iter_mut().filter(|armed| armed.in_force) {
            if armed.rule.moment != moment || !(armed.rule.matches)(request) {
                continue;
            }
            armed.seen += 1;
            if armed.seen > armed.rule.skip && armed.fired < armed.rule.times && found.is_none() {
                armed.fired += 1;
                found = Some(armed.rule.act);
            }
        }
        let signal = match found {
            Some(Act::Kill) => Some(Signal::KILL),
            Some(Act::Stop | Act::StopAndHold) => Some(Signal::STOP),
            _ => None,
        };
        if let Some((signal, pid)) = signal.zip(inner.target.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))) {
            // A target that has ended already is what was wanted.
            let _ = kill_process(pid, signal);
        }
        found
    }

    /// Waits for the next [`release`](Self::release).
    pub(crate) async fn released(&self) {
        let mut released = self.0.released.subscribe();
        // The sender lives as long as `self`.
        let _ = released.changed().await;
    }

    pub(crate) fn watches(&self) -> watch::Receiver<Watches> {
        self.0.watches.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A rule's own matcher may have panicked; the counts are still right.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
