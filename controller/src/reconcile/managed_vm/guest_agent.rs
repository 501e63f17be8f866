//! The QEMU guest agent in a VM: asked before a reset, and while all is well, as in a storm only the silence of one that used to answer proves a hang.

use super::super::cache::{Key, key_of};
use super::super::context::{Context, vm_key};
use super::observe::{Facts, cluster_of};
use defib_api::{GuestAgentCheck, GuestAgentState};
use defib_core::corroboration::ANSWER_COUNTS;
use defib_core::time::Mono;
use defib_proxmox::GuestAgent;

/// Asked with each reading of the list of all VMs, at most. One that answers does so in milliseconds, one that hangs takes 3 s, and ends the round.
const A_ROUND: usize = 4;
/// VMs that are looked at in a round to find these: of a large fleet, thousands may be stopped or not to be asked.
const LOOKED_AT: usize = 100;

/// Asks the guest agents of those VMs of a cluster that never answered, the one that was asked longest ago first.
pub async fn learn(ctx: &Context, cluster: &Key) {
    let mut known = 0;
    let mut unknown = Vec::new();
    for object in ctx.vms.state() {
        let Some(vm) = object.0.as_ref().ok().filter(|vm| cluster_of(vm) == *cluster) else {
            continue;
        };
        let (answered, asked) = ctx.remember(&vm_key(vm), |m| (m.guest_agent_answered, m.guest_agent_learnt));
        if answered {
            known += 1;
        } else {
            unknown.push((asked, object.clone()));
        }
    }
    ctx.metrics.guest_agents_known(&cluster.0, &cluster.1, known);
    // The cache has no order of its own.
    unknown.sort_by_cached_key(|(asked, object)| (*asked, key_of(object.as_ref())));
    let mut asked = 0;
    for (_, object) in unknown.iter().take(LOOKED_AT) {
        let Ok(vm) = &object.0 else { continue };
        let facts = Facts::cached(ctx, vm);
        let running = facts.row().is_some_and(|(_, status)| status == "running");
        if !running || facts.effective.guest_agent != GuestAgentCheck::Auto || !facts.is_heard_of(ctx) {
            // Its next turn comes after that of all others.
            facts.had_its_turn(ctx);
            continue;
        }
        let state = facts.learn_guest_agent(ctx).await;
        asked += 1;
        let quick = matches!(state, Some(GuestAgentState::Answers | GuestAgentState::NotConfigured));
        if asked == A_ROUND || !quick {
            return;
        }
    }
}

impl Facts {
    /// What the QEMU guest agent did when it was asked, where that was a moment ago.
    pub fn guest_agent(&self, ctx: &Context, now: Mono) -> Option<GuestAgentState> {
        let (state, at) = ctx.remember(&self.key, |m| m.guest_agent)?;
        (now.since(at) < ANSWER_COUNTS).then_some(state)
    }

    /// Asks the QEMU guest agent, and remembers what it did. One that hangs takes 3 s.
    pub async fn ask_guest_agent(&self, ctx: &Context) {
        if let Some(state) = self.what_guest_agent_does(ctx).await {
            let now = ctx.clock.now().mono;
            ctx.remember(&self.key, |m| m.guest_agent = Some((state, now)));
        }
    }

    /// Asks the QEMU guest agent of a VM that is well. What it does now says nothing of a silence that may follow, but that it answers.
    async fn learn_guest_agent(&self, ctx: &Context) -> Option<GuestAgentState> {
        let state = self.what_guest_agent_does(ctx).await;
        self.had_its_turn(ctx);
        state
    }

    fn had_its_turn(&self, ctx: &Context) {
        let now = ctx.clock.now().mono;
        ctx.remember(&self.key, |m| m.guest_agent_learnt = Some(now));
    }

    async fn what_guest_agent_does(&self, ctx: &Context) -> Option<GuestAgentState> {
        let state = match self.client()?.guest_agent(self.node()?, self.vm.spec.proxmox.vmid).await {
            Ok(GuestAgent::Answers) => GuestAgentState::Answers,
            Ok(GuestAgent::Silent) => GuestAgentState::Silent,
            Ok(GuestAgent::NotConfigured) => GuestAgentState::NotConfigured,
            Err(error) => {
                tracing::info!(vm = %self.key, %error, "the QEMU guest agent cannot be asked");
                GuestAgentState::Unknown
            }
        };
        ctx.remember(&self.key, |m| m.guest_agent_answered |= state == GuestAgentState::Answers);
        Some(state)
    }
}
