//! Act: the protocol of a reset (rule 5), from the intent to the one POST. The order of these steps is the safety of Defib; each simpler order resets a healthy VM or one VM twice.

use super::super::context::Context;
use super::super::kube_api::call;
use super::super::proxmox::PowerConnection;
use super::super::{Error, again};
use super::observe::{Facts, cluster_of, policy_of};
use super::{books, progress, record, report};
use defib_api::{CurrentReset, ManagedVM, Outcome, StepAction, Trigger};
use defib_core::decide::{Cause, Decision, Intent};
use defib_core::fleet::over_committed;
use defib_core::journal::{Books, INTENT_EXPIRES, Sent, sent};
use defib_core::time::Now;
use defib_proxmox::{Delivery, PowerAction};
use kube::Api;
use kube::api::ListParams;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use serde_json::json;
use std::time::Duration;

/// Why an intent is taken back.
pub struct Withdrawal {
    /// One word of constant spelling.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

/// Carries out a reset that every gate let pass.
///
/// # Errors
/// When the journal could not be written, which leaves everything as it was, or nobody can tell: the journal then tells.
pub async fn carry_out(ctx: &Context, facts: &Facts, decision: &Decision, intent: &Intent) -> Result<Action, Error> {
    let decided = ctx.clock.now();
    let current = &intent.current;
    let books = Books::of(facts.vm.status.as_ref()).begin(current.clone(), intent.episode.clone());
    let conditions = report::beginning(ctx, facts, decision, current);
    books::enter(ctx, &facts.vm, &books, &conditions).await?;
    // From here on the journal is the truth: whatever dies, whoever finds it knows that this was intended.
    let connection = match prepare(ctx, facts, intent, decided).await {
        Ok(connection) => connection,
        Err(withdrawal) => return withdraw(ctx, facts, current, withdrawal).await,
    };
    let vmid = facts.vm.spec.proxmox.vmid;
    let sent_at = ctx.clock.now();
    let answer = connection.post(power_action(current.action), &current.node, vmid).await;
    let outcome = match answer {
        Ok(upid) => Sent::Task { upid: upid.to_string() },
        Err(error) => {
            let text = error.to_string();
            match error.delivery() {
                Delivery::NotDelivered => Sent::NotDelivered { text },
                Delivery::Ambiguous => Sent::Ambiguous { text },
                Delivery::Answered => Sent::Refused { text },
            }
        }
    };
    // Only now: no courtesy may take time between the decision and the request.
    report::events(ctx, facts, &conditions).await;
    tracing::info!(vm = %facts.key, reset = current.name, action = current.action.as_str(), ?outcome, "requested of Proxmox");
    ctx.metrics.reset_sent(&outcome);
    if !matches!(outcome, Sent::NotDelivered { .. } | Sent::Refused { .. }) {
        let (name, action) = (&current.name, current.action.as_str());
        let note = format!("VMReset {name}, attempt {} ({action}): {}", current.attempt, intent.why);
        ctx.events
            .publish_of(&facts.vm, &current.name, EventType::Warning, "ResetSent", &note)
            .await;
    }
    progress::apply(ctx, facts, current, sent(current, outcome, sent_at)).await
}

/// Of a VM that is only observed: says that every gate would let a reset pass, and does nothing. The silence is marked first, so that it has one record, of one
/// name, however often this is tried.
///
/// # Errors
/// When it could not be written.
pub async fn only_record(ctx: &Context, facts: &Facts, decision: &Decision, intent: &Intent) -> Result<Action, Error> {
    let marked = facts.vm.status.as_ref().and_then(|s| s.episode.as_ref()) == intent.episode.as_ref();
    if !marked {
        let conditions = report::conditions(ctx, facts, decision);
        let status = json!({ "episode": intent.episode, "conditions": conditions });
        books::patch(ctx, "mark the silence", &facts.vm, status).await?;
        report::events(ctx, facts, &conditions).await;
    }
    record::would_reset(ctx, &facts.vm, intent, ctx.clock.now()).await?;
    if !marked {
        ctx.metrics.reset_finished(Outcome::WouldReset);
        let note = format!(
            "VMReset {}: {}; nothing is done, as this VM is only observed",
            intent.current.name, intent.why
        );
        ctx.events
            .publish_of(&facts.vm, &intent.current.name, EventType::Warning, "WouldReset", &note)
            .await;
        record::retain(ctx, &facts.vm, facts.effective.reset_history_limit).await;
    }
    // By then the watch has brought the record.
    Ok(again(Duration::from_secs(1)))
}

/// What an attempt asks of Proxmox.
pub fn power_action(action: StepAction) -> PowerAction {
    match action {
        StepAction::GuestReboot => PowerAction::Reboot,
        StepAction::Reset => PowerAction::Reset,
        // The start after it is owed: see `vm_reset::start`.
        StepAction::PowerCycle => PowerAction::Stop,
    }
}

/// All between the journal and the POST.
async fn prepare(ctx: &Context, facts: &Facts, intent: &Intent, decided: Now) -> Result<Box<dyn PowerConnection>, Withdrawal> {
    let withdrawal = |reason, message: String| Withdrawal { reason, message };
    if intent.current.trigger == Trigger::Automatic {
        let live = live_intents(ctx, facts).await.map_err(|e| withdrawal(e.reason(), e.to_string()))?;
        if over_committed(live, &facts.effective.limits(), &ctx.limits) {
            return Err(withdrawal(
                "MaxInFlight",
                format!("{} resets were begun at the same time, more than the budgets allow", live[2]),
            ));
        }
    }
    record::open(ctx, &facts.vm, intent)
        .await
        .map_err(|e| withdrawal(e.reason(), format!("its VMReset could not be written: {e}")))?;
    let Some(client) = facts.client() else {
        return Err(withdrawal(
            "ProxmoxUnreachable",
            "the ProxmoxCluster cannot be used any more".into(),
        ));
    };
    let connection = client
        .open(Some(&intent.current.node))
        .await
        .map_err(|e| withdrawal(e.reason(), e.to_string()))?;
    last_check(ctx, facts, intent, decided)?;
    Ok(connection)
}

/// The last look before the request leaves. After it there is only the fence: Proxmox closes a connection that was idle for 5 s.
fn last_check(ctx: &Context, facts: &Facts, intent: &Intent, decided: Now) -> Result<(), Withdrawal> {
    let withdrawal = |reason, message: &str| {
        Err(Withdrawal {
            reason,
            message: message.into(),
        })
    };
    let now = ctx.clock.now();
    if now.mono.since(decided.mono) >= INTENT_EXPIRES || now.age(intent.current.intent_time) >= INTENT_EXPIRES {
        return withdrawal(
            "IntentExpired",
            "it was decided over 10 s ago, and what was true then may not be any more",
        );
    }
    if !ctx.witness.holds_lease() {
        return withdrawal("LeaseNotHeld", "this process does not hold the lease any more");
    }
    if intent.current.trigger == Trigger::Automatic {
        let view = ctx.witness.view();
        // Also a trouble that is over: the VM may have spoken meanwhile, and its report may be unread yet, or was turned away.
        let since_decided = view.newest.filter(|_| view.since > now.mono_of(intent.current.intent_time));
        if let Some(trouble) = view.trouble.or(since_decided) {
            return withdrawal(trouble.reason(), &trouble.message());
        }
        if intent.cause == Some(Cause::Silence) && ctx.ledger.view(&facts.key).last_life > facts.last_life() {
            return withdrawal("HeartbeatArrived", "the VM was heard of at the last moment");
        }
    }
    Ok(())
}

/// Intents that stand in the journals now: of the same policy, the same cluster, and all.
async fn live_intents(ctx: &Context, facts: &Facts) -> Result<[u32; 3], Error> {
    let all: Api<ManagedVM> = Api::all(ctx.client.clone());
    // The API server keeps this field beside each object in its cache, so that the list is cheap and short whatever the size of the fleet.
    let intents = call(
        "list the resets under way",
        all.list(&ListParams::default().fields("status.currentReset.name!=")),
    )
    .await?;
    let mut counts = [0u32; 3];
    for vm in &intents.items {
        counts[0] += u32::from(policy_of(vm) == policy_of(&facts.vm));
        counts[1] += u32::from(cluster_of(vm) == facts.cluster_key());
        counts[2] += 1;
    }
    Ok(counts)
}

/// Takes an intent back: nothing happened to the VM, and it costs no attempt.
///
/// # Errors
/// When the journal could not be written. It is remembered, so that the next look takes it back.
pub async fn withdraw(ctx: &Context, facts: &Facts, current: &CurrentReset, why: Withdrawal) -> Result<Action, Error> {
    ctx.remember(&facts.key, |m| m.withdraw = Some((current.name.clone(), current.intent_time)));
    record::withdraw(ctx, &facts.vm, current, &why).await?;
    books::update(ctx, &facts.key, current, Books::withdraw).await?;
    let now = ctx.clock.now().mono;
    let wait = ctx.remember(&facts.key, |m| {
        m.withdraw = None;
        let count = m.withdrawals.0.saturating_add(1);
        let wait = super::back_off(count);
        m.withdrawals = (count, now.plus(wait));
        wait
    });
    ctx.metrics.reset_withdrawn(why.reason);
    let note = format!(
        "VMReset {} was taken back ({}): {}; it costs no attempt",
        current.name, why.reason, why.message
    );
    ctx.events
        .publish_of(&facts.vm, &current.name, EventType::Normal, "ResetWithdrawn", &note)
        .await;
    Ok(again(wait))
}
