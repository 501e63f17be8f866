//! Act: carries a reset that is under way on to its end.

use super::super::context::Context;
use super::super::proxmox::ask_for;
use super::super::vm_reset::start;
use super::super::{Error, at_deadline};
use super::attempt::{Withdrawal, power_action, withdraw};
use super::observe::Facts;
use super::{books, fleet, record};
use defib_api::{CurrentReset, Outcome, StepAction};
use defib_core::decide::Decision;
use defib_core::journal::{Books, Change, Ending, Step, TaskEnd, clock, polled, searched};
use defib_proxmox::{PowerAction, RunState, TaskExit, TaskStatus, Upid};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use std::time::Duration;

/// What a step of the journal led to.
pub enum Progress {
    /// The journal was written: what was observed is out of date, look again.
    Moved(Action),
    /// Nothing was written.
    Waits(Action),
}

/// Soon enough that a step follows the other at once, after the watch has brought our own write.
const SOON: Duration = Duration::from_millis(100);

/// How often a VM that was reset and has not come back is looked at: QEMU may only now do what it was asked for, and not let the guest go on.
const RESUME_AGAIN: Duration = Duration::from_secs(30);

/// How often a start is looked after that is owed and that the watch does not tell of.
const UNWATCHED: Duration = Duration::from_secs(5);

/// Carries out one step.
///
/// # Errors
/// When the journal could not be written.
pub async fn carry_out(ctx: &Context, facts: &Facts, step: &Step, decision: &Decision) -> Result<Progress, Error> {
    let Some(current) = facts.vm.status.as_ref().and_then(|s| s.current_reset.clone()) else {
        return Ok(Progress::Waits(at_deadline(decision.check_after)));
    };
    let this = (current.name.clone(), current.intent_time);
    if current.holder == ctx.me && ctx.remember(&facts.key, |m| m.withdraw.as_ref() == Some(&this)) {
        let why = Withdrawal {
            reason: "NotDelivered",
            message: "the request did not reach Proxmox".into(),
        };
        return withdraw(ctx, facts, &current, why).await.map(Progress::Moved);
    }
    let now = || clock(&current, facts.journal_unchanged, ctx.clock.now());
    if let (Step::Verify { .. } | Step::Finish(_), Some(ending)) = (step, record::ended(ctx, &facts.vm, &current)) {
        return end(ctx, facts, &current, &ending).await.map(Progress::Moved);
    }
    match step {
        // Only the holder writes the record: one that is written here could outlast an intent that its holder is just taking back.
        Step::Leave { .. } => Ok(Progress::Waits(at_deadline(decision.check_after))),
        Step::Verify { stabilizing, .. } => {
            record::progress(ctx, &facts.vm, &current).await?;
            let may_stand = !stabilizing && current.action == StepAction::Reset;
            if may_stand {
                resume(ctx, facts, &current).await;
            }
            let unwatched = start::in_place_of_the_watch(ctx, &facts.vm, &current).await?;
            let wait = match (may_stand, unwatched) {
                (true, _) => decision.check_after.min(RESUME_AGAIN),
                (_, true) => decision.check_after.min(UNWATCHED),
                _ => decision.check_after,
            };
            Ok(Progress::Waits(at_deadline(wait)))
        }
        Step::TakeOver => {
            let ours = CurrentReset {
                holder: ctx.me.clone(),
                ..current.clone()
            };
            books::patch(ctx, "take the journal over", &facts.vm, serde_json::json!({ "currentReset": ours })).await?;
            let note = format!(
                "VMReset {}: {} has not moved it for a minute, this process goes on with it",
                current.name, current.holder
            );
            ctx.events
                .publish_of(&facts.vm, &current.name, EventType::Warning, "ResetTakenOver", &note)
                .await;
            Ok(Progress::Moved(at_deadline(SOON)))
        }
        Step::Search { since } => {
            let found = search(ctx, facts, &current, *since).await;
            changed(ctx, facts, &current, searched(&current, found, now())).await
        }
        Step::Poll { upid } => {
            let end = poll(facts, upid).await;
            changed(ctx, facts, &current, polled(&current, end, now())).await
        }
        Step::Finish(ending) => finish(ctx, facts, &current, ending).await.map(Progress::Moved),
    }
}

/// Carries out what follows for the journal.
///
/// # Errors
/// When it could not be written.
pub async fn apply(ctx: &Context, facts: &Facts, current: &CurrentReset, change: Change) -> Result<Action, Error> {
    match change {
        Change::Wait(wait) => Ok(at_deadline(wait)),
        Change::Withdraw { reason, message } => withdraw(ctx, facts, current, Withdrawal { reason, message }).await,
        Change::Write(next) => {
            let write = |books: Books| Books {
                current: Some((*next).clone()),
                ..books
            };
            let vm = books::update(ctx, &facts.key, current, write).await?;
            record::progress(ctx, &vm, &next).await?;
            Ok(at_deadline(SOON))
        }
    }
}

async fn changed(ctx: &Context, facts: &Facts, current: &CurrentReset, change: Change) -> Result<Progress, Error> {
    let waits = matches!(change, Change::Wait(_));
    let action = apply(ctx, facts, current, change).await?;
    Ok(if waits { Progress::Waits(action) } else { Progress::Moved(action) })
}

/// Rule 7: looks among the node's tasks. A Proxmox that cannot be asked has told nothing, like one that does not have the task.
async fn search(ctx: &Context, facts: &Facts, current: &CurrentReset, since: jiff::Timestamp) -> Option<String> {
    let vmid = facts.vm.spec.proxmox.vmid;
    match facts
        .client()?
        .search_tasks(&current.node, vmid, power_action(current.action), since)
        .await
    {
        Ok(tasks) => {
            // The search begins a few seconds early: the task of an attempt just before is not this one's.
            let known = record::known_tasks(ctx, &facts.vm, &current.name);
            tasks.into_iter().map(|t| t.upid.to_string()).rfind(|upid| !known.contains(upid))
        }
        Err(error) => {
            tracing::warn!(vm = %facts.key, reset = current.name, %error, "cannot search for the task");
            None
        }
    }
}

/// QEMU leaves a machine that did not execute when it was reset (its guest had panicked, or somebody had paused it) in `prelaunch`: it is told to go on. That does
/// nothing to a machine that runs, so it is done as often as it takes.
async fn resume(ctx: &Context, facts: &Facts, current: &CurrentReset) {
    let vmid = facts.vm.spec.proxmox.vmid;
    let (Some(client), Some(node)) = (facts.client(), facts.node()) else {
        return;
    };
    match client.vm_status(node, vmid).await {
        Ok(status) if status.qmp_status == RunState::Prelaunch => {}
        Ok(_) => return,
        Err(error) => {
            tracing::debug!(vm = %facts.key, %error, "cannot look whether the reset left the VM in prelaunch");
            return;
        }
    }
    match ask_for(client, PowerAction::Resume, node, vmid).await {
        Ok(_) => {
            let note = format!(
                "VMReset {}: the VM did not execute when it was reset, and is told to go on",
                current.name
            );
            ctx.events.publish(&facts.vm, EventType::Normal, "ResumeSent", &note).await;
        }
        Err(error) => tracing::warn!(vm = %facts.key, %error, "cannot resume the VM"),
    }
}

async fn poll(facts: &Facts, upid: &str) -> Option<TaskEnd> {
    let parsed: Upid = match upid.parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            return Some(TaskEnd::Unclear {
                text: format!("the journal holds a task id that cannot be read: {error}"),
            });
        }
    };
    match facts.client()?.task_status(&parsed).await {
        Ok(TaskStatus::Running) => None,
        Ok(TaskStatus::Finished(exit)) => Some(task_end(&exit)),
        Err(error @ defib_proxmox::Error::TaskUnknown { .. }) => Some(TaskEnd::Unclear { text: error.to_string() }),
        Err(error) => {
            tracing::warn!(vm = %facts.key, upid, %error, "cannot ask for the task");
            None
        }
    }
}

fn task_end(exit: &TaskExit) -> TaskEnd {
    let text = exit.to_string();
    match exit {
        TaskExit::Ok | TaskExit::Warnings(_) => TaskEnd::Ok,
        TaskExit::Locked { .. } | TaskExit::LockTimeout => TaskEnd::Refused { text },
        TaskExit::QmpUnresponsive => TaskEnd::Unresponsive { text },
        TaskExit::Unexpected => TaskEnd::Unclear { text },
        TaskExit::Error(_) => TaskEnd::Failed { text },
    }
}

/// The VMReset first, then the journal: a crash in between finds the reset still under way and its record ended, and brings the journal to the same result.
async fn finish(ctx: &Context, facts: &Facts, current: &CurrentReset, ending: &Ending) -> Result<Action, Error> {
    record::finish(ctx, &facts.vm, current, ending, ctx.clock.now()).await?;
    end(ctx, facts, current, ending).await
}

/// What follows when its record has ended.
async fn end(ctx: &Context, facts: &Facts, current: &CurrentReset, ending: &Ending) -> Result<Action, Error> {
    let now = ctx.clock.now();
    if let Some(boot_id) = &ending.boot_id_after {
        ctx.ledger.caused(&facts.key, boot_id);
    }
    books::update(ctx, &facts.key, current, |books| {
        books.finish(ending.outcome, &facts.effective.steps, now)
    })
    .await?;
    // Not when it was sent: a task that finds a lock takes it back, and one after the other would be sent without a pause.
    ctx.remember(&facts.key, |m| m.withdrawals = Default::default());
    fleet::count_anew(ctx);
    ctx.metrics.reset_finished(ending.outcome);
    let (kind, reason) = match ending.outcome {
        Outcome::Recovered => (EventType::Normal, "Recovered"),
        Outcome::NotRecovered => (EventType::Warning, "NotRecovered"),
        Outcome::Unknown => (EventType::Warning, "OutcomeUnknown"),
        Outcome::Failed | Outcome::Expired | Outcome::Superseded | Outcome::WouldReset => (EventType::Warning, "ResetFailed"),
    };
    ctx.events
        .publish_of(
            &facts.vm,
            &current.name,
            kind,
            reason,
            &format!("VMReset {}: {}", current.name, ending.message),
        )
        .await;
    record::retain(ctx, &facts.vm, facts.effective.reset_history_limit).await;
    Ok(at_deadline(SOON))
}
