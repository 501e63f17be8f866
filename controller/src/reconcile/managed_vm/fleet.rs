//! Counts the fleet from memory, for budgets and storms.

use super::super::cache::Key;
use super::super::context::{Context, FleetCounts, Width, vm_key};
use super::observe::{alive_as, cluster_of, found, policy_of};
use defib_api::ManagedVM;
use defib_core::fleet::{Standing, lost, standing};
use defib_core::life::Vital;
use defib_core::policy::{Effective, effective, standing_pause};
use defib_core::storm::{Lost, Sky, Weather, is_forgotten, weather};
use defib_core::time::{Mono, Now};
use defib_core::window::Windows;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Counts may be this old. Many VMs that fall due together share one count; two that begin on the same count are caught by the live list of intents (rule 5).
const MAX_AGE: Duration = Duration::from_millis(200);

/// The counts at all widths.
pub fn counts(ctx: &Context) -> Arc<FleetCounts> {
    let now = ctx.clock.now();
    let mut cached = ctx.fleet.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, counts)) = cached.as_ref()
        && now.mono.since(*at) < MAX_AGE
    {
        return counts.clone();
    }
    let counts = Arc::new(count(ctx, cached.as_ref().map(|(_, c)| &c.skies), now));
    *cached = Some((now.mono, counts.clone()));
    counts
}

/// A reset has ended: the next count is made anew, or the VM itself would still be told of one under way.
pub fn count_anew(ctx: &Context) {
    let mut cached = ctx.fleet.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, _)) = cached.as_mut() {
        *at = Mono(0);
    }
}

fn count(ctx: &Context, before: Option<&HashMap<Width, Sky>>, now: Now) -> FleetCounts {
    let mut counts = FleetCounts::default();
    let mut open = HashMap::new();
    let mut widths: HashMap<Width, (u32, Vec<Lost>)> = HashMap::new();
    for object in ctx.vms.state() {
        let Ok(vm) = &object.0 else { continue };
        let Stands { standing, lost, policy } = stands(ctx, vm, &mut open, now);
        let in_flight = vm.status.as_ref().is_some_and(|s| s.current_reset.is_some());
        let policy = (vm.namespace().unwrap_or_default(), policy);
        let cluster = cluster_of(vm);
        if standing != Standing::Apart {
            for width in widths_of(&policy, &cluster, node_of(vm)) {
                let (population, all_lost) = widths.entry(width).or_default();
                *population += 1;
                all_lost.extend(lost);
            }
        }
        counts.policies.entry(policy).or_default().add(standing, in_flight);
        counts.clusters.entry(cluster).or_default().add(standing, in_flight);
        counts.all.add(standing, in_flight);
    }
    // A storm whose VMs are all gone has a cool-down all the same.
    for (width, sky) in before.into_iter().flatten() {
        if sky.stormy.is_some_and(|at| !is_forgotten(at, now)) {
            widths.entry(width.clone()).or_default();
        }
    }
    counts.skies = widths
        .into_iter()
        .map(|(width, (population, lost))| {
            let sky = Sky::look(lost, population, before.and_then(|b| b.get(&width)), now);
            (width, sky)
        })
        .collect();
    counts
}

/// The four widths at which storms are looked for.
fn widths_of(policy: &(String, Option<String>), cluster: &Key, node: Option<&str>) -> [Width; 4] {
    [
        Width::Policy(policy.clone()),
        Width::Cluster(cluster.clone()),
        Width::Node(cluster.clone(), node.unwrap_or_default().to_owned()),
        Width::All,
    ]
}

fn node_of(vm: &ManagedVM) -> Option<&str> {
    vm.status.as_ref().and_then(|s| s.node.as_deref())
}

/// What the storms around a VM mean for it.
pub fn weather_of(ctx: &Context, vm: &ManagedVM, effective: &Effective, heard: Option<Timestamp>, now: Now) -> Weather {
    let policy = (vm.namespace().unwrap_or_default(), effective.policy.clone());
    let cluster = cluster_of(vm);
    let counts = counts(ctx);
    let calm = Sky::default();
    let [policy, cluster, node, all] = widths_of(&policy, &cluster, node_of(vm)).map(|width| counts.skies.get(&width).unwrap_or(&calm));
    let skies = [
        ("this policy", policy),
        ("this ProxmoxCluster", cluster),
        ("this Proxmox node", node),
        ("all of Defib", all),
    ];
    weather(skies, heard, effective.storm_cooldown, now)
}

struct Stands {
    standing: Standing,
    lost: Option<Lost>,
    policy: Option<String>,
}

/// How one VM counts, and the name of the policy that applies to it. `open` remembers of each policy whether a maintenance window is open.
fn stands(ctx: &Context, vm: &ManagedVM, open: &mut HashMap<Key, bool>, now: Now) -> Stands {
    let (namespace, policy_name) = policy_of(vm);
    let guard = ctx.policies.get(&ObjectRef::new(&policy_name).within(&namespace));
    let policy = guard.as_ref().and_then(|g| g.0.as_ref().ok());
    let cluster = ctx
        .clusters
        .get(&ObjectRef::new(&vm.spec.proxmox.cluster_ref.name).within(&namespace));
    let cluster_pauses = cluster
        .as_ref()
        .and_then(|g| g.0.as_ref().ok())
        .map_or(&[][..], |c| c.spec.pauses.as_slice());
    let policy_pauses = policy.map_or(&[][..], |p| p.spec.pauses.as_slice());
    let pauses = vm.spec.pauses.iter().chain(policy_pauses).chain(cluster_pauses);
    let window = policy.is_some_and(|p| {
        *open
            .entry((namespace.clone(), policy_name.clone()))
            .or_insert_with(|| matches!(ctx.windows(Some(p), now.wall), Windows::Open { .. }))
    });
    let paused = window || standing_pause(pauses, now.wall).is_some();
    let effective = effective(&vm.spec, found(vm, policy));
    let key = vm_key(vm);
    let heartbeat = ctx.ledger.view(&key);
    let hold_lifted = ctx.remember(&key, |m| m.hold_lifted);
    let listening = ctx.witness.view().since;
    let vital = Vital {
        effective: &effective,
        status: vm.status.as_ref(),
        heartbeat: &heartbeat,
        since: listening.max(hold_lifted),
        listening,
    };
    let standing = match standing(vm, &vital, paused, now) {
        // A machine is ill once, however many ManagedVMs it has: it counts as the oldest, and not where it lives under another name.
        Standing::Unhealthy if ctx.machines.older(vm).is_some() || alive_as(ctx, vm, &effective, now).is_some() => Standing::Apart,
        standing => standing,
    };
    Stands {
        standing,
        lost: lost(&vital, now),
        policy: effective.policy,
    }
}
