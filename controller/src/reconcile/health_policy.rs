//! HealthPolicy: its VMs are woken when it changes, and its status counts them.

use super::cache::{Guarded, key_of};
use super::context::{Context, Width};
use super::kube_api::{DECIDER, call, status_patch};
use super::managed_vm::{counts, policy_of};
use super::{Error, again};
use defib_api::{HealthPolicy, HealthPolicySpec, HealthPolicyStatus, Mode, ResetPolicy};
use defib_core::conditions::{Draft, Is, find, kind, merge};
use defib_core::fleet::budget;
use defib_core::policy::{PolicyProblem, limits, policy_problem, standing_pause};
use defib_core::storm::Sky;
use defib_core::window::Windows;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Api, Client, ResourceExt};
use std::sync::Arc;
use std::time::Duration;

/// How old the counts of a policy may become.
const REFRESH: Duration = Duration::from_secs(15);

/// Looks at one HealthPolicy.
///
/// # Errors
/// When its status could not be written.
pub async fn reconcile(object: Arc<Guarded<HealthPolicy>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let policy = match &object.0 {
        Ok(policy) => policy,
        Err(invalid) => return Err(Error::Malformed(invalid.error.clone())),
    };
    if !ctx.witness.holds_lease() {
        return Ok(again(Duration::from_secs(2)));
    }
    let key = key_of(policy);
    let now = ctx.clock.now();
    let spec = &policy.spec;
    let all = counts(&ctx);
    let count = all.policies.get(&(key.0.clone(), Some(key.1.clone()))).copied().unwrap_or_default();
    let managed = ctx
        .vms
        .state()
        .iter()
        .filter_map(|g| g.0.as_ref().ok())
        .filter(|vm| policy_of(vm) == key)
        .count();

    let windows = ctx.windows(Some(policy), now.wall);
    let problem = match &windows {
        Windows::Invalid { message } => Some(PolicyProblem::Invalid(message.clone())),
        Windows::Open { .. } | Windows::Closed { .. } => None,
    };
    let problem = policy_problem(&key.1, spec).or(problem);
    let limits = limits(spec);
    let pause = standing_pause(&spec.pauses, now.wall);
    let ready = match &problem {
        None => Draft::new(kind::READY, Is::True, "Valid", "the policy is valid"),
        Some(p) => Draft::new(kind::READY, Is::False, p.reason(), p.to_string()),
    };
    let blocked = budget(
        &defib_core::fleet::Fleet {
            policy: count,
            ..Default::default()
        },
        &limits,
        &ctx.limits,
    );
    let allowed = match (&problem, pause, &blocked) {
        _ if ctx.observe_only => Draft::new(
            kind::RESET_ALLOWED,
            Is::False,
            "ObserveOnly",
            "this Defib runs with --observe-only: it watches, and resets nothing on its own",
        ),
        (Some(p), _, _) => Draft::new(kind::RESET_ALLOWED, Is::False, p.reason(), p.to_string()),
        (None, Some(p), _) => Draft::new(
            kind::RESET_ALLOWED,
            Is::False,
            "Paused",
            format!("paused by {}: {}", p.owner, p.reason),
        ),
        (None, None, _) if let Windows::Open { schedule, closes } = &windows => Draft::new(
            kind::RESET_ALLOWED,
            Is::False,
            "MaintenanceWindow",
            format!("a maintenance window is open ({schedule}), until {closes}"),
        ),
        (None, None, Some(b)) => Draft::new(kind::RESET_ALLOWED, Is::False, b.reason, b.message.clone()),
        (None, None, None) => Draft::new(kind::RESET_ALLOWED, Is::True, "WithinBudget", "the budget leaves room for a reset"),
    };
    let sky = all.skies.get(&Width::Policy((key.0.clone(), Some(key.1.clone()))));
    let storm = storm(sky);
    let old = policy.status.clone().unwrap_or_default();
    let changed = find(&old.conditions, kind::STORM_ACTIVE).is_some_and(|c| c.status == "True") != (storm.is == Is::True);
    let room = if allowed.is == Is::True {
        limits.max_in_flight.saturating_sub(count.in_flight)
    } else {
        0
    };
    let status = HealthPolicyStatus {
        observed_generation: policy.metadata.generation,
        managed_vms: u32::try_from(managed).ok(),
        healthy_vms: Some(count.population.saturating_sub(count.unhealthy)),
        in_flight: Some(count.in_flight),
        resets_allowed: Some(room),
        conditions: merge(
            &old.conditions,
            &[ready, allowed, storm.clone()],
            policy.metadata.generation,
            now.wall,
        ),
    };
    if status != old {
        let policies: Api<HealthPolicy> = Api::namespaced(ctx.client.clone(), &key.0);
        let body = status_patch(&old, &status);
        call(
            "write the HealthPolicy's status",
            policies.patch_status(&key.1, &PatchParams::apply(DECIDER), &Patch::Merge(body)),
        )
        .await?;
    }
    if changed {
        let (type_, reason) = match storm.is {
            Is::True => (EventType::Warning, "StormBegan"),
            Is::False | Is::Unknown => (EventType::Normal, "StormEnded"),
        };
        ctx.events.publish(policy, type_, reason, &storm.message).await;
    }
    Ok(again(REFRESH))
}

/// Whether many VMs of this policy fell silent together. A storm of a ProxmoxCluster, of a node or of all is told by the VMs that it holds back.
fn storm(sky: Option<&Sky>) -> Draft {
    match sky.and_then(|s| s.bursts.last().map(|b| (s, b))) {
        Some((sky, burst)) => Draft::new(
            kind::STORM_ACTIVE,
            Is::True,
            "Burst",
            format!("{}: look for a shared cause", burst.told(sky.population, "this policy")),
        ),
        None => Draft::new(
            kind::STORM_ACTIVE,
            Is::False,
            "Calm",
            "no three VMs and no tenth of this policy fell silent within one time-out of each other",
        ),
    }
}

/// What follows a failure.
pub fn error_policy(object: Arc<Guarded<HealthPolicy>>, error: &Error, ctx: Arc<Context>) -> Action {
    ctx.metrics.reconcile_failed("HealthPolicy", error.reason());
    tracing::warn!(policy = object.name_any(), %error, "reconcile failed");
    match error {
        Error::Malformed(_) | Error::Gone { .. } => Action::await_change(),
        _ => again(Duration::from_secs(5)),
    }
}

/// Creates the policy named `default`, mode Enforce, where it is absent. One that exists is never touched: it belongs to people.
///
/// # Errors
/// When it could neither be found nor created.
pub async fn create_default(client: &Client, namespace: &str) -> Result<(), Error> {
    let policies: Api<HealthPolicy> = Api::namespaced(client.clone(), namespace);
    let mut policy = HealthPolicy::new(
        "default",
        HealthPolicySpec {
            reset_policy: Some(ResetPolicy {
                mode: Some(Mode::Enforce),
                ..ResetPolicy::default()
            }),
            ..HealthPolicySpec::default()
        },
    );
    policy.metadata.namespace = Some(namespace.to_owned());
    match call("create the default HealthPolicy", policies.create(&PostParams::default(), &policy)).await {
        Ok(_) => {
            tracing::info!(namespace, "HealthPolicy default created");
            Ok(())
        }
        Err(Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
