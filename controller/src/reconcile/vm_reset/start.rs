//! The start that is owed to a VM which a reset stopped (rule 8). It hangs on the VMReset alone: whatever becomes of journal, ManagedVM or this process, a finalizer
//! keeps the record, with all that is needed, until the VM runs.

use super::super::cache::{Key, get, key_of};
use super::super::context::Context;
use super::super::kube_api::{DECIDER, call};
use super::super::proxmox::{PowerConnection, Proxmox};
use super::super::{Error, again, at_deadline};
use defib_api::{CurrentReset, ManagedVM, StartOwed, VMReset};
use defib_core::start::{OVERDUE, Payment, Seen, asked, pay, stop_answered, told_overdue};
use defib_core::time::Now;
use defib_proxmox::{PowerAction, PowerState, TaskStatus};
use futures::future::join_all;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Finalizer of a VMReset whose VM is owed a start, and the label by which those are found.
pub const OWED: &str = "defib.dev/start-owed";
/// How long a process that is asked to end goes on paying: QEMU may take half a minute to end, and a start some seconds.
const AT_THE_END: Duration = Duration::from_secs(40);
/// How often it then looks.
const LOOK: Duration = Duration::from_secs(1);
/// Owed starts that are listed at the end. There are never more than resets under way and those that something keeps from starting.
const MOST: u32 = 500;
/// How often a change of the finalizer is tried again when the object moved on in between.
const ROUNDS: u32 = 5;
/// A record without its debt waits for the process that is writing it.
const UNWRITTEN: Duration = Duration::from_secs(5);

/// Whether a start is owed, or may be.
pub fn is_owed(reset: &VMReset) -> bool {
    reset.finalizers().iter().any(|f| f == OWED)
}

/// The labels of a record whose VM is owed a start.
pub fn label() -> BTreeMap<String, String> {
    BTreeMap::from([(OWED.to_owned(), "true".to_owned())])
}

/// The debt, before the stop is sent.
pub fn debt(vm: &ManagedVM, current: &CurrentReset) -> StartOwed {
    StartOwed {
        since: current.intent_time,
        cluster_ref: vm.spec.proxmox.cluster_ref.clone(),
        vmid: vm.spec.proxmox.vmid,
        identity: vm.status.as_ref().and_then(|s| s.identity.clone()),
        attempts: 0,
        asked_time: None,
        answer: None,
        overdue_time: None,
    }
}

/// Holds an existing VMReset, a person's request, until the start is made.
///
/// # Errors
/// When it could not be written.
pub async fn hold(ctx: &Context, namespace: &str, name: &str) -> Result<(), Error> {
    mark(ctx, namespace, name, true).await
}

/// Nothing is owed: the debt is struck out first, then the record let go.
///
/// # Errors
/// When it could not be written. A record that is gone is settled.
pub async fn settle(ctx: &Context, namespace: &str, name: &str) -> Result<(), Error> {
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), namespace);
    let (body, by) = (
        Patch::Merge(json!({ "status": { "startOwed": null } })),
        PatchParams::apply(DECIDER),
    );
    match call("strike out the start that was owed", resets.patch_status(name, &by, &body)).await {
        Err(Error::Gone { .. }) => return Ok(()),
        done => done?,
    };
    mark(ctx, namespace, name, false).await
}

/// Sets or removes finalizer and label, and leaves those of others.
async fn mark(ctx: &Context, namespace: &str, name: &str, owed: bool) -> Result<(), Error> {
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), namespace);
    let step = "hold the VMReset until its VM is started";
    for _ in 0..ROUNDS {
        let live = match call("read the VMReset", resets.get(name)).await {
            Err(Error::Gone { .. }) if !owed => return Ok(()),
            read => read?,
        };
        // One that owed nothing when it was looked at may owe a start by now, as its debt was just being written: that one is not let go.
        let in_debt = live.status.as_ref().is_some_and(|s| s.start_owed.is_some());
        if is_owed(&live) == owed || (in_debt && !owed) {
            return Ok(());
        }
        let mut finalizers = live.finalizers().to_vec();
        finalizers.retain(|f| f != OWED);
        if owed {
            finalizers.push(OWED.to_owned());
        }
        let body = json!({ "metadata": {
            "resourceVersion": live.resource_version(),
            "finalizers": finalizers,
            "labels": { OWED: owed.then_some("true") },
        } });
        match call(step, resets.patch(name, &PatchParams::apply(DECIDER), &Patch::Merge(body))).await {
            Err(Error::Conflict { .. }) => {}
            Err(Error::Gone { .. }) if !owed => return Ok(()),
            done => return done.map(|_| ()),
        }
    }
    Err(Error::Conflict { step })
}

/// Looks at a VMReset whose VM is owed a start. Pauses, modes and policies mean nothing here: what was stopped is started.
///
/// # Errors
/// When it could not be written.
pub async fn reconcile(ctx: &Context, (namespace, name): &Key) -> Result<Action, Error> {
    // Live, as a watch may be frozen for a minute: by the record of before, the stop would not have ended yet, or Proxmox not have been asked.
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), namespace);
    let live = call("read the VMReset", resets.get_opt(name)).await?;
    let Some(reset) = &live.filter(is_owed) else {
        return Ok(Action::await_change());
    };
    let Some(owed) = reset.status.as_ref().and_then(|s| s.start_owed.as_ref()) else {
        // Either it is about to be written, before anything is sent, or it was struck out a moment ago. The cache may be behind the journal.
        let vms: Api<ManagedVM> = Api::namespaced(ctx.client.clone(), namespace);
        let vm = call("read the ManagedVM", vms.get_opt(&reset.spec.vm_ref.name)).await?;
        if vm.is_some_and(|vm| in_journal(&vm, name).is_some()) {
            return Ok(again(UNWRITTEN));
        }
        mark(ctx, namespace, name, false).await?;
        // If it was not let go: the debt in it is no news that would wake us.
        return Ok(again(UNWRITTEN));
    };
    let vm = get::<ManagedVM>(&ctx.vms, namespace, &reset.spec.vm_ref.name);
    let journal = vm.as_ref().and_then(|vm| in_journal(vm, name));
    let vm_of_proxmox = VmOfProxmox::find(ctx, reset, owed).await;
    let now = ctx.clock.now();
    let answered = match (stop_answered(reset, journal.is_none(), now), journal) {
        // Whoever followed it died before it was in the record, and it may be a minute until another one does.
        (None, Some(journal)) => journal.task_end_time,
        // Nobody else follows its task any more.
        (None, None) if vm_of_proxmox.stop_ended(reset).await => reset.status.as_ref().and_then(|s| s.sent_time.or(s.intent_time)),
        (known, _) => known,
    };
    match pay(owed, answered, &vm_of_proxmox.seen, now) {
        Payment::Wait(wait) => {
            overdue(ctx, reset, owed, &vm_of_proxmox.seen, now).await?;
            Ok(at_deadline(wait))
        }
        Payment::Start => {
            start(ctx, reset, owed, &vm_of_proxmox).await?;
            Ok(again(LOOK))
        }
        Payment::Settled { reason, message } => {
            settle(ctx, namespace, name).await?;
            let kind = if reason == "Running" {
                EventType::Normal
            } else {
                EventType::Warning
            };
            tell(ctx, reset, kind, "StartSettled", &format!("VMReset {name}: {message}")).await;
            Ok(again(UNWRITTEN))
        }
    }
}

/// The watch has not brought a record that owes a start, and so nobody looks at it: it is done by whoever follows the reset, whose stop has ended. Whether there
/// was such a need.
///
/// # Errors
/// When it could not be written.
pub async fn in_place_of_the_watch(ctx: &Context, vm: &ManagedVM, current: &CurrentReset) -> Result<bool, Error> {
    let (namespace, _) = key_of(vm);
    let watched: Option<VMReset> = get(&ctx.resets, &namespace, &current.name);
    let is_known = |r: VMReset| is_owed(&r) || r.status.is_some_and(|s| s.task_end_time == current.task_end_time);
    if !current.action.owes_start() || watched.is_some_and(is_known) {
        return Ok(false);
    }
    // A watch that works brings it within this time, and two would start the VM at once.
    if current.task_end_time.is_some_and(|ended| ctx.clock.now().age(ended) >= UNWRITTEN) {
        reconcile(ctx, &(namespace, current.name.clone())).await?;
    }
    Ok(true)
}

/// Pays what is owed before this process ends, as far as it can: from then on until another one runs nobody else would.
pub async fn pay_all(ctx: &Context) {
    let resets: Api<VMReset> = Api::all(ctx.client.clone());
    let owed = ListParams::default().labels(OWED).limit(MOST);
    let listed = match call("list the starts that are owed", resets.list(&owed)).await {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(%error, "starts that are owed are left to the next process");
            return;
        }
    };
    if listed.items.is_empty() {
        return;
    }
    tracing::info!(owed = listed.items.len(), "VMs that were stopped are started first");
    let all = join_all(listed.items.iter().map(|reset| pay_now(ctx, reset)));
    if tokio::time::timeout(AT_THE_END, all).await.is_err() {
        tracing::warn!("some VMs that were stopped could not be started in time; the next process starts them");
    }
}

/// Until the VM is on again. Nobody follows the task of its stop any more.
async fn pay_now(ctx: &Context, listed: &VMReset) {
    let (namespace, name) = key_of(listed);
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), &namespace);
    loop {
        match call("read the VMReset", resets.get_opt(&name)).await {
            Ok(Some(reset)) if is_owed(&reset) => {
                let Some(owed) = reset.status.as_ref().and_then(|s| s.start_owed.clone()) else {
                    return;
                };
                let vm = VmOfProxmox::find(ctx, &reset, &owed).await;
                let now = ctx.clock.now();
                let answered = match stop_answered(&reset, false, now) {
                    None if vm.stop_ended(&reset).await => Some(now.wall),
                    known => known,
                };
                match pay(&owed, answered, &vm.seen, now) {
                    Payment::Start => {
                        if let Err(error) = start(ctx, &reset, &owed, &vm).await {
                            tracing::warn!(reset = name, %error, "cannot write that the VM was started");
                        }
                    }
                    Payment::Settled { .. } => return,
                    Payment::Wait(_) if owed.asked_time.is_some() && matches!(vm.seen, Seen::There { is_on: true, .. }) => return,
                    Payment::Wait(_) => {}
                }
            }
            Ok(_) => return,
            Err(error) => tracing::warn!(reset = name, %error, "a start may be owed"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn start(ctx: &Context, reset: &VMReset, owed: &StartOwed, vm: &VmOfProxmox) -> Result<(), Error> {
    let (namespace, name) = key_of(reset);
    let answer = match vm.open().await {
        Ok((client, node, connection)) => {
            // This process may have stood still since it looked: meanwhile another one may have started the VM, and a person stopped it. Proxmox closes a connection
            // that was idle for 5 s, so what is seen from here on is not older than that.
            if !is_still_due(ctx, reset, owed, client, node).await? {
                return Ok(());
            }
            let answer = connection.post(PowerAction::Start, node, owed.vmid).await;
            answer.map(|upid| upid.to_string()).map_err(|e| e.to_string())
        }
        Err(why) => Err(why),
    };
    let now = ctx.clock.now();
    let (told, kind) = match &answer {
        Ok(upid) => (upid.clone(), EventType::Normal),
        Err(why) => (why.clone(), EventType::Warning),
    };
    ctx.metrics.start_sent(answer.is_ok());
    let note = format!("VMReset {name}: the VM is off after its stop, and Proxmox is asked to start it: {told}");
    tell(ctx, reset, kind, "StartSent", &note).await;
    write(ctx, &namespace, &name, &asked(owed, &told, now)).await
}

/// Whether the debt is as it was, and the VM off, now that the connection is open.
async fn is_still_due(ctx: &Context, reset: &VMReset, owed: &StartOwed, client: &dyn Proxmox, node: &str) -> Result<bool, Error> {
    let (namespace, name) = key_of(reset);
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), &namespace);
    let live = call("read the VMReset", resets.get_opt(&name)).await?.filter(is_owed);
    if live.and_then(|live| live.status).and_then(|s| s.start_owed).as_ref() != Some(owed) {
        return Ok(false);
    }
    Ok(matches!(there(client, node, owed.vmid).await, Ok(Seen::There { is_on: false, .. })))
}

/// Tells a person, once, when something keeps a VM from starting.
async fn overdue(ctx: &Context, reset: &VMReset, owed: &StartOwed, seen: &Seen, now: Now) -> Result<(), Error> {
    let is_on = matches!(seen, Seen::There { is_on: true, .. });
    if owed.overdue_time.is_some() || is_on || now.age(owed.since) < OVERDUE {
        return Ok(());
    }
    let (namespace, name) = key_of(reset);
    let why = match seen {
        Seen::Unreachable(why) => why.clone(),
        Seen::There { lock: Some(lock), .. } => format!("Proxmox holds a lock on it ({lock})"),
        _ => owed.answer.clone().unwrap_or_else(|| "its stop is still under way".into()),
    };
    write(ctx, &namespace, &name, &told_overdue(owed, &why, now)).await?;
    let note = format!(
        "VMReset {name}: VM {} was stopped {} s ago and does not run yet: {why}; it is started as soon as that is possible",
        owed.vmid,
        OVERDUE.as_secs()
    );
    tell(ctx, reset, EventType::Warning, "StartOverdue", &note).await;
    Ok(())
}

async fn write(ctx: &Context, namespace: &str, name: &str, owed: &StartOwed) -> Result<(), Error> {
    let resets: Api<VMReset> = Api::namespaced(ctx.client.clone(), namespace);
    let (body, by) = (
        Patch::Merge(json!({ "status": { "startOwed": owed } })),
        PatchParams::apply(DECIDER),
    );
    let written = call("write the start that is owed", resets.patch_status(name, &by, &body)).await;
    written.map(|_| ())
}

/// An event about the ManagedVM, where people look; about the record where that is gone.
async fn tell(ctx: &Context, reset: &VMReset, kind: EventType, reason: &str, note: &str) {
    let (namespace, _) = key_of(reset);
    match get::<ManagedVM>(&ctx.vms, &namespace, &reset.spec.vm_ref.name) {
        Some(vm) => ctx.events.publish(&vm, kind, reason, note).await,
        None => ctx.events.publish(reset, kind, reason, note).await,
    }
}

fn in_journal<'a>(vm: &'a ManagedVM, reset: &str) -> Option<&'a CurrentReset> {
    let current = vm.status.as_ref().and_then(|s| s.current_reset.as_ref());
    current.filter(|c| c.name == reset)
}

/// The VM in Proxmox, found without its ManagedVM.
struct VmOfProxmox {
    client: Option<super::super::proxmox::Client>,
    node: Option<String>,
    seen: Seen,
}

impl VmOfProxmox {
    async fn find(ctx: &Context, reset: &VMReset, owed: &StartOwed) -> Self {
        let cluster = (reset.namespace().unwrap_or_default(), owed.cluster_ref.name.clone());
        let view = ctx.cluster_view(&cluster);
        let Some(client) = view.as_ref().and_then(|v| v.client.clone()) else {
            return Self {
                client: None,
                node: None,
                seen: Seen::Unreachable(format!("ProxmoxCluster {:?} cannot be used", cluster.1)),
            };
        };
        let row = view.as_ref().and_then(|v| v.vms.get(&owed.vmid)).map(|row| row.node.to_string());
        let known = row.or_else(|| reset.status.as_ref().and_then(|s| s.node.clone()));
        let (node, seen) = seen(client.as_ref(), known, owed.vmid).await;
        Self {
            client: Some(client),
            node,
            seen,
        }
    }

    /// A connection for its start.
    async fn open(&self) -> Result<(&dyn Proxmox, &str, Box<dyn PowerConnection>), String> {
        let (Some(client), Some(node)) = (&self.client, &self.node) else {
            return Err("the VM was not found".into());
        };
        let connection = client.open(Some(node)).await.map_err(|e| e.to_string())?;
        Ok((client.as_ref(), node, connection))
    }

    /// Whether the task of the stop has ended.
    async fn stop_ended(&self, reset: &VMReset) -> bool {
        let upid = reset
            .status
            .as_ref()
            .and_then(|s| s.upid.as_ref())
            .and_then(|upid| upid.parse().ok());
        let (Some(client), Some(upid)) = (&self.client, upid) else {
            return false;
        };
        matches!(client.task_status(&upid).await, Ok(TaskStatus::Finished(_)))
    }
}

/// Looks where it was last, and where it is not there, in the list of all.
async fn seen(client: &dyn Proxmox, known: Option<String>, vmid: u32) -> (Option<String>, Seen) {
    use defib_proxmox::Error::{NodeUnreachable, NotOnNode};
    let unreachable = |error: defib_proxmox::Error| Seen::Unreachable(error.to_string());
    if let Some(node) = known {
        match there(client, &node, vmid).await {
            Ok(seen) => return (Some(node), seen),
            Err(NotOnNode { .. } | NodeUnreachable { .. }) => {}
            Err(error) => return (Some(node), unreachable(error)),
        }
    }
    let node = match client.resources().await {
        Ok(rows) => rows.into_iter().find(|row| row.vmid == vmid).map(|row| row.node),
        Err(error) => return (None, unreachable(error)),
    };
    let Some(node) = node else { return (None, Seen::Gone) };
    match there(client, &node, vmid).await {
        Ok(seen) => (Some(node), seen),
        Err(error) => (Some(node), unreachable(error)),
    }
}

async fn there(client: &dyn Proxmox, node: &str, vmid: u32) -> Result<Seen, defib_proxmox::Error> {
    let (status, config) = tokio::try_join!(client.vm_status(node, vmid), client.vm_config(node, vmid))?;
    Ok(Seen::There {
        uuid: config.smbios_uuid,
        is_on: status.status == PowerState::Running,
        lock: status.lock.or(config.lock),
    })
}
