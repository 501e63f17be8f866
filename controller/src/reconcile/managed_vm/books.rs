//! Writes of the journal: compare-and-swap on the resourceVersion, never repeated blindly.

use super::super::Error;
use super::super::cache::{Cached, strip};
use super::super::context::{Context, vm_key};
use super::super::kube_api::{DECIDER, call};
use crate::heartbeat::VmKey;
use defib_api::{Condition, CurrentReset, ManagedVM};
use defib_core::journal::Books;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::sync::Arc;

/// How often an update is tried again when the object moved on in between. Conflicts with the publisher resolve in one or two rounds.
const ROUNDS: u32 = 5;

/// Merge-patches the status of exactly this version of the object.
///
/// # Errors
/// [`Error::Conflict`] when the object has changed since.
pub async fn patch(ctx: &Context, step: &'static str, vm: &ManagedVM, status: serde_json::Value) -> Result<ManagedVM, Error> {
    let vms: Api<ManagedVM> = Api::namespaced(ctx.client.clone(), &vm.namespace().unwrap_or_default());
    let body = json!({
        "metadata": { "resourceVersion": vm.resource_version() },
        "status": status,
    });
    let name = vm.name_any();
    let written = call(step, vms.patch_status(&name, &PatchParams::apply(DECIDER), &Patch::Merge(&body))).await;
    ctx.witness
        .wrote(!matches!(written, Err(Error::Kubernetes { .. } | Error::Timeout { .. })));
    let newest = match &written {
        // What was decided on is old, and a watch that tells nothing would leave it so for minutes, and every write of ours in vain.
        Err(Error::Conflict { .. }) => call("read the ManagedVM", vms.get(&name)).await.ok(),
        _ => written.as_ref().ok().cloned(),
    };
    if let Some(mut newest) = newest {
        // As the watch keeps it: field managers are over half of an object, and nobody here reads them.
        strip(&mut newest);
        newest.strip_unread();
        ctx.remember(&vm_key(vm), |m| m.latest = Some(Arc::new(newest)));
    }
    written
}

fn fields(books: &Books) -> serde_json::Value {
    json!({ "currentReset": books.current, "recentResets": books.recent, "episode": books.episode })
}

/// Writes the books over exactly this version of the object.
async fn write(ctx: &Context, vm: &ManagedVM, books: &Books) -> Result<ManagedVM, Error> {
    patch(ctx, "write the journal", vm, fields(books)).await
}

/// Enters an intent over exactly the version that was decided on, with the conditions that say so. When the answer is lost, the object tells whether it was
/// entered.
///
/// # Errors
/// When it was not entered, or nobody can tell.
pub async fn enter(ctx: &Context, vm: &ManagedVM, books: &Books, conditions: &[Condition]) -> Result<(), Error> {
    let mut status = fields(books);
    status["conditions"] = json!(conditions);
    let Err(error) = patch(ctx, "write the journal", vm, status).await else {
        return Ok(());
    };
    let vms: Api<ManagedVM> = Api::namespaced(ctx.client.clone(), &vm.namespace().unwrap_or_default());
    let live = call("read the ManagedVM", vms.get(&vm.name_any())).await?;
    let entered = live.status.and_then(|s| s.current_reset);
    if entered.is_some() && entered == books.current {
        Ok(())
    } else {
        Err(error)
    }
}

/// Changes the books of a reset that is ours, whatever version the object has reached meanwhile.
///
/// # Errors
/// [`Error::Conflict`] when the reset is not ours any more.
pub async fn update(ctx: &Context, key: &VmKey, ours: &CurrentReset, change: impl Fn(Books) -> Books) -> Result<ManagedVM, Error> {
    let vms: Api<ManagedVM> = Api::namespaced(ctx.client.clone(), key.namespace());
    let step = "write the journal";
    for _ in 0..ROUNDS {
        let live = call("read the ManagedVM", vms.get(key.name())).await?;
        let books = Books::of(live.status.as_ref());
        if books.current.as_ref().is_none_or(|c| c.name != ours.name || c.holder != ctx.me) {
            return Err(Error::Conflict { step });
        }
        match write(ctx, &live, &change(books)).await {
            Err(Error::Conflict { .. }) => {}
            done => return done,
        }
    }
    Err(Error::Conflict { step })
}
