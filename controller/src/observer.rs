//! This process as a witness (rule 1): its tick, its report to its own listener, and what others tell it went wrong.

use crate::clock::Clock;
use crate::metrics::Metrics;
use defib_core::lease;
use defib_core::observer::{Observer, ObserverView, TICK, Trouble};
use defib_core::time::Mono;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// A report to our own listener that takes longer is as good as lost: agents wait about as long.
const LOOPBACK_DEADLINE: Duration = Duration::from_secs(2);
/// Period of the reports to our own listener.
const LOOPBACK_EVERY: Duration = Duration::from_secs(2);
/// Shed reports are logged at most this often.
const SHED_TOLD_EVERY: Duration = Duration::from_secs(10);
/// A process that becomes the decider proves its listener this soon.
const LOOPBACK_SOON: Duration = Duration::from_millis(100);

/// The witness, shared by all who see trouble and all who decide.
#[derive(Clone)]
pub struct Witness {
    inner: Arc<Mutex<Inner>>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

struct Inner {
    observer: Observer,
    renewal_started: Option<Mono>,
    /// When a shed report was logged last.
    shed_told: Option<Mono>,
}

impl Witness {
    /// A process that starts.
    pub fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            observer: Observer::new(clock.now()),
            renewal_started: None,
            shed_told: None,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            clock,
            metrics,
        }
    }

    /// How it stands now.
    pub fn view(&self) -> ObserverView {
        let now = self.clock.now();
        self.lock().observer.view(now)
    }

    /// Whether this process is the decider at this moment.
    pub fn holds_lease(&self) -> bool {
        let now = self.clock.now().mono;
        lease::held(self.lock().renewal_started, now)
    }

    /// The lease was renewed by a request that was started at `started`.
    pub fn lease_renewed(&self, started: Mono) {
        let mut inner = self.lock();
        inner.renewal_started = Some(started);
        let now = self.clock.now().mono;
        if inner.observer.end(Trouble::LeaseNotHeld, now) {
            tracing::info!("lease held: this process decides");
        }
    }

    /// The lease is lost, or given back.
    pub fn lease_lost(&self) {
        self.lock().renewal_started = None;
        self.begin(Trouble::LeaseNotHeld);
    }

    /// A write of journal, condition or lease was taken by the API server, or not.
    pub fn wrote(&self, ok: bool) {
        let now = self.clock.now().mono;
        let mut inner = self.lock();
        let before = inner.observer.view(self.clock.now()).trouble;
        inner.observer.wrote(ok, now);
        let after = inner.observer.view(self.clock.now()).trouble;
        drop(inner);
        if before != after && after == Some(Trouble::WritesFailing) {
            self.tell(Trouble::WritesFailing);
        }
    }

    /// A report of an agent was turned away.
    pub fn shed(&self, why: &'static str) {
        let now = self.clock.now().mono;
        let mut inner = self.lock();
        inner.observer.moment(Trouble::Shed, now);
        // Anyone can have requests turned away while we do not serve: a line each would be in his hands. The metric counts them all.
        let tell = inner.shed_told.is_none_or(|told| now.since(told) >= SHED_TOLD_EVERY);
        if tell {
            inner.shed_told = Some(now);
        }
        drop(inner);
        if tell {
            tracing::warn!(why, "reports are shed: all silence is counted anew");
        }
        self.metrics.observer_trouble(Trouble::Shed.reason());
    }

    fn begin(&self, trouble: Trouble) {
        let now = self.clock.now().mono;
        if self.lock().observer.begin(trouble, now) {
            self.tell(trouble);
        }
    }

    fn end(&self, trouble: Trouble) {
        let now = self.clock.now().mono;
        if self.lock().observer.end(trouble, now) {
            tracing::info!(trouble = trouble.reason(), "over: silence is counted from now");
        }
    }

    fn tell(&self, trouble: Trouble) {
        tracing::warn!(trouble = trouble.reason(), "{}: silence is not counted", trouble.message());
        self.metrics.observer_trouble(trouble.reason());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held leaves plain values behind, valid at each step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ticks once a second until `stop`.
    pub async fn tick(self, stop: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = self.clock.now();
            let (found, lost) = {
                let mut inner = self.lock();
                let found = inner.observer.tick(now);
                let lost = inner.renewal_started.is_some() && !lease::held(inner.renewal_started, now.mono);
                (found, lost)
            };
            if let Some(trouble) = found {
                self.tell(trouble);
            }
            if lost {
                self.lease_lost();
            }
        }
    }

    /// Sends a report to our own listener every two seconds until `stop`, the whole way that an agent's goes. `Ok(false)`: there was nothing to prove yet.
    pub async fn loopback<F, Fut>(self, report: F, stop: CancellationToken)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<bool, String>>,
    {
        let mut ticks = interval(LOOPBACK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match timeout(LOOPBACK_DEADLINE, report()).await {
                Ok(Ok(true)) => self.end(Trouble::Loopback),
                Ok(Ok(false)) => ticks.reset_after(LOOPBACK_SOON),
                Ok(Err(error)) => {
                    tracing::warn!(error, "the report to our own listener failed");
                    self.begin(Trouble::Loopback);
                }
                Err(_) => {
                    tracing::warn!("the report to our own listener took over 2 s");
                    self.begin(Trouble::Loopback);
                }
            }
        }
    }
}
