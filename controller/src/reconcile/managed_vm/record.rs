//! VMResets: the public record of what the journal says.

use super::super::Error;
use super::super::cache::key_of;
use super::super::context::{Context, vm_key};
use super::super::kube_api::{DECIDER, call};
use super::super::vm_reset::start;
use super::attempt::Withdrawal;
use defib_api::{CurrentReset, ManagedVM, Outcome, ResetState, Trigger, VMReset, VMResetSpec, VMResetStatus};
use defib_core::conditions::{Draft, Is, kind, merge};
use defib_core::decide::{Intent, would_reset_name};
use defib_core::journal::{Ending, INTENT_EXPIRES};
use defib_core::time::{Now, to_millis};
use jiff::SignedDuration;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Label of a VMReset: the name of its ManagedVM.
pub const VM_LABEL: &str = "defib.dev/vm";

/// By then a watch that works has brought our own write.
const WATCHED_BY: Duration = Duration::from_secs(5);

fn api(ctx: &Context, vm: &ManagedVM) -> Api<VMReset> {
    Api::namespaced(ctx.client.clone(), &vm.namespace().unwrap_or_default())
}

/// Before anything is sent: an automatic reset gets its record, a request is shown as running.
///
/// # Errors
/// When it could not be written.
pub async fn open(ctx: &Context, vm: &ManagedVM, intent: &Intent) -> Result<(), Error> {
    let owes = intent.current.action.owes_start();
    match intent.current.trigger {
        Trigger::Automatic => create(ctx, vm, &intent.current, &intent.why, owes).await?,
        Trigger::Manual if owes => start::hold(ctx, &vm.namespace().unwrap_or_default(), &intent.current.name).await?,
        Trigger::Manual => {}
    }
    let status = VMResetStatus {
        evidence: Some(intent.evidence.clone()),
        start_owed: owes.then(|| start::debt(vm, &intent.current)),
        ..status_of(&intent.current)
    };
    let written = patch(ctx, vm, &intent.current.name, &status).await?;
    if owes && !start::is_owed(&written) {
        // Its ManagedVM is gone, and who saw the record without its debt has let it go: nothing would keep the debt.
        return Err(Error::Gone {
            step: "hold the VMReset until its VM is started",
        });
    }
    Ok(())
}

/// Of a VM that is only observed: that it would have been reset now.
///
/// # Errors
/// When it could not be written.
pub async fn would_reset(ctx: &Context, vm: &ManagedVM, intent: &Intent, now: Now) -> Result<(), Error> {
    create(ctx, vm, &intent.current, &intent.why, false).await?;
    let message = "nothing was done, as this VM is only observed: with mode Enforce it would have been reset now";
    let complete = Draft::new(kind::COMPLETE, Is::True, Outcome::WouldReset.as_str(), message);
    let status = VMResetStatus {
        state: Some(ResetState::Finished),
        outcome: Some(Outcome::WouldReset),
        message: Some(message.into()),
        end_time: Some(to_millis(now.wall)),
        conditions: merge(&[], &[complete], None, now.wall),
        evidence: Some(intent.evidence.clone()),
        attempt: None,
        ..status_of(&intent.current)
    };
    patch(ctx, vm, &intent.current.name, &status).await.map(drop)
}

/// Whether it stands in a record that this VM would have been reset in its present silence.
pub fn would_reset_is_recorded(ctx: &Context, vm: &ManagedVM) -> bool {
    let Some(episode) = vm.status.as_ref().and_then(|s| s.episode.as_ref()) else {
        return false;
    };
    let (namespace, name) = key_of(vm);
    let record: Option<VMReset> = super::super::cache::get(&ctx.resets, &namespace, &would_reset_name(&name, &episode.id));
    record.and_then(|r| r.status).is_some_and(|s| s.outcome.is_some())
}

/// Makes the record of an automatic reset, or finds it made already. One that owes a start is held until that is made.
async fn create(ctx: &Context, vm: &ManagedVM, current: &CurrentReset, why: &str, owes: bool) -> Result<(), Error> {
    let not_after = current
        .intent_time
        .checked_add(SignedDuration::try_from(INTENT_EXPIRES).unwrap_or_default())
        .unwrap_or(current.intent_time);
    let mut reset = VMReset::new(
        &current.name,
        VMResetSpec {
            vm_ref: defib_api::NameRef { name: vm.name_any() },
            action: current.action.into(),
            reason: Some(why.chars().take(512).collect()),
            requested_by: None,
            trigger: Trigger::Automatic,
            not_after,
        },
    );
    reset.metadata.owner_references = vm.controller_owner_ref(&()).map(|o| vec![o]);
    let mut labels = BTreeMap::from([(VM_LABEL.to_owned(), vm.name_any())]);
    if owes {
        labels.extend(start::label());
        reset.metadata.finalizers = Some(vec![start::OWED.to_owned()]);
    }
    reset.metadata.labels = Some(labels);
    match call(
        "create the VMReset",
        api(ctx, vm).create(
            &PostParams {
                field_manager: Some(DECIDER.into()),
                ..PostParams::default()
            },
            &reset,
        ),
    )
    .await
    {
        Ok(_) => Ok(()),
        // Ours from before a crash or a lost answer: the name is made of VM, episode and attempt. AlreadyExists is a 409 like a conflict.
        Err(Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Brings the record to what the journal says, where it differs. A record that is missing is made anew.
///
/// # Errors
/// When it could not be written.
pub async fn progress(ctx: &Context, vm: &ManagedVM, current: &CurrentReset) -> Result<(), Error> {
    let wanted = status_of(current);
    let (namespace, _) = key_of(vm);
    let says = |s: &VMResetStatus| {
        s.state == wanted.state && s.upid == wanted.upid && s.task_end_time == wanted.task_end_time && s.message == wanted.message
    };
    let watched: Option<VMReset> = super::super::cache::get(&ctx.resets, &namespace, &current.name);
    // The watch of VMResets may be behind that of ManagedVMs, which brought us here. A record that it does not have at all may be gone, if it was not made just now.
    let ours = ctx.remember(&vm_key(vm), |m| {
        let (_, _, at) = m
            .recorded
            .as_ref()
            .filter(|(name, status, _)| *name == current.name && says(status))?;
        Some(*at)
    });
    let just_now = ours.is_some_and(|at| ctx.clock.now().mono.since(at) < WATCHED_BY);
    if just_now || watched.is_some_and(|r| ours.is_some() || r.status.as_ref().is_some_and(says)) {
        return Ok(());
    }
    write(ctx, vm, current, &wanted).await
}

/// How it has ended by its record, where the journal still has it: a process died between the two. What was told of it is not told otherwise.
pub fn ended(ctx: &Context, vm: &ManagedVM, current: &CurrentReset) -> Option<Ending> {
    let (namespace, _) = key_of(vm);
    let record: Option<VMReset> = super::super::cache::get(&ctx.resets, &namespace, &current.name);
    let status = record?.status.filter(|s| s.state == Some(ResetState::Finished))?;
    // Only what ends a reset that was sent, and this very one: a request that expired is another matter.
    let of_this = status.intent_time == Some(current.intent_time) && status.task_end_time == current.task_end_time;
    let outcome = status
        .outcome
        .filter(|o| matches!(o, Outcome::Recovered | Outcome::NotRecovered | Outcome::Failed | Outcome::Unknown))?;
    of_this.then(|| Ending {
        outcome,
        message: status.message.unwrap_or_default(),
        boot_id_after: status.boot_id_after,
    })
}

/// Writes how it ended.
///
/// # Errors
/// When it could not be written.
pub async fn finish(ctx: &Context, vm: &ManagedVM, current: &CurrentReset, ending: &Ending, now: Now) -> Result<(), Error> {
    let complete = Draft::new(kind::COMPLETE, Is::True, ending.outcome.as_str(), ending.message.clone());
    let status = VMResetStatus {
        state: Some(ResetState::Finished),
        outcome: Some(ending.outcome),
        message: Some(ending.message.chars().take(1024).collect()),
        end_time: Some(to_millis(now.wall)),
        boot_id_after: ending.boot_id_after.clone(),
        conditions: merge(&[], &[complete], None, now.wall),
        ..status_of(current)
    };
    write(ctx, vm, current, &status).await
}

async fn write(ctx: &Context, vm: &ManagedVM, current: &CurrentReset, status: &VMResetStatus) -> Result<(), Error> {
    match patch(ctx, vm, &current.name, status).await {
        Err(Error::Gone { .. }) if current.trigger == Trigger::Automatic => {
            let owes = current.action.owes_start();
            create(
                ctx,
                vm,
                current,
                "its first record was lost; this one is made from the journal",
                owes,
            )
            .await?;
            // Whether the start was made stood in the lost one. A VM that runs is not started again.
            let status = VMResetStatus {
                start_owed: owes.then(|| start::debt(vm, current)),
                ..status.clone()
            };
            patch(ctx, vm, &current.name, &status).await.map(drop)
        }
        // A person deleted the request: the journal goes on without it.
        Err(Error::Gone { .. }) => Ok(()),
        done => done.map(drop),
    }
}

/// An intent was taken back. The record of an automatic one goes: no reset took place. A request waits again.
///
/// # Errors
/// When it could not be written.
pub async fn withdraw(ctx: &Context, vm: &ManagedVM, current: &CurrentReset, why: &Withdrawal) -> Result<(), Error> {
    if current.action.owes_start() {
        // It was not stopped.
        start::settle(ctx, &vm.namespace().unwrap_or_default(), &current.name).await?;
    }
    let done = match current.trigger {
        Trigger::Automatic => call("delete the VMReset", api(ctx, vm).delete(&current.name, &DeleteParams::default()))
            .await
            .map(|_| ()),
        Trigger::Manual => pending(ctx, vm, &current.name, &format!("{}: {}", why.reason, why.message)).await,
    };
    match done {
        Err(Error::Gone { .. }) => Ok(()),
        done => done,
    }
}

/// A request waits for something.
///
/// # Errors
/// When it could not be written.
pub async fn pending(ctx: &Context, vm: &ManagedVM, name: &str, message: &str) -> Result<(), Error> {
    let message: String = message.chars().take(1024).collect();
    patch(
        ctx,
        vm,
        name,
        &VMResetStatus {
            state: Some(ResetState::Pending),
            message: Some(message),
            ..VMResetStatus::default()
        },
    )
    .await
    .map(drop)
}

async fn patch(ctx: &Context, vm: &ManagedVM, name: &str, status: &VMResetStatus) -> Result<VMReset, Error> {
    let written = call(
        "write the VMReset",
        api(ctx, vm).patch_status(name, &PatchParams::apply(DECIDER), &Patch::Merge(json!({ "status": status }))),
    )
    .await;
    ctx.witness
        .wrote(!matches!(written, Err(Error::Kubernetes { .. } | Error::Timeout { .. })));
    let written = written?;
    let now = ctx.clock.now().mono;
    ctx.remember(&vm_key(vm), |m| m.recorded = Some((name.to_owned(), Box::new(status.clone()), now)));
    Ok(written)
}

/// The record as it follows from the journal alone.
fn status_of(current: &CurrentReset) -> VMResetStatus {
    let (state, message) = match (current.task_result, &current.upid) {
        (Some(_), _) => (ResetState::Verifying, "a heartbeat of a new boot is awaited"),
        (None, Some(_)) => (ResetState::Running, "the task of Proxmox runs"),
        (None, None) => (ResetState::Running, "the request goes to Proxmox"),
    };
    VMResetStatus {
        state: Some(state),
        message: Some(message.into()),
        action: Some(current.action),
        step: Some(current.step),
        attempt: Some(current.attempt),
        node: Some(current.node.clone()),
        upid: current.upid.clone(),
        intent_time: Some(current.intent_time),
        sent_time: current.sent_time,
        task_end_time: current.task_end_time,
        boot_id_before: current.boot_id_before.clone(),
        answer: current.answer.clone(),
        ..VMResetStatus::default()
    }
}

/// Tasks of other resets of this VM.
pub fn known_tasks(ctx: &Context, vm: &ManagedVM, except: &str) -> Vec<String> {
    of_vm(ctx, vm)
        .into_iter()
        .filter(|r| r.name_any() != except)
        .filter_map(|r| r.status.and_then(|s| s.upid))
        .collect()
}

/// Watched VMResets of this VM.
pub fn of_vm(ctx: &Context, vm: &ManagedVM) -> Vec<VMReset> {
    let key = key_of(vm);
    ctx.resets
        .state()
        .iter()
        .filter_map(|r| r.0.as_ref().ok())
        .filter(|r| r.spec.vm_ref.name == key.1 && r.namespace().as_deref() == Some(&key.0))
        .cloned()
        .collect()
}

/// Ended records that are kept in all. At up to 4 KiB each they are 20 MiB of etcd, and as much of memory here.
const MOST_RECORDS: usize = 5_000;
/// Deleted at the end of one reset, at most: after the limit was lowered, or a flood of requests, the next ends go on with it.
const DELETED_AT_ONCE: usize = 50;

/// Deletes all but the newest ended records of this VM, and the oldest of all where there are too many. A failure is only logged: the next end tries again.
pub async fn retain(ctx: &Context, vm: &ManagedVM, limit: u32) {
    let own = surplus(of_vm(ctx, vm), usize::try_from(limit).unwrap_or(usize::MAX));
    let state = ctx.resets.state();
    let all = if state.len() > MOST_RECORDS {
        surplus(state.iter().filter_map(|r| r.0.as_ref().ok()).cloned().collect(), MOST_RECORDS)
    } else {
        Vec::new()
    };
    for old in own.into_iter().chain(all).take(DELETED_AT_ONCE) {
        let (namespace, name) = key_of(&old);
        let api: Api<VMReset> = Api::namespaced(ctx.client.clone(), &namespace);
        match call("delete an old VMReset", api.delete(&name, &DeleteParams::default())).await {
            Ok(_) | Err(Error::Gone { .. }) => {}
            Err(error) => tracing::warn!(reset = name, %error, "kept for now"),
        }
    }
}

/// Of the ended ones among these all but the newest, the oldest first.
fn surplus(records: Vec<VMReset>, keep: usize) -> Vec<VMReset> {
    let mut ended: Vec<VMReset> = records
        .into_iter()
        .filter(|r| r.status.as_ref().is_some_and(|s| s.state == Some(ResetState::Finished)))
        .collect();
    ended.sort_by_key(|r| r.metadata.creation_timestamp.as_ref().map(|t| t.0));
    ended.truncate(ended.len().saturating_sub(keep));
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use defib_api::ResetAction;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn record(name: &str, created: i64, state: ResetState) -> VMReset {
        let spec = VMResetSpec {
            vm_ref: defib_api::NameRef { name: "web-1".into() },
            action: ResetAction::Reset,
            reason: None,
            requested_by: None,
            trigger: Trigger::Automatic,
            not_after: Timestamp::UNIX_EPOCH,
        };
        let mut record = VMReset::new(name, spec);
        record.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).unwrap()));
        record.status = Some(VMResetStatus {
            state: Some(state),
            ..VMResetStatus::default()
        });
        record
    }

    #[test]
    fn the_newest_ended_records_are_kept_and_none_that_has_not_ended_goes() {
        let records = || {
            vec![
                record("third", 3, ResetState::Finished),
                record("asked-for-long-ago", 0, ResetState::Pending),
                record("first", 1, ResetState::Finished),
                record("under-way", 2, ResetState::Verifying),
                record("second", 2, ResetState::Finished),
            ]
        };
        let names = |keep| -> Vec<String> { surplus(records(), keep).iter().map(ResourceExt::name_any).collect() };
        assert_eq!(names(1), ["first", "second"]);
        assert_eq!(names(3), Vec::<String>::new());
        assert_eq!(names(usize::MAX), Vec::<String>::new());
        assert_eq!(names(0), ["first", "second", "third"]);
    }
}
