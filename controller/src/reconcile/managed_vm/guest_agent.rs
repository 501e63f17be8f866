//! Learns which QEMU guest agents answer while all is well: only the silence of one that used to answer proves a hang in a storm.

use super::super::cache::{Key, key_of};
use super::super::context::{Context, vm_key};
use super::observe::Facts;
use defib_api::{GuestAgentCheck, GuestAgentState, ManagedVM};
use kube::ResourceExt;

/// Asked with each reading of the list of all VMs, at most. One that answers does so in milliseconds, one that hangs takes 3 s, and ends the round.
const A_ROUND: usize = 4;

/// Asks the guest agents of those VMs of a cluster that never answered, the one that was asked longest ago first.
pub async fn learn(ctx: &Context, cluster: &Key) {
    let mut known = 0;
    let mut unknown = Vec::new();
    for object in ctx.vms.state() {
        let Some(vm) = object.0.as_ref().ok().filter(|vm| is_of(vm, cluster)) else {
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
    for (_, object) in &unknown {
        let Ok(vm) = &object.0 else { continue };
        let facts = Facts::cached(ctx, vm);
        let running = facts.row().is_some_and(|(_, status)| status == "running");
        if !running || facts.effective.guest_agent != GuestAgentCheck::Auto || !facts.is_heard_of(ctx) {
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

fn is_of(vm: &ManagedVM, cluster: &Key) -> bool {
    vm.namespace().as_deref() == Some(&cluster.0) && vm.spec.proxmox.cluster_ref.name == cluster.1
}
