//! This process as a witness (rule 1): its tick, its report to its own listener, and what others tell it went wrong.

use crate::clock::Clock;
use crate::metrics::Metrics;
use defib_core::lease;
use defib_core::observer::{Observer, ObserverView, TICK, Trouble};
use defib_core::time::Mono;
use std::collections::VecDeque;
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

/// Period of the reports through the public URL, and how long one may take: see `FAILED_PUBLIC` in core. More often would fill the log of an ingress.
const PUBLIC_EVERY: Duration = Duration::from_secs(5);
const PUBLIC_DEADLINE: Duration = Duration::from_secs(4);
/// Of failures in a row the third is logged, then one a minute. The first ones only where it has worked before: for some seconds after a start, no Service leads to us.
const PUBLIC_TOLD_FIRST: u32 = 3;
const PUBLIC_TOLD_EVERY: u32 = 12;
/// Our own reports of which it is remembered that they arrived. Each is asked for within its deadline, in which few others arrive.
const ARRIVED: usize = 16;

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
    /// Ids of our own reports that have arrived, newest last.
    arrived: VecDeque<String>,
}

impl Witness {
    /// A process that starts.
    pub fn new(clock: Clock, metrics: Arc<Metrics>) -> Self {
        let inner = Inner {
            observer: Observer::new(clock.now()),
            renewal_started: None,
            shed_told: None,
            arrived: VecDeque::with_capacity(ARRIVED),
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
        if inner.observer.end(&Trouble::LeaseNotHeld, now) {
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
            self.tell(&Trouble::WritesFailing);
        }
    }

    /// A report of an agent was turned away.
    pub fn shed(&self, why: &'static str) {
        let now = self.clock.now().mono;
        let mut inner = self.lock();
        inner.observer.moment(&Trouble::Shed, now);
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

    /// A report of ours has arrived here.
    pub fn arrived(&self, id: &str) {
        let arrived = &mut self.lock().arrived;
        if arrived.len() >= ARRIVED {
            arrived.pop_front();
        }
        arrived.push_back(id.to_owned());
    }

    /// Whether our report of this id has arrived here.
    pub fn has_arrived(&self, id: &str) -> bool {
        self.lock().arrived.iter().any(|known| known == id)
    }

    fn begin(&self, trouble: Trouble) {
        let now = self.clock.now().mono;
        if self.lock().observer.begin(trouble.clone(), now) {
            self.tell(&trouble);
        }
    }

    fn end(&self, trouble: &Trouble) {
        let now = self.clock.now().mono;
        if self.lock().observer.end(trouble, now) {
            tracing::info!(trouble = trouble.reason(), "over: silence is counted from now");
        }
    }

    fn tell(&self, trouble: &Trouble) {
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
                self.tell(&trouble);
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
        let heard = |came: Result<(), String>| match came {
            Ok(()) => self.end(&Trouble::Loopback),
            Err(error) => {
                tracing::warn!(error, "the report to our own listener failed");
                self.begin(Trouble::Loopback);
            }
        };
        repeat(LOOPBACK_EVERY, LOOPBACK_DEADLINE, report, heard, stop).await;
    }

    /// Sends a report to ourselves through the public URL every five seconds until `stop`: the way that agents' reports come, with all that lies between.
    pub async fn public<F, Fut>(self, url: String, report: F, stop: CancellationToken)
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<bool, String>>,
    {
        let (mut failed, mut worked) = (0u32, false);
        let heard = |came: Result<(), String>| {
            self.metrics.public_report(came.is_ok());
            match &came {
                Ok(()) => {
                    if !worked {
                        tracing::info!(
                            url,
                            "our own report came through the public URL: while that fails from now on, silence is not counted"
                        );
                    }
                    (failed, worked) = (0, true);
                }
                Err(error) => {
                    failed = failed.saturating_add(1);
                    if (worked && failed < PUBLIC_TOLD_FIRST) || failed == PUBLIC_TOLD_FIRST || failed.is_multiple_of(PUBLIC_TOLD_EVERY) {
                        let meaning = if worked {
                            "it has worked before"
                        } else {
                            "it never worked yet, so nothing is held back"
                        };
                        tracing::warn!(url, error, failed, "our own report through the public URL failed; {meaning}");
                    }
                }
            }
            self.public_came(came.map_err(|error| format!("{url}: {error}").into()));
        };
        repeat(PUBLIC_EVERY, PUBLIC_DEADLINE, report, heard, stop).await;
    }

    fn public_came(&self, came: Result<(), Arc<str>>) {
        let now = self.clock.now().mono;
        if !self.lock().observer.public(came.clone(), now) {
            return;
        }
        match came {
            Ok(()) => tracing::info!("our own reports come through the public URL again: silence is counted from now"),
            Err(why) => self.tell(&Trouble::PublicUrl(why)),
        }
    }
}

/// Sends a report each period until `stop`, and tells what became of it. Where there was nothing to prove, the next one follows soon.
async fn repeat<F, Fut>(every: Duration, deadline: Duration, report: F, mut heard: impl FnMut(Result<(), String>), stop: CancellationToken)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<bool, String>>,
{
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let came = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            came = timeout(deadline, report()) => came,
        };
        match came {
            Ok(Ok(true)) => heard(Ok(())),
            Ok(Ok(false)) => ticks.reset_after(LOOPBACK_SOON),
            Ok(Err(error)) => heard(Err(error)),
            Err(_) => heard(Err(format!("no answer within {} s", deadline.as_secs()))),
        }
    }
}
