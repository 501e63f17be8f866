//! Starts the four controllers over one watch a kind.

use super::cache::{Guarded, Key, key_of, watch};
use super::context::{Context, vm_key};
use super::{Error, health_policy, managed_vm, proxmox_cluster, vm_reset};
use crate::heartbeat::ledger::Facts;
use crate::jitter;
use defib_api::{HealthPolicy, ManagedVM, ProxmoxCluster, VMReset};
use defib_core::policy::built_in;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, stream};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, store::Writer};
use kube::runtime::watcher::Event;
use kube::runtime::{PredicateConfig, WatchStreamExt};
use kube::{Resource, ResourceExt};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Reconciles under way at once. A reset waits for Proxmox for up to 40 s inside its reconcile; so many slow ones leave room for all others.
const CONCURRENCY: u16 = 64;

/// The writing ends of the stores.
pub struct Writers {
    /// ManagedVMs.
    pub vms: Writer<Guarded<ManagedVM>>,
    /// HealthPolicies.
    pub policies: Writer<Guarded<HealthPolicy>>,
    /// ProxmoxClusters.
    pub clusters: Writer<Guarded<ProxmoxCluster>>,
    /// VMResets.
    pub resets: Writer<Guarded<VMReset>>,
}

/// Starts watches and controllers. They end when `stop` is cancelled, each after the reconciles that are under way.
pub fn start(ctx: &Arc<Context>, writers: Writers, stop: &CancellationToken) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let config = || Config::default().concurrency(CONCURRENCY);

    let vms = watch(&ctx.client, writers.vms, track_vms(ctx.clone())).predicate_filter(news_of_vm, PredicateConfig::default());
    let run = Controller::for_stream(vms, ctx.vms.clone())
        .with_config(config())
        .reconcile_on(wakes(ctx.clone()))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(each(managed_vm::reconcile), managed_vm::error_policy, ctx.clone());
    tasks.spawn(run.for_each(|_| async {}));

    // A policy or a cluster that changed concerns its VMs.
    let waker = ctx.clone();
    let policies = watch(&ctx.client, writers.policies, move |event| {
        if let Event::Delete(object) = event {
            waker.forget_windows(&key_of(object));
        }
        if let Some(changed) = Changed::of(event) {
            waker.wake_vms(|vm| changed.is(&managed_vm::policy_of(vm)));
        }
    })
    .predicate_filter(generation, PredicateConfig::default());
    let run = Controller::for_stream(policies, ctx.policies.clone())
        .with_config(config())
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(each(health_policy::reconcile), health_policy::error_policy, ctx.clone());
    tasks.spawn(run.for_each(|_| async {}));

    let waker = ctx.clone();
    let clusters = watch(&ctx.client, writers.clusters, move |event| {
        if let Event::Delete(object) = event {
            proxmox_cluster::forget(&waker, &key_of(object));
        }
        if let Some(changed) = Changed::of(event) {
            waker.wake_vms(|vm| changed.is(&managed_vm::cluster_of(vm)));
        }
    })
    .predicate_filter(generation, PredicateConfig::default());
    let run = Controller::for_stream(clusters, ctx.clusters.clone())
        .with_config(config())
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(each(proxmox_cluster::reconcile), proxmox_cluster::error_policy, ctx.clone());
    tasks.spawn(run.for_each(|_| async {}));

    let resets = watch(&ctx.client, writers.resets, |_| {}).predicate_filter(news_of_reset, PredicateConfig::default());
    let run = Controller::for_stream(resets, ctx.resets.clone())
        .with_config(config())
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(each(vm_reset::reconcile), vm_reset::error_policy, ctx.clone());
    tasks.spawn(run.for_each(|_| async {}));
    tasks
}

/// A reconcile, its waits shifted by its own object.
fn each<K, F, Fut>(reconcile: F) -> impl FnMut(Arc<K>, Arc<Context>) -> BoxFuture<'static, Result<Action, Error>>
where
    K: Resource,
    F: Fn(Arc<K>, Arc<Context>) -> Fut,
    Fut: Future<Output = Result<Action, Error>> + Send + 'static,
{
    move |object, ctx| {
        let whom = (ctx.me.clone(), key_of(object.as_ref()));
        jitter::about(whom, reconcile(object, ctx)).boxed()
    }
}

/// Keeps ledger, machines and memory in step with the ManagedVMs.
fn track_vms(ctx: Arc<Context>) -> impl FnMut(&Event<Guarded<ManagedVM>>) + Send + 'static {
    let mut listed: HashSet<(String, String)> = HashSet::new();
    move |event| match event {
        Event::Apply(object) => enter(&ctx, object),
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            listed.insert(key_of(object));
            enter(&ctx, object);
        }
        Event::InitDone => {
            // A deletion that the watch missed shows as an absence from the list.
            for vm in ctx.ledger.vms() {
                let key = (vm.namespace().to_owned(), vm.name().to_owned());
                if !listed.contains(&key) {
                    ctx.forget(&vm, &key);
                }
            }
            listed = HashSet::new();
            ctx.vms_known.set(true);
        }
        Event::Delete(object) => {
            let key = key_of(object);
            let vm = crate::heartbeat::VmKey::new(key.0.clone(), key.1.clone());
            ctx.forget(&vm, &key);
        }
    }
}

fn enter(ctx: &Context, object: &Guarded<ManagedVM>) {
    match &object.0 {
        Ok(vm) => {
            ctx.machines.enter(vm);
            let facts = Facts {
                uid: vm.uid().unwrap_or_default().into(),
                key_generation: vm
                    .spec
                    .agent
                    .as_ref()
                    .and_then(|a| a.key_generation)
                    .unwrap_or(built_in::KEY_GENERATION),
                published: vm.status.as_ref().and_then(|s| s.heartbeat.clone()),
            };
            ctx.ledger.known(&vm_key(vm), facts);
            ctx.caught_up(vm);
        }
        Err(invalid) => tracing::warn!(
            vm = object.name_any(),
            error = invalid.error,
            "malformed ManagedVM: mend it with kubectl edit"
        ),
    }
}

/// What an event of a watch concerns.
enum Changed {
    /// One object.
    One(Key),
    /// A listing is complete: what changed while the watch was cut is not known.
    All,
}

impl Changed {
    fn of<K>(event: &Event<Guarded<K>>) -> Option<Self>
    where
        Guarded<K>: Resource<DynamicType = ()>,
    {
        match event {
            Event::Apply(object) | Event::Delete(object) => Some(Self::One(key_of(object))),
            Event::InitDone => Some(Self::All),
            Event::Init | Event::InitApply(_) => None,
        }
    }

    fn is(&self, key: &Key) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::All => true,
        }
    }
}

fn wakes(ctx: Arc<Context>) -> impl Stream<Item = ObjectRef<Guarded<ManagedVM>>> + Send + 'static {
    stream::unfold(ctx, |ctx| async move {
        let vm = ctx.ledger.next_wake().await;
        Some((ObjectRef::new(vm.name()).within(vm.namespace()), ctx))
    })
}

fn hash(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

fn common<K: Resource>(object: &K) -> (Option<i64>, bool, Vec<String>) {
    let meta = object.meta();
    (
        meta.generation,
        meta.deletion_timestamp.is_some(),
        meta.finalizers.clone().unwrap_or_default(),
    )
}

/// Spec, deletion, journal, identity: not the heartbeat, so that a mere beat wakes nobody. The publisher's writes would otherwise be a reconcile each.
fn news_of_vm(object: &Guarded<ManagedVM>) -> Option<u64> {
    let status = object.0.as_ref().ok().and_then(|vm| vm.status.as_ref());
    let journal = status.map(|s| serde_json::to_string(&(&s.current_reset, &s.recent_resets, &s.episode, &s.identity)).unwrap_or_default());
    let conditions = status.map_or(0, |s| s.conditions.len());
    Some(hash((common(object), journal, conditions)))
}

fn news_of_reset(object: &Guarded<VMReset>) -> Option<u64> {
    let status = object.0.as_ref().ok().and_then(|r| r.status.as_ref());
    let ended = status.is_some_and(|s| s.outcome.is_some());
    // From the end of its stop on, a VM is started.
    let stopped = status.is_some_and(|s| s.start_owed.is_some() && s.task_end_time.is_some());
    Some(hash((common(object), ended, stopped)))
}

fn generation<K: Resource>(object: &K) -> Option<u64> {
    Some(hash(common(object)))
}

impl Context {
    fn forget(&self, vm: &crate::heartbeat::VmKey, key: &(String, String)) {
        self.ledger.forget(vm);
        self.machines.leave(key);
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(vm);
    }
}
