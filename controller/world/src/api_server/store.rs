//! The objects and how they came to be: one resourceVersion over all kinds, and the last changes for watches.

use super::kinds::Kind;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

/// Which object: the place of its kind, and its path (`namespace/name`, or the name). Paths sort as etcd's keys do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: usize,
    pub(super) path: String,
}

impl Key {
    pub(super) fn new(kind: usize, namespace: &str, name: &str) -> Self {
        let path = if namespace.is_empty() {
            name.to_owned()
        } else {
            format!("{namespace}/{name}")
        };
        Self { kind, path }
    }

    pub(super) fn in_namespace(&self, namespace: &str) -> bool {
        namespace.is_empty() || self.path.split_once('/').is_some_and(|(of, _)| of == namespace)
    }
}

/// One write that was committed.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    /// `None` when it was deleted.
    pub(super) after: Option<Arc<Value>>,
    pub(super) at: Instant,
}

pub(super) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    version: u64,
    history: VecDeque<Change>,
    kept: usize,
    /// Watches and lists of an older version than this are answered 410.
    oldest: u64,
    names: u64,
}

impl Store {
    pub(super) fn new(kept: usize) -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 1,
            history: VecDeque::new(),
            kept,
            oldest: 1,
            names: 0,
        }
    }

    /// The changes that are known, in order.
    pub(super) fn history(&self) -> impl Iterator<Item = &Change> {
        self.history.iter()
    }

    /// The version of the newest write.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// All objects of a kind, by path.
    pub(super) fn of_kind(&self, kind: usize) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let first = Key { kind, path: String::new() };
        self.objects.range(first..).take_while(move |(key, _)| key.kind == kind)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// The objects of a kind as they were at a version that is not older than [`oldest`](Self::oldest).
    pub(super) fn at(&self, kind: usize, version: u64) -> BTreeMap<Key, Arc<Value>> {
        let mut objects: BTreeMap<_, _> = self.of_kind(kind).map(|(k, o)| (k.clone(), o.clone())).collect();
        let later = self.history.iter().rev().take_while(|change| change.version > version);
        for change in later.filter(|change| change.key.kind == kind) {
            match &change.before {
                Some(object) => objects.insert(change.key.clone(), object.clone()),
                None => objects.remove(&change.key),
            };
        }
        objects
    }

    /// The first change after a version. `Err` when it is not known any more.
    pub(super) fn after(&self, version: u64) -> Result<impl Iterator<Item = &Change>, ()> {
        if self.history.front().is_some_and(|first| first.version > version + 1) {
            return Err(());
        }
        let start = self.history.partition_point(|change| change.version <= version);
        Ok(self.history.range(start..))
    }

    /// Stores an object under a new resourceVersion.
    pub(super) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        let version = self.version + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), object.clone());
        self.record(key, before, Some(object.clone()));
        object
    }

    /// Deletes an object. The deletion has a resourceVersion of its own.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.record(key.clone(), Some(before.clone()), None);
        Some(before)
    }

    fn record(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        self.version += 1;
        self.history.push_back(Change {
            version: self.version,
            key,
            before,
            after,
            at: Instant::now(),
        });
        if self.history.len() > self.kept
            && let Some(gone) = self.history.pop_front()
        {
            self.oldest = self.oldest.max(gone.version);
        }
    }

    /// From now on only the present is known to new watches and continued lists.
    pub(super) fn compact(&mut self) {
        self.oldest = self.version;
    }

    /// The next of a row of numbers, for what a real server makes at random.
    pub(super) fn number(&mut self) -> u64 {
        self.names += 1;
        self.names
    }
}

/// The resourceVersion of an object.
pub(super) fn version_of(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// Adds what an object of this kind says of itself.
pub(super) fn set_type(object: &mut Value, kind: &Kind) {
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.kind);
}
