//! Watched objects: one watch and one store a kind, and what is derived from them as they change.

use defib_api::{HealthPolicy, ManagedVM, ProxmoxCluster, VMReset};
use futures::{Stream, StreamExt, TryStreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// An object that may be malformed: one bad object must not stop the watch of all others.
pub type Guarded<K> = DeserializeGuard<K>;

/// Namespace and name.
pub type Key = (String, String);

/// Namespace and name of an object.
pub fn key_of<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// A watch notices a dead connection after this long, by default after 295 s: for all of that time the cache would be frozen. The API server ends each watch
/// after it, and a new one goes on where the old one ended.
const WATCH_SECONDS: u32 = 50;

/// The last-applied annotation repeats the whole spec; nobody here reads it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Watches all objects of a kind into a store. Each event also goes to `each`, when the store has it (those of a listing: with InitDone).
pub fn watch<K, F>(
    client: &Client,
    writer: Writer<Guarded<K>>,
    mut each: F,
) -> impl Stream<Item = Result<Guarded<K>, watcher::Error>> + Send + use<K, F>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Cached
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
    F: FnMut(&watcher::Event<Guarded<K>>) + Send + 'static,
{
    let api: Api<Guarded<K>> = Api::all(client.clone());
    watcher(api, watcher::Config::default().timeout(WATCH_SECONDS))
        .default_backoff()
        .modify(|object| {
            strip(object);
            if let Ok(object) = &mut object.0 {
                object.strip_unread();
            }
        })
        .reflect(writer)
        .inspect_ok(move |event| each(event))
        .inspect(|result| {
            if let Err(error) = result {
                tracing::warn!(kind = %K::kind(&()), %error, "watch interrupted");
            }
        })
        .applied_objects()
}

/// A kind of which a copy of every object is kept.
pub trait Cached {
    /// Takes out of an object what nobody here reads of this kind.
    fn strip_unread(&mut self) {}
}

impl Cached for ManagedVM {
    /// The usage is written for people, from the ledger; in a large fleet it is a part of the memory that shows.
    fn strip_unread(&mut self) {
        if let Some(status) = &mut self.status {
            status.usage = None;
        }
    }
}
impl Cached for HealthPolicy {}
impl Cached for ProxmoxCluster {}
impl Cached for VMReset {}

/// Takes out of an object of any kind what nobody here reads.
pub fn strip<K: Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// A well-formed object of a store.
pub fn get<K>(store: &Store<Guarded<K>>, namespace: &str, name: &str) -> Option<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store
        .get(&ObjectRef::new(name).within(namespace))
        .and_then(|o| o.0.as_ref().ok().cloned())
}

/// Which ManagedVMs are which machine, by the SMBIOS UUID in their status: of several of one machine the oldest decides.
#[derive(Debug, Default)]
pub struct Machines {
    inner: Mutex<MachinesInner>,
}

#[derive(Debug, Default)]
struct MachinesInner {
    /// Sorted, the oldest first. Nearly all have one ManagedVM.
    by_uuid: HashMap<Uuid, Vec<(i64, Key)>>,
    of: HashMap<Key, (Uuid, i64)>,
}

impl Machines {
    /// Enters a ManagedVM as it is now.
    pub fn enter(&self, vm: &ManagedVM) {
        let key = key_of(vm);
        let uuid = defib_core::life::identity(vm.status.as_ref());
        let created = vm.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second());
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.of.get(&key).copied() == uuid.map(|u| (u, created)) {
            return;
        }
        inner.leave(&key);
        if let Some(uuid) = uuid {
            let all = inner.by_uuid.entry(uuid).or_default();
            all.reserve_exact(1);
            all.push((created, key.clone()));
            all.sort_unstable();
            inner.of.insert(key, (uuid, created));
        }
    }

    /// A ManagedVM is gone.
    pub fn leave(&self, key: &Key) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).leave(key);
    }

    /// An older ManagedVM of the same machine, as `namespace/name`.
    pub fn older(&self, vm: &ManagedVM) -> Option<String> {
        let key = key_of(vm);
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (uuid, _) = inner.of.get(&key)?;
        let (_, first) = inner.by_uuid.get(uuid)?.first()?;
        (*first != key).then(|| format!("{}/{}", first.0, first.1))
    }

    /// The other ManagedVMs of the same machine.
    pub fn others(&self, vm: &ManagedVM) -> Vec<Key> {
        let key = key_of(vm);
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let all = inner.of.get(&key).and_then(|(uuid, _)| inner.by_uuid.get(uuid));
        all.into_iter()
            .flatten()
            .map(|(_, other)| other.clone())
            .filter(|other| *other != key)
            .collect()
    }
}

impl MachinesInner {
    fn leave(&mut self, key: &Key) {
        if let Some((uuid, created)) = self.of.remove(key)
            && let Some(all) = self.by_uuid.get_mut(&uuid)
        {
            all.retain(|one| *one != (created, key.clone()));
            if all.is_empty() {
                self.by_uuid.remove(&uuid);
            }
        }
    }
}
