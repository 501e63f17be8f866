//! Objects whose owners are gone.

use super::kinds::Kind;
use super::meta;
use super::store::{Key, Store};
use super::write::Target;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;

/// Deletes what has owner references, all of which lead to objects that are gone. Where some do, these references are removed.
pub(super) fn collect(store: &mut Store, kinds: &[Kind], now: Timestamp) -> Vec<(String, String)> {
    let alive: BTreeSet<String> = store.all().map(|(_, object)| meta::text(object, "uid").to_owned()).collect();
    let is_gone = |owner: &Value| owner["uid"].as_str().is_none_or(|uid| !alive.contains(uid));
    let orphans: Vec<Key> = store
        .all()
        .filter(|(_, object)| !meta::is_deleting(object))
        .filter(|(_, object)| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| !owners.is_empty() && owners.iter().all(is_gone))
        })
        .map(|(key, _)| key.clone())
        .collect();
    let half_orphans: Vec<(Key, Value)> = store
        .all()
        .filter(|(key, _)| !orphans.contains(key))
        .filter_map(|(key, object)| {
            let mut object = (**object).clone();
            let owners = object.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
            let all = owners.len();
            owners.retain(|owner| !is_gone(owner));
            (!owners.is_empty() && owners.len() < all).then(|| (key.clone(), object))
        })
        .collect();
    for (key, object) in half_orphans {
        store.put(key, object);
    }
    let mut collected = Vec::new();
    for key in orphans {
        let Some(kind) = kinds.get(key.kind) else { continue };
        let (namespace, name) = key.path.split_once('/').unwrap_or(("", &key.path));
        let target = Target {
            place: key.kind,
            kind,
            namespace,
            name,
            status: false,
            dry_run: false,
            now,
        };
        if target.delete(store, &Value::Null).is_ok() {
            collected.push((kind.plural.clone(), key.path.clone()));
        }
    }
    collected
}
