//! Act: starts a VM that is off and is to be on (`powerState: Running`).

use super::super::context::Context;
use super::super::proxmox::ask_for;
use super::super::{Error, again};
use super::observe::Facts;
use super::{books, report};
use defib_core::decide::Decision;
use defib_core::power::started;
use defib_proxmox::PowerAction;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use serde_json::json;
use std::time::Duration;

/// Counts the start on exactly the object that was decided on, then asks for it. A crash in between costs one of the starts that are allowed.
///
/// # Errors
/// When it could not be counted; nothing is sent then.
pub async fn start(ctx: &Context, facts: &Facts, decision: &Decision) -> Result<Action, Error> {
    let recent = facts.vm.status.as_ref().map_or(&[][..], |s| s.recent_starts.as_slice());
    let starts = started(recent, ctx.clock.now());
    let conditions = report::conditions(ctx, facts, decision);
    let status = json!({ "recentStarts": starts, "conditions": conditions });
    books::patch(ctx, "count the start", &facts.vm, status).await?;
    let answer = ask(facts).await;
    ctx.metrics.start_sent(answer.is_ok());
    let (kind, said) = match &answer {
        Ok(upid) => (EventType::Normal, upid),
        Err(why) => (EventType::Warning, why),
    };
    let note = format!("powerState is Running and the VM was off; Proxmox is asked to start it: {said}");
    ctx.events.publish(&facts.vm, kind, "StartSent", &note).await;
    report::events(ctx, facts, &conditions).await;
    Ok(again(Duration::from_secs(5)))
}

async fn ask(facts: &Facts) -> Result<String, String> {
    let (Some(client), Some(node)) = (facts.client(), facts.node()) else {
        return Err("the ProxmoxCluster cannot be used any more".into());
    };
    let answer = ask_for(client, PowerAction::Start, node, facts.vm.spec.proxmox.vmid).await;
    answer.map(|upid| upid.to_string()).map_err(|e| e.to_string())
}
