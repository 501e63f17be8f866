//! A receiver with everything around it.

use axum::Router;
use axum::body::Body;
use defib::clock::Clock;
use defib::heartbeat::keys::{KeyRing, Master};
use defib::heartbeat::receiver::{self, Limits, Parts};
use defib::heartbeat::{Facts, Ledger, Serving, ServingSink, VmKey};
use defib::metrics::Metrics;
use defib_core::heartbeat::{Expectation, Heartbeat};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt;
use prometheus::Registry;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tower::ServiceExt;

pub const MACHINE: &str = "00112233-4455-6677-8899-aabbccddeeff";

/// Remembers what was shed.
#[derive(Default)]
pub struct Shed(Mutex<Vec<&'static str>>);

impl ServingSink for Shed {
    fn shed(&self, reason: &'static str) {
        self.0.lock().unwrap().push(reason);
    }
}

impl Shed {
    /// What was shed since the last call.
    pub fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub struct World {
    pub router: Router,
    pub ledger: Arc<Ledger>,
    pub serving: Serving,
    pub shed: Arc<Shed>,
    pub keys: watch::Sender<Arc<KeyRing>>,
    registry: Registry,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

impl Answer {
    /// Status, reason of the problem's type, and field.
    pub fn problem(&self) -> (u16, &str, Option<&str>) {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{self:?}");
        assert_eq!(self.json["status"], self.status.as_u16());
        for text in ["title", "detail"] {
            assert!(self.json[text].as_str().is_some_and(|t| !t.is_empty()), "{self:?}");
        }
        let kind = self.json["type"].as_str().and_then(|t| t.strip_prefix("urn:defib:problem:"));
        (self.status.as_u16(), kind.unwrap_or("?"), self.json["field"].as_str())
    }
}

pub fn master(byte: u8) -> Master {
    Master::from_bytes(&[byte; Master::LEN]).unwrap()
}

pub fn vm(name: &str) -> VmKey {
    VmKey::new("default", name)
}

impl World {
    /// A receiver that serves, with the VMs `db` and `web`; `db` must come from [`MACHINE`].
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> Self {
        let ledger = Arc::new(Ledger::default());
        let registry = Registry::new();
        let (keys, keys_rx) = watch::channel(Arc::new(KeyRing::new(master(1), None)));
        let (serving, shed) = (Serving::default(), Arc::new(Shed::default()));
        serving.set(true);
        let parts = Parts {
            ledger: ledger.clone(),
            keys: keys_rx,
            serving: serving.clone(),
            sink: shed.clone(),
            metrics: Metrics::register(&registry).unwrap().reports,
            clock: Clock::new(),
        };
        let world = Self {
            router: receiver::router(parts, limits),
            ledger,
            serving,
            shed,
            keys,
            registry,
        };
        world.know("db", 1);
        world.know("web", 1);
        let expectation = Expectation {
            identity: Some(MACHINE.parse().unwrap()),
            report_seconds: 15,
            timeout_seconds: 60,
            ..Expectation::default()
        };
        world.ledger.expect(&vm("db"), expectation);
        let expectation = Expectation {
            report_seconds: 30,
            ..Expectation::default()
        };
        world.ledger.expect(&vm("web"), expectation);
        world
    }

    pub fn know(&self, name: &str, key_generation: u32) {
        let facts = Facts {
            uid: name.into(),
            key_generation,
            published: None,
        };
        self.ledger.known(&vm(name), facts);
    }

    pub fn key(&self, name: &str) -> String {
        self.keys.borrow().derive("default", name, 1)
    }

    pub fn seen(&self, name: &str) -> Heartbeat {
        self.ledger.view(&vm(name))
    }

    /// A counter with one label, or a gauge.
    pub fn metric(&self, name: &str, label: Option<&str>) -> f64 {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|f| f.name() == name)
            .unwrap_or_else(|| panic!("no metric {name}"));
        let labelled = |m: &&prometheus::proto::Metric| label.is_none_or(|l| m.get_label().iter().any(|p| p.value() == l));
        let metric = family.get_metric().iter().find(labelled);
        let metric = metric.unwrap_or_else(|| panic!("no {name} with {label:?}"));
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }

    pub fn rejections(&self, reason: &str) -> f64 {
        self.metric("defib_report_rejections_total", Some(reason))
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            json: serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("no JSON: {bytes:?}")),
        }
    }

    /// Posts JSON with this key, or none.
    pub async fn post(&self, key: Option<&str>, body: impl Into<Body>) -> Answer {
        self.send(request(key).body(body.into()).unwrap()).await
    }

    pub async fn report(&self, name: &str, body: &Value) -> Answer {
        self.post(Some(&self.key(name)), body.to_string()).await
    }
}

pub fn request(key: Option<&str>) -> http::request::Builder {
    let request = Request::post(receiver::PATH).header(header::CONTENT_TYPE, "application/json");
    match key {
        Some(key) => request.header(header::AUTHORIZATION, format!("Bearer {key}")),
        None => request,
    }
}

pub fn good(uptime: f64) -> Value {
    json!({
        "hostname": "db-1",
        "machineUUID": MACHINE,
        "cpuPercent": 12.5,
        "memoryUsedBytes": 3_000,
        "memoryTotalBytes": 8_000,
        "disks": [{"mount": "/", "usedBytes": 5, "totalBytes": 10}],
        "uptimeSeconds": uptime,
        "bootID": "9f3c1f0e-5a0f-4d44-9d0e-0c8c2cf1a111",
        "state": "Running",
        "supervised": true,
        "agentVersion": "1.2.3",
        "sentAt": "2026-01-02T03:04:05Z",
    })
}

pub fn with(report: Value, field: &str, value: Value) -> Value {
    let mut report = report;
    report[field] = value;
    report
}
