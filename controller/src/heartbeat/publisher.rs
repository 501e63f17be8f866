//! Writes the newest heartbeats of the ledger into the statuses of the ManagedVMs, within a budget (rule 9).
//!
//! A value is never lost: it stays in the ledger until it, or a newer one, has landed. It may be late: then the ledger knows better than the status.

pub(in crate::heartbeat) mod status;
mod writer;

pub use writer::{FIELD_MANAGER, KubeStatusWriter, StatusPatch, StatusWriter, WriteError};

use super::bucket::Bucket;
use super::ledger::{Ledger, Outcome, Patch, Queue};
use crate::clock::Clock;
use crate::jitter;
use crate::metrics::PublisherMetrics;
use defib_core::time::Mono;
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Urgent patches a second. A rack that boots is shown within seconds, and the API server still has room for the journal, which has no budget.
const URGENT_PER_SECOND: f64 = 100.0;
/// Calls at the same time. More would only queue up in the API server.
const MAX_CALLS: usize = 16;
/// Time-out of a call.
const CALL: Duration = Duration::from_secs(5);
/// Part of a second's budget that may be spent at once.
const BURST: f64 = 0.25;
/// First pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause, of all or of one VM: the status is behind by no more than this once the trouble is over.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that an API server is granted when it asks for one.
const LONGEST_WISH: Duration = Duration::from_secs(60);
/// How often the metrics are brought up to date.
const METRICS: Duration = Duration::from_secs(5);

/// The publisher. Make one per process and [`Publisher::run`] it.
pub struct Publisher<W> {
    ledger: Arc<Ledger>,
    writer: W,
    clock: Clock,
    metrics: PublisherMetrics,
    budgeted: bool,
}

impl<W: StatusWriter> Publisher<W> {
    /// A publisher of `ledger`, whose clock must be the one that the ledger is told the time by.
    pub fn new(ledger: Arc<Ledger>, writer: W, clock: Clock, metrics: PublisherMetrics) -> Self {
        Self {
            ledger,
            writer,
            clock,
            metrics,
            budgeted: true,
        }
    }

    /// Without its budget: to measure how fast it is.
    pub fn without_budget(self) -> Self {
        Self { budgeted: false, ..self }
    }

    /// Publishes until `token` is cancelled, then waits for the calls under way, each of which ends within 5 s.
    pub async fn run(self, token: CancellationToken) {
        let mut pace = Pace::new(self.now());
        let mut calls = FuturesUnordered::new();
        let mut metrics = tokio::time::interval(METRICS);
        metrics.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !token.is_cancelled() {
            let again = loop {
                match self.next(&mut pace, calls.len()) {
                    Next::Call(patch) => calls.push(self.call(patch)),
                    Next::Wait(until) => break until.unwrap_or(Mono(u64::MAX)),
                }
            };
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(ended) = calls.next() => self.end(&mut pace, ended),
                _ = metrics.tick() => self.measure(),
                () = self.ledger.dirtied() => {}
                () = sleep_until(self.clock.instant_of(again)) => {}
            }
        }
        while let Some(ended) = calls.next().await {
            self.end(&mut pace, ended);
        }
        self.measure();
    }

    /// What to do now: call, or wait for an event and at most until that time.
    fn next(&self, pace: &mut Pace, running: usize) -> Next {
        // After a failure one call finds out whether the API server is back.
        let room = if pace.failures > 0 { 1 } else { MAX_CALLS };
        if running >= room {
            return Next::Wait(None);
        }
        let now = self.now();
        if now < pace.pause_until {
            return Next::Wait(Some(pace.pause_until));
        }
        let backlog = self.ledger.backlog(now);
        let mut again = backlog.due;
        let queues = [
            (Queue::Urgent, backlog.urgent, &mut pace.urgent, URGENT_PER_SECOND),
            (
                Queue::Refresh,
                backlog.refresh,
                &mut pace.refresh,
                self.ledger.refreshes_per_second(),
            ),
        ];
        for (queue, waiting, budget, per_second) in queues {
            if waiting == 0 {
                continue;
            }
            let taken = if self.budgeted {
                budget.take(per_second, (per_second * BURST).max(1.0), now)
            } else {
                Ok(())
            };
            match taken {
                Ok(()) => {
                    if let Some(patch) = self.ledger.next_patch(queue) {
                        return Next::Call(patch);
                    }
                }
                Err(wait) => {
                    let then = now.plus(wait);
                    again = Some(again.map_or(then, |at| at.min(then)));
                }
            }
        }
        Next::Wait(again)
    }

    async fn call(&self, patch: Patch) -> Ended {
        let started = self.now();
        let status = StatusPatch {
            heartbeat: patch.heartbeat.clone(),
            usage: status::usage(&patch.report),
        };
        let result = timeout(CALL, self.writer.write(&patch.vm, &status))
            .await
            .map_err(|_| Failure::TimedOut)
            .and_then(|written| written.map_err(Failure::Write));
        Ended { patch, started, result }
    }

    fn end(&self, pace: &mut Pace, ended: Ended) {
        let Ended { patch, started, result } = ended;
        let now = self.now();
        let failures = self.ledger.failures(&patch.vm);
        // Every failure puts its VM off as well: one whose patch fails for ever must not stand in the way of the others.
        let put_off = now.plus(pause(failures));
        let (label, outcome) = match result {
            Ok(()) => {
                if std::mem::take(&mut pace.failures) > 0 {
                    tracing::info!("the Kubernetes API takes heartbeats again");
                }
                ("ok", Outcome::Published)
            }
            Err(Failure::Write(WriteError::Gone)) => ("gone", Outcome::Gone),
            Err(Failure::Write(error @ WriteError::Refused(_))) => {
                if failures == 0 {
                    tracing::warn!(vm = %patch.vm, %error, "a heartbeat was not published; it is tried again");
                }
                ("refused", Outcome::PutOff(put_off))
            }
            Err(Failure::Write(WriteError::Overloaded { detail, retry_after })) => {
                pace.back_off(started, now, retry_after, &detail);
                ("overloaded", Outcome::PutOff(put_off))
            }
            Err(Failure::TimedOut) => {
                pace.back_off(started, now, None, "no answer in time");
                ("timeout", Outcome::PutOff(put_off))
            }
        };
        self.metrics.patches.with_label_values(&[label]).inc();
        self.ledger.published(&patch, outcome, now);
    }

    fn measure(&self) {
        let now = self.now();
        let backlog = self.ledger.backlog(now);
        let dirty = backlog.urgent + backlog.refresh + backlog.put_off + backlog.in_call;
        self.metrics.dirty.set(i64::try_from(dirty).unwrap_or(i64::MAX));
        self.metrics.lag.set(self.ledger.publishing_lag(now).as_secs_f64());
    }

    fn now(&self) -> Mono {
        self.clock.now().mono
    }
}

enum Next {
    Call(Patch),
    Wait(Option<Mono>),
}

struct Ended {
    patch: Patch,
    started: Mono,
    result: Result<(), Failure>,
}

enum Failure {
    TimedOut,
    Write(WriteError),
}

/// How fast the publisher may go.
struct Pace {
    urgent: Bucket,
    refresh: Bucket,
    /// Failures in a row that were not a single VM's.
    failures: u32,
    pause_until: Mono,
}

impl Pace {
    fn new(now: Mono) -> Self {
        Self {
            urgent: Bucket::new(URGENT_PER_SECOND * BURST, now),
            refresh: Bucket::new(1.0, now),
            failures: 0,
            pause_until: now,
        }
    }

    /// Pauses all calls. Those that were under way when the present pause began tell nothing new.
    fn back_off(&mut self, started: Mono, now: Mono, wish: Option<Duration>, detail: &str) {
        if started < self.pause_until {
            return;
        }
        if self.failures == 0 {
            tracing::warn!(error = detail, "the Kubernetes API does not take heartbeats; they wait in memory");
        }
        let wish = wish.unwrap_or_default().min(LONGEST_WISH);
        self.pause_until = now.plus(pause(self.failures).max(wish));
        self.failures = self.failures.saturating_add(1);
    }
}

/// The pause after this many failures before, with jitter so that replicas and VMs do not come back in step.
fn pause(failures: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
    jitter::up_to(doubled.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests;
