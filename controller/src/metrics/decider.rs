//! Metrics of the decider: what it did, what it could not do, and when it could not tell.

use super::counters;
use crate::reconcile::Error;
use defib_api::Outcome;
use defib_core::journal::Sent;
use defib_core::observer::Trouble;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Metrics of the decider.
#[derive(Clone, Debug)]
pub struct DeciderMetrics {
    sent: IntCounterVec,
    withdrawn: IntCounterVec,
    finished: IntCounterVec,
    failed: IntCounterVec,
    reconciles: IntCounter,
    trouble: IntCounterVec,
    public: IntCounterVec,
    guest_agents: IntGaugeVec,
    starts: IntCounterVec,
}

impl DeciderMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let sent = counters(
            registry,
            "defib_resets_sent_total",
            "Requests for a reset, by what became of the request.",
            "result",
            &["task", "not-delivered", "refused", "ambiguous"],
        )?;
        let finished = counters(
            registry,
            "defib_resets_finished_total",
            "Resets that ended, by outcome.",
            "outcome",
            &[
                "Recovered",
                "NotRecovered",
                "Failed",
                "Expired",
                "Superseded",
                "WouldReset",
                "Unknown",
            ],
        )?;
        // Reasons of these two come from several places (Proxmox among them), all of them constants; a reason appears when it first happens.
        let withdrawn = IntCounterVec::new(
            Opts::new(
                "defib_resets_withdrawn_total",
                "Intents that were taken back before anything happened to the VM, by reason.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(withdrawn.clone()))?;
        let failed = IntCounterVec::new(
            Opts::new("defib_reconcile_failures_total", "Reconciles that failed, by kind and reason."),
            &["kind", "reason"],
        )?;
        for kind in ["ManagedVM", "HealthPolicy", "ProxmoxCluster", "VMReset"] {
            for reason in Error::REASONS {
                failed.get_metric_with_label_values(&[kind, reason])?;
            }
        }
        registry.register(Box::new(failed.clone()))?;
        let trouble = counters(
            registry,
            "defib_observer_trouble_total",
            "Times at which Defib could not tell silence from its own deafness, by reason; all silence is then counted anew.",
            "reason",
            &Trouble::REASONS,
        )?;
        let public = counters(
            registry,
            "defib_public_url_reports_total",
            "Defib's own reports through --public-url, by whether they came back to it. None without that option.",
            "result",
            &["ok", "failed"],
        )?;
        let reconciles = IntCounter::new(
            "defib_vm_reconciles_total",
            "Looks of the decider at a VM. Far fewer than reports: a mere heartbeat wakes nobody.",
        )?;
        registry.register(Box::new(reconciles.clone()))?;
        let guest_agents = IntGaugeVec::new(
            Opts::new(
                "defib_guest_agents_known",
                "VMs whose QEMU guest agent has answered since Defib started: in a storm, only the silence of these proves a hang.",
            ),
            &["namespace", "cluster"],
        )?;
        registry.register(Box::new(guest_agents.clone()))?;
        let starts = counters(
            registry,
            "defib_starts_sent_total",
            "Requests to start a VM that a reset had stopped, or that is off with powerState Running, by what became of the request.",
            "result",
            &["task", "failed"],
        )?;
        Ok(Self {
            sent,
            withdrawn,
            finished,
            failed,
            reconciles,
            trouble,
            public,
            guest_agents,
            starts,
        })
    }
}

impl super::Metrics {
    /// A request for a reset was sent, or not.
    pub fn reset_sent(&self, sent: &Sent) {
        let result = match sent {
            Sent::Task { .. } => "task",
            Sent::NotDelivered { .. } => "not-delivered",
            Sent::Refused { .. } => "refused",
            Sent::Ambiguous { .. } => "ambiguous",
        };
        self.decider.sent.with_label_values(&[result]).inc();
    }

    /// Proxmox was asked to start a VM.
    pub fn start_sent(&self, taken: bool) {
        let result = if taken { "task" } else { "failed" };
        self.decider.starts.with_label_values(&[result]).inc();
    }

    /// An intent was taken back.
    pub fn reset_withdrawn(&self, reason: &'static str) {
        self.decider.withdrawn.with_label_values(&[reason]).inc();
    }

    /// A reset ended.
    pub fn reset_finished(&self, outcome: Outcome) {
        self.decider.finished.with_label_values(&[outcome.as_str()]).inc();
    }

    /// The decider looks at a VM.
    pub fn vm_reconciled(&self) {
        self.decider.reconciles.inc();
    }

    /// A reconcile failed.
    pub fn reconcile_failed(&self, kind: &'static str, reason: &'static str) {
        self.decider.failed.with_label_values(&[kind, reason]).inc();
    }

    /// The observer found trouble.
    pub fn observer_trouble(&self, reason: &'static str) {
        self.decider.trouble.with_label_values(&[reason]).inc();
    }

    /// A report of our own through the public URL came back, or did not.
    pub fn public_report(&self, came: bool) {
        let result = if came { "ok" } else { "failed" };
        self.decider.public.with_label_values(&[result]).inc();
    }

    /// So many VMs of a cluster have a guest agent that has answered.
    pub fn guest_agents_known(&self, namespace: &str, cluster: &str, known: usize) {
        let known = i64::try_from(known).unwrap_or(i64::MAX);
        self.decider.guest_agents.with_label_values(&[namespace, cluster]).set(known);
    }

    /// A cluster was deleted.
    pub fn forget_cluster(&self, namespace: &str, cluster: &str) {
        let _ = self.decider.guest_agents.remove_label_values(&[namespace, cluster]);
    }
}
