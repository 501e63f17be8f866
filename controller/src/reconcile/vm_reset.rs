//! VMReset: requests of people, of which those are sorted out that may not run (any more); one that may is carried out by its ManagedVM's reconcile. And starts that
//! are owed to VMs which a reset stopped ([`start`]).

pub mod start;

use super::cache::{Guarded, key_of};
use super::context::Context;
use super::kube_api::{DECIDER, call};
use super::managed_vm::VM_LABEL;
use super::{Error, again, at_deadline};
use defib_api::{ManagedVM, Outcome, ResetState, Trigger, VMReset, VMResetStatus};
use defib_core::conditions::{Draft, Is, kind, merge};
use defib_core::time::to_millis;
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How far ahead `notAfter` may lie. An object from a backup or from Git is older than that.
const HORIZON: SignedDuration = SignedDuration::from_mins(15);
/// How often a request that waits is looked at: another reset of the VM that supersedes it is no change of the request itself.
const PENDING: Duration = Duration::from_secs(5);
/// By then a write that was given up has landed or never will, and its intent is in the journal or was taken back.
const LATE: Duration = Duration::from_secs(60);
/// Clocks of people's machines differ from ours by some seconds.
const SKEW: SignedDuration = SignedDuration::from_secs(30);

/// Looks at one VMReset.
///
/// # Errors
/// When it could not be written.
pub async fn reconcile(object: Arc<Guarded<VMReset>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let reset = match &object.0 {
        Ok(reset) => reset,
        Err(invalid) => return Err(Error::Malformed(invalid.error.clone())),
    };
    if ended(reset) && !start::is_owed(reset) {
        return Ok(Action::await_change());
    }
    if !ctx.witness.holds_lease() {
        return Ok(again(Duration::from_secs(2)));
    }
    if start::is_owed(reset) {
        return start::reconcile(&ctx, &key_of(reset)).await;
    }
    if reset.spec.trigger == Trigger::Automatic {
        return orphan(&ctx, reset).await;
    }
    let namespace = reset.namespace().unwrap_or_default();
    let now = ctx.clock.now();
    let vm_ref = ObjectRef::<Guarded<ManagedVM>>::new(&reset.spec.vm_ref.name).within(&namespace);
    let guard = ctx.vms.get(&vm_ref);
    let vm = guard.as_ref().and_then(|g| g.0.as_ref().ok());
    if vm.is_some_and(|vm| under_way(vm, reset)) {
        // Its journal carries it to its end.
        return Ok(again(Duration::from_secs(60)));
    }
    if let Some((outcome, message)) = verdict(&ctx, reset, vm, now.wall) {
        end(&ctx, reset, outcome, message, now.wall).await?;
        return Ok(Action::await_change());
    }
    if vm.is_none() {
        waiting(
            &ctx,
            reset,
            format!("there is no ManagedVM {:?} in this namespace", reset.spec.vm_ref.name),
        )
        .await?;
    }
    if let Some(vm) = vm {
        own(&ctx, reset, vm).await?;
        ctx.ledger.wake(&super::context::vm_key(vm));
    }
    Ok(at_deadline(now.until(reset.spec.not_after).min(PENDING)))
}

/// A record of Defib's own that is in no journal and has no outcome: its intent was taken back, and the write that made it came late. It tells of nothing, and goes.
async fn orphan(ctx: &Context, reset: &VMReset) -> Result<Action, Error> {
    if !reset.labels().contains_key(VM_LABEL) {
        // Somebody made it by hand.
        return Ok(Action::await_change());
    }
    let age = created(reset).map_or(Duration::ZERO, |made| ctx.clock.now().age(made));
    if age < LATE {
        return Ok(again(LATE - age));
    }
    let namespace = reset.namespace().unwrap_or_default();
    let vms: Api<ManagedVM> = Api::namespaced(ctx.client.clone(), &namespace);
    let vm = call("read the ManagedVM", vms.get_opt(&reset.spec.vm_ref.name)).await?;
    let current = vm.as_ref().and_then(|vm| vm.status.as_ref()).and_then(|s| s.current_reset.as_ref());
    if current.is_some_and(|c| c.name == reset.name_any()) {
        return Ok(again(LATE));
    }
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), &namespace);
    let only_this = DeleteParams::default().preconditions(Preconditions {
        uid: reset.uid(),
        resource_version: reset.resource_version(),
    });
    match call(
        "delete the VMReset of an intent that was taken back",
        resets.delete(&reset.name_any(), &only_this),
    )
    .await
    {
        Ok(_) | Err(Error::Gone { .. } | Error::Conflict { .. }) => Ok(again(LATE)),
        Err(error) => Err(error),
    }
}

/// What follows a failure.
pub fn error_policy(object: Arc<Guarded<VMReset>>, error: &Error, ctx: Arc<Context>) -> Action {
    ctx.metrics.reconcile_failed("VMReset", error.reason());
    tracing::warn!(reset = object.name_any(), %error, "reconcile failed");
    match error {
        Error::Malformed(_) => Action::await_change(),
        _ => again(Duration::from_secs(3)),
    }
}

/// The oldest request for this VM that may run.
pub fn next_request(ctx: &Context, vm: &ManagedVM) -> Option<VMReset> {
    let now = ctx.clock.now().wall;
    let (namespace, name) = key_of(vm);
    ctx.resets
        .state()
        .iter()
        .filter_map(|r| r.0.as_ref().ok())
        .filter(|r| r.spec.vm_ref.name == name && r.namespace().as_deref() == Some(&namespace) && may_run(r, now))
        .filter(|r| superseded_by(ctx, r, Some(vm)).is_none())
        // Times of creation are whole seconds; the cache has no order of its own.
        .min_by_key(|r| (created(r), r.name_any()))
        .cloned()
}

/// Whether a request may still run.
pub fn may_run(reset: &VMReset, now: Timestamp) -> bool {
    reset.spec.trigger == Trigger::Manual
        && !ended(reset)
        && reset.metadata.deletion_timestamp.is_none()
        && !expired(reset, now)
        && !too_far_ahead(reset)
}

fn verdict(ctx: &Context, reset: &VMReset, vm: Option<&ManagedVM>, now: Timestamp) -> Option<(Outcome, String)> {
    if too_far_ahead(reset) {
        return Some((
            Outcome::Expired,
            "notAfter lies more than 15 minutes ahead; create a new VMReset with a nearer one".into(),
        ));
    }
    if let Some(other) = superseded_by(ctx, reset, vm) {
        return Some((Outcome::Superseded, format!("the VM was reset by {other} after this was asked for")));
    }
    if expired(reset, now) {
        let waited = reset.status.as_ref().and_then(|s| s.message.clone());
        return Some((
            Outcome::Expired,
            match (vm, waited) {
                (None, _) => format!("there is no ManagedVM {:?} in this namespace", reset.spec.vm_ref.name),
                (Some(_), Some(waited)) => format!("it could not run before notAfter: {waited}"),
                (Some(_), None) => "it did not run before notAfter".into(),
            },
        ));
    }
    None
}

/// Another reset of the same VM that was decided after this one was asked for: two people who press the button reset the VM once.
fn superseded_by(ctx: &Context, reset: &VMReset, vm: Option<&ManagedVM>) -> Option<String> {
    let asked = created(reset)?;
    let name = reset.name_any();
    let current = vm.and_then(|v| v.status.as_ref()).and_then(|s| s.current_reset.as_ref());
    if let Some(current) = current.filter(|c| c.name != name && c.intent_time >= asked) {
        return Some(current.name.clone());
    }
    let namespace = reset.namespace();
    ctx.resets
        .state()
        .iter()
        .filter_map(|r| r.0.as_ref().ok())
        .filter(|r| r.spec.vm_ref.name == reset.spec.vm_ref.name && r.namespace() == namespace && r.name_any() != name)
        .find(|r| {
            r.status
                .as_ref()
                .is_some_and(|s| s.sent_time.is_some() && s.intent_time.is_some_and(|t| t >= asked))
        })
        .map(ResourceExt::name_any)
}

fn under_way(vm: &ManagedVM, reset: &VMReset) -> bool {
    vm.status
        .as_ref()
        .and_then(|s| s.current_reset.as_ref())
        .is_some_and(|c| c.name == reset.name_any() && c.request_uid == reset.uid())
}

fn ended(reset: &VMReset) -> bool {
    reset.status.as_ref().is_some_and(|s| s.state == Some(ResetState::Finished))
}

fn expired(reset: &VMReset, now: Timestamp) -> bool {
    reset.spec.not_after <= now
}

fn too_far_ahead(reset: &VMReset) -> bool {
    created(reset).is_some_and(|c| reset.spec.not_after.duration_since(c) > HORIZON + SKEW)
}

fn created(reset: &VMReset) -> Option<Timestamp> {
    reset.metadata.creation_timestamp.as_ref().map(|t| t.0)
}

async fn end(ctx: &Context, reset: &VMReset, outcome: Outcome, message: String, now: Timestamp) -> Result<(), Error> {
    let reason = if outcome == Outcome::Superseded { "Superseded" } else { "Expired" };
    let status = VMResetStatus {
        state: Some(ResetState::Finished),
        outcome: Some(outcome),
        end_time: Some(to_millis(now)),
        conditions: merge(&[], &[Draft::new(kind::COMPLETE, Is::True, reason, message.clone())], None, now),
        message: Some(message.chars().take(1024).collect()),
        ..VMResetStatus::default()
    };
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), &reset.namespace().unwrap_or_default());
    // Over this version only: it may have begun to run a moment ago.
    let body = json!({ "metadata": { "resourceVersion": reset.resource_version() }, "status": status });
    call(
        "end the VMReset",
        resets.patch_status(&reset.name_any(), &PatchParams::apply(DECIDER), &Patch::Merge(body)),
    )
    .await?;
    ctx.metrics.reset_finished(outcome);
    ctx.events
        .publish(reset, kube::runtime::events::EventType::Warning, reason, &message)
        .await;
    Ok(())
}

/// Says what a request waits for that has no ManagedVM to say it.
async fn waiting(ctx: &Context, reset: &VMReset, message: String) -> Result<(), Error> {
    if reset.status.as_ref().and_then(|s| s.message.as_ref()) == Some(&message) {
        return Ok(());
    }
    let status = VMResetStatus {
        state: Some(ResetState::Pending),
        message: Some(message),
        ..VMResetStatus::default()
    };
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), &reset.namespace().unwrap_or_default());
    let body = json!({ "status": status });
    call(
        "write the VMReset",
        resets.patch_status(&reset.name_any(), &PatchParams::apply(DECIDER), &Patch::Merge(body)),
    )
    .await?;
    Ok(())
}

/// A request belongs to its ManagedVM, and goes with it.
async fn own(ctx: &Context, reset: &VMReset, vm: &ManagedVM) -> Result<(), Error> {
    let Some(owner) = vm.controller_owner_ref(&()) else { return Ok(()) };
    if reset.owner_references().iter().any(|o| o.uid == owner.uid) {
        return Ok(());
    }
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), &reset.namespace().unwrap_or_default());
    let body = json!({ "metadata": { "ownerReferences": [owner], "resourceVersion": reset.resource_version() } });
    call(
        "own the VMReset",
        resets.patch(&reset.name_any(), &PatchParams::apply(DECIDER), &Patch::Merge(body)),
    )
    .await?;
    Ok(())
}
