//! One agent: when it reports, and what it makes of the answers. The same as parts 3 and 4 of `agents/linux-agent.sh`.

use crate::http::{self, Answer, Connection};
use crate::{AgentSpec, Boot, Connections, Shared, report};
use defib::heartbeat::receiver::PATH;
use jiff::Timestamp;
use serde::Deserialize;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

/// How long the agent waits for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a whole request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// The agent's first report needs two readings of the CPU, a second apart.
const CPU_WINDOW: Duration = Duration::from_secs(1);
/// Shortest and longest period that an agent lets itself be told, in seconds.
const PERIODS: (u64, u64) = (1, 3_600);

/// A report that Defib took.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// The VM.
    pub vmid: u32,
    /// The boot it told of.
    pub boot_id: Uuid,
    /// Before its first byte was sent: Defib cannot have received it earlier.
    pub sent: Timestamp,
    /// When the whole answer was there: Defib cannot have received it later.
    pub answered: Timestamp,
}

/// What came of a report.
enum Outcome {
    /// Taken; the period that Defib asks for.
    Accepted(Option<u64>),
    /// The same again would be refused again.
    Rejected,
    /// Come back later, perhaps after so many seconds.
    Busy(Option<u64>),
    /// Not delivered, or answered by something else than Defib.
    Failed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    accepted: u64,
    next_report_seconds: Option<u64>,
}

pub(crate) struct Agent {
    spec: AgentSpec,
    boots: watch::Receiver<Option<Boot>>,
    shared: Arc<Shared>,
    connection: Option<Connection>,
    process: Process,
}

/// What the process of an agent knows; a new boot is a new process.
struct Process {
    boot: Option<Uuid>,
    period: Duration,
    failures: u32,
    accepted_before: bool,
    next: Instant,
}

impl Agent {
    pub(crate) fn new(spec: AgentSpec, boots: watch::Receiver<Option<Boot>>, shared: Arc<Shared>) -> Self {
        let process = Process {
            boot: None,
            period: shared.options.period,
            failures: 0,
            accepted_before: false,
            next: Instant::now(),
        };
        Self {
            spec,
            boots,
            shared,
            connection: None,
            process,
        }
    }

    /// Reports until the swarm is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let Ok(boot) = self.boots.wait_for(Option::is_some).await.map(|boot| *boot) else {
                return;
            };
            let Some(boot) = boot else { continue };
            if self.process.boot != Some(boot.id) {
                self.begin(&boot);
            }
            // Up: a report whenever one is due, until something happens to the guest.
            loop {
                tokio::select! {
                    biased;
                    changed = self.boots.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    () = sleep_until(self.process.next) => self.report(&boot).await,
                }
            }
        }
    }

    /// A new boot: nothing of the old process is left.
    fn begin(&mut self, boot: &Boot) {
        let first = self.process.boot.is_none();
        let wait = if first {
            random(Duration::ZERO, self.shared.options.spread)
        } else {
            CPU_WINDOW
        };
        self.connection = None;
        self.process = Process {
            boot: Some(boot.id),
            period: self.shared.options.period,
            failures: 0,
            accepted_before: false,
            next: Instant::now() + wait,
        };
    }

    async fn report(&mut self, boot: &Boot) {
        let tally = &self.shared.tally;
        tally.sent();
        let text = report::compact(&self.spec, boot, "Running");
        let request = http::post(self.shared.options.target, PATH, &self.spec.key, &text);
        drop(text);
        let sent = Timestamp::now();
        let began = Instant::now();
        let outcome = match self.deliver(&request).await {
            Some(answer) => {
                self.shared.tally.answered(began.elapsed());
                self.judge(&answer)
            }
            None => Outcome::Failed,
        };
        if let Outcome::Accepted(_) = outcome {
            self.shared.heard(self.spec.vmid);
            if let Some(tell) = &self.shared.options.on_accepted {
                tell(&Accepted {
                    vmid: self.spec.vmid,
                    boot_id: boot.id,
                    sent,
                    answered: Timestamp::now(),
                });
            }
        }
        let delay = self.process.delay(&outcome);
        self.process.next = Instant::now() + delay;
    }

    /// One request, within its time. A kept connection may have been closed by the server meanwhile: that is no failure, and the request is sent on a new one.
    async fn deliver(&mut self, request: &[u8]) -> Option<Answer> {
        let deadline = Instant::now() + REQUEST;
        if let Some(mut kept) = self.connection.take()
            && let Ok(Ok(answer)) = tokio::time::timeout_at(deadline, kept.exchange(request)).await
        {
            self.keep(kept, &answer);
            return Some(answer);
        }
        let target = self.shared.options.target;
        let opened = timeout(CONNECT, Connection::open(target)).await;
        let Ok(mut connection) = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) else {
            self.shared.tally.connect_error();
            return None;
        };
        self.shared.tally.connected();
        match tokio::time::timeout_at(deadline, connection.exchange(request)).await {
            Ok(Ok(answer)) => {
                self.keep(connection, &answer);
                Some(answer)
            }
            _ => {
                self.shared.tally.broken();
                None
            }
        }
    }

    fn keep(&mut self, connection: Connection, answer: &Answer) {
        if self.spec.connections == Connections::KeepAlive && !answer.closes {
            self.connection = Some(connection);
        }
    }

    fn judge(&self, answer: &Answer) -> Outcome {
        let tally = &self.shared.tally;
        if (200..300).contains(&answer.status) {
            return match serde_json::from_slice::<Body>(&answer.body) {
                Ok(body) => {
                    tally.accepted(body.accepted > 0);
                    if body.accepted > 0 {
                        Outcome::Accepted(body.next_report_seconds)
                    } else {
                        Outcome::Failed
                    }
                }
                Err(_) => {
                    tally.broken();
                    Outcome::Failed
                }
            };
        }
        tally.refused(answer.status);
        match answer.status {
            429 | 503 => Outcome::Busy(answer.retry_after),
            408 | 500.. => Outcome::Failed,
            _ => Outcome::Rejected,
        }
    }
}

impl Process {
    /// How long until the next report.
    fn delay(&mut self, outcome: &Outcome) -> Duration {
        if let Outcome::Accepted(next) = outcome {
            if let Some(seconds) = next {
                self.period = Duration::from_secs((*seconds).clamp(PERIODS.0, PERIODS.1));
            }
            self.failures = 0;
            if !self.accepted_before {
                // VMs of one host start together. A random phase keeps them from reporting together.
                self.accepted_before = true;
                return random(Duration::from_secs(PERIODS.0), self.period);
            }
            return self.about_a_period();
        }
        self.failures = self.failures.saturating_add(1);
        match outcome {
            Outcome::Busy(Some(after)) if Duration::from_secs(*after) < self.period => {
                let after = Duration::from_secs((*after).max(1));
                random(after, after.mul_f64(1.1))
            }
            Outcome::Failed | Outcome::Busy(None) => {
                // 1, 2, 4 ... s, at most the period. Agents that lost their server together drift apart.
                let wait = Duration::from_secs(1 << (self.failures - 1).min(12));
                if wait < self.period {
                    random(wait.mul_f64(0.75), wait)
                } else {
                    self.about_a_period()
                }
            }
            _ => self.about_a_period(),
        }
    }

    fn about_a_period(&self) -> Duration {
        random(self.period.mul_f64(0.9), self.period.mul_f64(1.1))
    }
}

fn random(low: Duration, high: Duration) -> Duration {
    if high <= low {
        return low;
    }
    rand::random_range(low..=high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(period: u64) -> Process {
        Process {
            boot: None,
            period: Duration::from_secs(period),
            failures: 0,
            accepted_before: true,
            next: Instant::now(),
        }
    }

    fn between(delay: Duration, low: f64, high: f64) {
        assert!((low..=high).contains(&delay.as_secs_f64()), "{delay:?} is not {low} to {high} s");
    }

    #[test]
    fn what_failed_is_tried_again_after_1_2_and_4_s_and_never_later_than_the_period() {
        let mut p = process(5);
        for (low, high) in [(0.75, 1.0), (1.5, 2.0), (3.0, 4.0), (4.5, 5.5), (4.5, 5.5)] {
            between(p.delay(&Outcome::Failed), low, high);
        }
        between(p.delay(&Outcome::Accepted(None)), 4.5, 5.5);
        between(p.delay(&Outcome::Failed), 0.75, 1.0);
        for _ in 0..100 {
            between(p.delay(&Outcome::Failed), 0.75, 5.5);
        }
    }

    #[test]
    fn defib_tells_the_period_and_when_to_come_back() {
        let mut p = process(30);
        between(p.delay(&Outcome::Accepted(Some(10))), 9.0, 11.0);
        between(p.delay(&Outcome::Busy(Some(5))), 5.0, 5.5);
        between(p.delay(&Outcome::Busy(Some(20))), 9.0, 11.0);
        between(p.delay(&Outcome::Rejected), 9.0, 11.0);
        between(p.delay(&Outcome::Accepted(Some(0))), 0.9, 1.1);
    }

    #[test]
    fn the_first_report_that_is_taken_begins_a_random_phase() {
        let mut p = process(30);
        p.accepted_before = false;
        between(p.delay(&Outcome::Accepted(Some(60))), 1.0, 60.0);
        between(p.delay(&Outcome::Accepted(None)), 54.0, 66.0);
    }
}
