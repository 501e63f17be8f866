//! Prometheus metrics. Each is registered once, at the start, with all its labels, so that a rate over it begins at zero and not at nothing.

mod decider;

pub use decider::DeciderMetrics;

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// All metrics of the controller.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Metrics of the receiver of reports.
    pub reports: ReportMetrics,
    /// Metrics of the publisher of statuses.
    pub publisher: PublisherMetrics,
    /// Metrics of the decider.
    pub decider: DeciderMetrics,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When one of them is registered in `registry` already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            reports: ReportMetrics::register(registry)?,
            publisher: PublisherMetrics::register(registry)?,
            decider: DeciderMetrics::register(registry)?,
        })
    }
}

/// Metrics of the receiver of reports.
#[derive(Clone, Debug)]
pub struct ReportMetrics {
    /// Reports by `result`: see [`ReportMetrics::RESULTS`]. An array counts each of its items.
    pub total: IntCounterVec,
    /// Refused reports and requests by `reason`: see [`crate::heartbeat::receiver::Rejection`].
    pub rejections: IntCounterVec,
    /// Requests that are being read or answered.
    pub in_flight: IntGauge,
    /// Time from the end of a request's head to its answer.
    pub duration: Histogram,
}

impl ReportMetrics {
    /// Values of the label `result`.
    pub const RESULTS: [&'static str; 4] = ["accepted", "stale", "rejected", "canary"];

    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let total = counters(
            registry,
            "defib_reports_total",
            "Reports of agents, by what became of them.",
            "result",
            &Self::RESULTS,
        )?;
        let rejections = counters(
            registry,
            "defib_report_rejections_total",
            "Refused reports and requests, by reason.",
            "reason",
            &crate::heartbeat::receiver::Rejection::REASONS,
        )?;
        let in_flight = IntGauge::new(
            "defib_report_requests_in_flight",
            "Requests with reports that are being read or answered.",
        )?;
        registry.register(Box::new(in_flight.clone()))?;
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "defib_report_request_duration_seconds",
                "Time from the head of a request with reports to its answer.",
            )
            // From a report that lies in memory already to one that is cut off at the deadline of the body.
            .buckets(vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0]),
        )?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self {
            total,
            rejections,
            in_flight,
            duration,
        })
    }
}

/// Metrics of the publisher of statuses.
#[derive(Clone, Debug)]
pub struct PublisherMetrics {
    /// Patches by `result`: see [`PublisherMetrics::RESULTS`].
    pub patches: IntCounterVec,
    /// VMs with a heartbeat that is newer than what was published.
    pub dirty: IntGauge,
    /// How far the published state is behind memory: see its help text.
    pub lag: Gauge,
}

impl PublisherMetrics {
    /// Values of the label `result`.
    pub const RESULTS: [&'static str; 5] = ["ok", "gone", "overloaded", "timeout", "refused"];

    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let patches = counters(
            registry,
            "defib_publisher_patches_total",
            "Patches of ManagedVM statuses with heartbeats, by result.",
            "result",
            &Self::RESULTS,
        )?;
        let dirty = IntGauge::new("defib_publisher_dirty_vms", "VMs with a heartbeat that is not in their status yet.")?;
        registry.register(Box::new(dirty.clone()))?;
        let lag = Gauge::new(
            "defib_publisher_lag_seconds",
            "Age of the oldest published heartbeat among those VMs that have a newer one in memory; 0 when everything is published.",
        )?;
        registry.register(Box::new(lag.clone()))?;
        Ok(Self { patches, dirty, lag })
    }
}

/// Counters with one label whose values are all known.
fn counters(registry: &Registry, name: &str, help: &str, label: &str, values: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    for value in values {
        let _: IntCounter = counters.get_metric_with_label_values(&[value])?;
    }
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}
