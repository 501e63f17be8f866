//! Report: what was found goes into the status, into events for what changed, and back to the ledger.

use super::super::Error;
use super::super::context::Context;
use super::observe::Facts;
use super::{books, record};
use defib_api::{Condition, CurrentReset, ResetState};
use defib_core::conditions::{Draft, Is, find, kind, merge};
use defib_core::decide::Decision;
use defib_core::heartbeat::Expectation;
use kube::ResourceExt;
use kube::runtime::events::EventType;
use serde_json::{Map, Value, json};

/// Tells the ledger what is news about this VM.
pub fn tell_ledger(ctx: &Context, facts: &Facts, decision: &Decision) {
    let seconds = |d: std::time::Duration| u32::try_from(d.as_secs()).unwrap_or(u32::MAX);
    let verify = facts.effective.identity == defib_api::IdentityCheck::Verify;
    ctx.ledger.expect(
        &facts.key,
        Expectation {
            identity: decision.identity.filter(|_| verify),
            thresholds: facts.effective.thresholds.clone(),
            awaited: decision.awaited,
            timeout_seconds: seconds(facts.effective.timeout),
            report_seconds: seconds(facts.effective.report),
            armed: decision.armed,
        },
    );
}

/// Writes the decider's part of the status where it changed, on the version that was decided on; then an event for each change worth one.
///
/// # Errors
/// When it could not be written.
pub async fn status(ctx: &Context, facts: &Facts, decision: &Decision) -> Result<(), Error> {
    let old = facts.vm.status.clone().unwrap_or_default();
    let conditions = conditions(ctx, facts, decision);
    let mut changed = Map::new();
    let mut set = |field: &str, differs: bool, value: Value| {
        if differs {
            changed.insert(field.to_owned(), value);
        }
    };
    set("conditions", conditions != old.conditions, json!(conditions));
    set(
        "observedGeneration",
        old.observed_generation != facts.vm.metadata.generation,
        json!(facts.vm.metadata.generation),
    );
    let identity = decision.identity.map(|u| u.to_string());
    set("identity", old.identity != identity && identity.is_some(), json!(identity));
    set(
        "resetsInWindow",
        old.resets_in_window != Some(decision.resets_in_window),
        json!(decision.resets_in_window),
    );
    if let Some((node, power)) = facts.row() {
        set("node", old.node.as_deref() != Some(node), json!(node));
        set("power", old.power.as_deref() != Some(power), json!(power));
        set("powerSince", old.power_since != decision.power_since, json!(decision.power_since));
    }
    set("episode", decision.episode_over, Value::Null);
    if changed.is_empty() {
        return Ok(());
    }
    books::patch(ctx, "write the status", &facts.vm, Value::Object(changed)).await?;
    events(ctx, facts, &conditions).await;
    Ok(())
}

/// The conditions that a decision comes to.
pub fn conditions(ctx: &Context, facts: &Facts, decision: &Decision) -> Vec<Condition> {
    let old = facts.vm.status.as_ref().map_or(&[][..], |s| s.conditions.as_slice());
    merge(old, &decision.conditions, facts.vm.metadata.generation, ctx.clock.now().wall)
}

/// The conditions as a reset begins: what led to it, and that it is under way before anything is sent.
pub fn beginning(ctx: &Context, facts: &Facts, decision: &Decision, current: &CurrentReset) -> Vec<Condition> {
    let message = format!("VMReset {}, attempt {}: the request goes to Proxmox", current.name, current.attempt);
    let mut drafts = decision.conditions.clone();
    for draft in &mut drafts {
        let (is, reason) = match draft.type_ {
            kind::RESETTING => (Is::True, "Requesting"),
            kind::READY => (Is::False, "Resetting"),
            kind::RESET_ALLOWED => (Is::False, "ResetUnderWay"),
            _ => continue,
        };
        *draft = Draft::new(draft.type_, is, reason, message.clone());
    }
    let old = facts.vm.status.as_ref().map_or(&[][..], |s| s.conditions.as_slice());
    merge(old, &drafts, facts.vm.metadata.generation, ctx.clock.now().wall)
}

/// Publishes an event for each change that is worth one.
pub async fn events(ctx: &Context, facts: &Facts, conditions: &[Condition]) {
    let old = facts.vm.status.as_ref().map_or(&[][..], |s| s.conditions.as_slice());
    for (type_, reason, note) in news(old, conditions) {
        ctx.events.publish(&facts.vm, type_, &reason, &note).await;
    }
}

/// Changes of conditions that are worth an event: each is a decision, or the reason of one.
fn news(old: &[Condition], new: &[Condition]) -> Vec<(EventType, String, String)> {
    let silent = find(new, kind::HEARTBEAT_FRESH).is_some_and(|c| c.status == "False");
    let looped = find(old, kind::RESET_ALLOWED).is_some_and(|c| c.reason == "BootLoop");
    new.iter()
        .filter(|c| {
            let known = find(old, &c.type_);
            let changed = known.is_none_or(|k| k.reason != c.reason || k.status != c.status);
            changed
                && match c.type_.as_str() {
                    kind::ADOPTED => c.status != "Unknown" || known.is_some(),
                    kind::HEARTBEAT_FRESH | kind::WITHIN_THRESHOLDS => known.is_some() && c.reason != "NoReport",
                    // Its beginning: the gate stands for as long as the loop does, whatever the VM is in between.
                    kind::READY => c.reason == "BootLoop" && !looped,
                    // While heartbeats come, a gate keeps nobody from anything.
                    kind::RESET_ALLOWED => silent && c.status == "False" && c.reason != "ResetUnderWay",
                    _ => false,
                }
        })
        .map(|c| {
            let type_ = if c.status == "False" {
                EventType::Warning
            } else {
                EventType::Normal
            };
            let reason = if c.type_ == kind::RESET_ALLOWED {
                format!("ResetBlocked{}", c.reason)
            } else {
                c.reason.clone()
            };
            (type_, reason, c.message.clone())
        })
        .collect()
}

/// Shows what a person's request waits for.
///
/// # Errors
/// When it could not be written.
pub async fn waiting_request(ctx: &Context, facts: &Facts, decision: &Decision) -> Result<(), Error> {
    let (Some(request), Some(blocked)) = (&facts.manual, &decision.manual_waits) else {
        return Ok(());
    };
    let message = format!("{}: {}", blocked.reason, blocked.message);
    let status = request.status.clone().unwrap_or_default();
    if status.state == Some(ResetState::Pending) && status.message.as_deref() == Some(&message) {
        return Ok(());
    }
    match record::pending(ctx, &facts.vm, &request.name_any(), &message).await {
        Err(Error::Gone { .. }) => Ok(()),
        done => done,
    }
}
