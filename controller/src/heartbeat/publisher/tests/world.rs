//! A publisher at work, with an API server whose weather can be made.

use super::super::*;
use crate::heartbeat::{Facts, VmKey};
use crate::metrics::Metrics;
use defib_api::{AgentState, HeartbeatStatus};
use defib_core::heartbeat::Report;
use jiff::Timestamp;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// What the API server does with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Fine,
    Overloaded,
    Hanging,
    Refusing,
    Gone,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) vm: VmKey,
    pub(super) at: Instant,
    pub(super) boot_id: String,
    pub(super) received: Timestamp,
    pub(super) landed: bool,
}

pub(super) struct Api {
    pub(super) weather: Mutex<Weather>,
    /// VMs with weather of their own.
    pub(super) own: Mutex<HashMap<VmKey, Weather>>,
    pub(super) calls: Mutex<Vec<Call>>,
    pub(super) under_way: Mutex<(usize, usize)>,
    pub(super) latency: Duration,
}

impl StatusWriter for Arc<Api> {
    async fn write(&self, vm: &VmKey, patch: &StatusPatch) -> Result<(), WriteError> {
        {
            let mut under_way = self.under_way.lock().unwrap();
            under_way.0 += 1;
            under_way.1 = under_way.1.max(under_way.0);
        }
        let at = Instant::now();
        sleep(self.latency).await;
        let weather = self.own.lock().unwrap().get(vm).copied();
        let weather = weather.unwrap_or(*self.weather.lock().unwrap());
        self.under_way.lock().unwrap().0 -= 1;
        self.calls.lock().unwrap().push(Call {
            vm: vm.clone(),
            at,
            boot_id: patch.heartbeat.boot_id.clone().unwrap(),
            received: patch.heartbeat.last_received_time.unwrap(),
            landed: weather == Weather::Fine,
        });
        match weather {
            Weather::Fine => Ok(()),
            Weather::Overloaded => Err(WriteError::Overloaded {
                detail: "full".into(),
                retry_after: None,
            }),
            Weather::Hanging => std::future::pending().await,
            Weather::Refusing => Err(WriteError::Refused("no".into())),
            Weather::Gone => Err(WriteError::Gone),
        }
    }
}

/// A publisher at work, in virtual time.
pub(super) struct World {
    pub(super) ledger: Arc<Ledger>,
    pub(super) api: Arc<Api>,
    pub(super) clock: Clock,
    pub(super) metrics: PublisherMetrics,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<()>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_latency(Duration::from_millis(5))
    }

    pub(super) fn with_latency(latency: Duration) -> Self {
        let ledger = Arc::new(Ledger::default());
        let api = Arc::new(Api {
            weather: Mutex::new(Weather::Fine),
            own: Mutex::default(),
            calls: Mutex::default(),
            under_way: Mutex::default(),
            latency,
        });
        let clock = Clock::simulated(Timestamp::from_second(1_800_000_000).unwrap());
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap().publisher;
        let stop = CancellationToken::new();
        let publisher = Publisher::new(ledger.clone(), api.clone(), clock, metrics.clone());
        let task = tokio::spawn(publisher.run(stop.clone()));
        Self {
            ledger,
            api,
            clock,
            metrics,
            stop,
            task,
        }
    }

    pub(super) fn known(&self, vm: &VmKey, published: Option<HeartbeatStatus>) {
        let facts = Facts {
            uid: "u".into(),
            key_generation: 1,
            published,
        };
        self.ledger.known(vm, facts);
    }

    /// A fleet of which everything is published.
    pub(super) async fn settled(&self, vms: usize) -> Vec<VmKey> {
        let all: Vec<VmKey> = (0..vms).map(|i| VmKey::new("default", i.to_string())).collect();
        for vm in &all {
            self.known(vm, None);
            self.report(vm, "boot-1");
        }
        self.quiet().await;
        self.api.calls.lock().unwrap().clear();
        all
    }

    pub(super) fn report(&self, vm: &VmKey, boot: &str) {
        // The uptime goes on with the clock, as a guest's does.
        let uptime = self.clock.now().mono.0 as f64 / 1000.0;
        self.send(
            vm,
            Report {
                uptime_seconds: uptime,
                ..report(boot)
            },
        );
    }

    pub(super) fn send(&self, vm: &VmKey, report: Report) {
        self.ledger.on_report(vm, report, self.clock.now()).unwrap();
    }

    pub(super) fn backlog(&self) -> usize {
        let b = self.ledger.backlog(self.clock.now().mono);
        b.urgent + b.refresh + b.put_off + b.in_call
    }

    pub(super) async fn quiet(&self) {
        while self.backlog() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.api.calls.lock().unwrap().clone()
    }

    pub(super) fn weather(&self, weather: Weather) {
        *self.api.weather.lock().unwrap() = weather;
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(super) fn report(boot: &str) -> Report {
    Report {
        hostname: None,
        machine_uuid: Some(Uuid::from_u128(7)),
        cpu_percent: 5.4,
        memory_used_bytes: 1,
        memory_total_bytes: 3,
        disks: vec![],
        uptime_seconds: 1.0,
        boot_id: boot.into(),
        state: AgentState::Running,
        supervised: true,
        agent_version: None,
        sent_at_ms: None,
    }
}
