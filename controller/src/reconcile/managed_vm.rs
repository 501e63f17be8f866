//! ManagedVM: observe -> decide -> act -> report. Whoever reads one file of the controller should read this one.

mod attempt;
mod books;
mod fleet;
mod guest_agent;
mod observe;
mod power;
mod progress;
mod record;
mod report;

pub use fleet::counts;
pub use guest_agent::learn as learn_guest_agents;
pub use observe::{cluster_of, policy_of};
pub use record::VM_LABEL;

use super::cache::{Guarded, key_of};
use super::context::{Context, vm_key};
use super::{Error, again, at_deadline};
use crate::jitter;
use defib_api::ManagedVM;
use defib_core::decide::{Next, decide};
use kube::runtime::controller::Action;
use observe::Facts;
use progress::Progress;
use std::sync::Arc;
use std::time::Duration;

/// One look at one VM. It wakes by its own deadline, by a change of its spec, journal, policy or cluster, and by news of its heartbeat; never by a mere beat.
///
/// # Errors
/// When Kubernetes or Proxmox cannot be reached; it is then tried again, with back-off.
pub async fn reconcile(object: Arc<Guarded<ManagedVM>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let cached = match &object.0 {
        Ok(vm) => vm,
        Err(invalid) => return Err(Error::Malformed(invalid.error.clone())),
    };
    if !ctx.witness.holds_lease() {
        return Ok(again(Duration::from_secs(2)));
    }
    ctx.metrics.vm_reconciled();
    let action = look(&ctx, cached).await?;
    // Whatever it led to: failures that a success parts are not in a row, and a reset that moves on is not to wait half a minute for its next step.
    ctx.remember(&vm_key(cached), |m| m.failures = 0);
    Ok(action)
}

async fn look(ctx: &Context, cached: &ManagedVM) -> Result<Action, Error> {
    let mut facts = Facts::cached(ctx, cached);
    facts.adopt(ctx).await;
    let now = ctx.clock.now();
    let mut decision = decide(&facts.observed(ctx, now), now);
    if decision.ask_ahead && facts.guest_agent(ctx, now.mono).is_none() && facts.has_budget(ctx) {
        facts.ask_guest_agent(ctx).await;
        facts = Facts::cached(ctx, cached);
        let now = ctx.clock.now();
        decision = decide(&facts.observed(ctx, now), now);
    }
    if matches!(decision.next, Next::LookCloser) && !ctx.backing_off(&facts.key, now.mono) {
        // What is cached says that a reset is due. From here on everything is read live, and decided again.
        facts = Facts::live(ctx, &facts).await?;
        let now = ctx.clock.now();
        decision = decide(&facts.observed(ctx, now), now);
        if matches!(decision.next, Next::AskGuestAgent) {
            // It may take seconds, and what was looked at before it is old then.
            facts.ask_guest_agent(ctx).await;
            facts = Facts::live(ctx, &facts).await?;
            let now = ctx.clock.now();
            decision = decide(&facts.observed(ctx, now), now);
        }
    }
    report::tell_ledger(ctx, &facts, &decision);
    if matches!(decision.next, Next::LookCloser | Next::AskGuestAgent) {
        // The last attempts were taken back, or the guest agent could not be asked: until it is looked at again, there is nothing new to say.
        return Ok(again(decision.check_after));
    }
    let action = match &decision.next {
        Next::Begin(intent) => return attempt::carry_out(ctx, &facts, &decision, intent).await,
        Next::Continue(step) => match progress::carry_out(ctx, &facts, step, &decision).await? {
            Progress::Moved(action) => return Ok(action),
            Progress::Waits(action) => action,
        },
        Next::Start => return power::start(ctx, &facts, &decision).await,
        Next::WouldReset(intent) => return attempt::only_record(ctx, &facts, &decision, intent).await,
        Next::Nothing | Next::LookCloser | Next::AskGuestAgent => at_deadline(decision.check_after),
    };
    report::status(ctx, &facts, &decision).await?;
    report::waiting_request(ctx, &facts, &decision).await?;
    Ok(action)
}

/// What follows a failure: the same again, later, and later still.
pub fn error_policy(object: Arc<Guarded<ManagedVM>>, error: &Error, ctx: Arc<Context>) -> Action {
    let (namespace, name) = key_of(object.as_ref());
    ctx.metrics.reconcile_failed("ManagedVM", error.reason());
    if let Error::Malformed(_) = error {
        tracing::warn!(vm = format!("{namespace}/{name}"), %error, "not reconciled");
        return Action::await_change();
    }
    let failures = ctx.remember(&crate::heartbeat::VmKey::new(namespace.clone(), name.clone()), |m| {
        m.failures = m.failures.saturating_add(1);
        m.failures
    });
    if let Error::Conflict { .. } = error {
        // The object moved on: that is what the compare-and-swap is for. The watch brings the newer one within milliseconds, or tells nothing at present.
        return match failures.checked_sub(OVERTAKEN) {
            None | Some(0) => Action::requeue(jitter::between(Duration::from_millis(50), Duration::from_millis(250))),
            Some(more) => again(back_off(more)),
        };
    }
    tracing::warn!(vm = format!("{namespace}/{name}"), %error, failures, "reconcile failed");
    again(back_off(failures))
}

/// So many conflicts in a row are a coincidence. More of them mean a watch that tells nothing: what is decided on is old, and stays so. Each VM would be written to
/// several times a second, in vain, for as long as that lasts.
const OVERTAKEN: u32 = 3;

/// 1, 2, 4, ... seconds, at most 30: the API server comes back, and a silent VM waits.
fn back_off(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(5)).min(Duration::from_secs(30))
}
