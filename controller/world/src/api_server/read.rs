//! Get and list.

use super::kinds::Kind;
use super::request::{Place, Query};
use super::status::Refusal;
use super::store::{Key, Store, version_of};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::Arc;

/// Where a list goes on.
#[derive(Serialize, Deserialize)]
struct Continue {
    rv: u64,
    /// The path of the last object that was sent.
    after: String,
}

pub(super) fn get(store: &Store, kind: &Kind, place: &Place, query: &Query) -> Result<Arc<Value>, Box<Refusal>> {
    at_least(store, query)?;
    store
        .get(&Key::new(place.kind, &place.namespace, &place.name))
        .cloned()
        .ok_or_else(|| Refusal::not_found(kind, &place.name))
}

/// Refuses a version that is still to come.
fn at_least(store: &Store, query: &Query) -> Result<Option<u64>, Box<Refusal>> {
    let version = query.number("resourceVersion")?;
    match version {
        Some(asked) if asked > store.version() => Err(Refusal::too_large_version(asked, store.version())),
        version => Ok(version),
    }
}

pub(super) fn list(store: &Store, kind: &Kind, place: &Place, query: &Query, metadata_only: bool) -> Result<Value, Box<Refusal>> {
    let selector = query.selector(kind)?;
    let asked = at_least(store, query)?;
    let matching = query.text("resourceVersionMatch");
    if !matching.is_empty() && asked.is_none() {
        let why = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(Refusal::invalid_options(why));
    }
    let from: Option<Continue> = match query.text("continue") {
        "" => None,
        token => Some(read_token(token)?),
    };
    let exact = (matching == "Exact").then_some(asked).flatten();
    let version = from.as_ref().map(|c| c.rv).or(exact).unwrap_or(store.version());
    if version < store.oldest() {
        let why = if from.is_some() {
            "The provided continue parameter is too old to display a consistent list result."
        } else {
            "The resourceVersion for the provided list is too old."
        };
        return Err(Refusal::expired(why));
    }
    let limit = query.number("limit")?.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let objects = store.at(place.kind, version);
    let mut rest = objects.iter().filter(|(key, _)| {
        key.in_namespace(&place.namespace)
            && from.as_ref().is_none_or(|from| key.path > from.after)
            && (place.name.is_empty() || key.path == place.name)
    });
    let matching = rest.by_ref().filter(|(_, object)| selector.matches(object));
    let page: Vec<_> = matching.take(limit.unwrap_or(usize::MAX)).collect();
    // Whether there is more is said without a look at whether it matches: the last page may be empty.
    let remaining = rest.count();
    let mut meta = json!({ "resourceVersion": version.to_string() });
    if kind.is_custom() && !metadata_only {
        meta["continue"] = json!("");
    }
    if remaining > 0
        && let Some((last, _)) = page.last()
    {
        let next = Continue {
            rv: version,
            after: last.path.clone(),
        };
        meta["continue"] = json!(write_token(&next));
        // A real server does not count what it would have to look into.
        if selector.is_empty() {
            meta["remainingItemCount"] = json!(remaining);
        }
    }
    let mut items: Vec<Value> = page
        .into_iter()
        .map(|(_, object)| shown(object, metadata_only).into_owned())
        .collect();
    if !kind.is_custom() && !metadata_only {
        // Of these kinds only the list says what it holds.
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.remove("apiVersion");
            item.remove("kind");
        }
    }
    let (api_version, name) = if metadata_only {
        ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned())
    } else {
        (kind.api_version(), format!("{}List", kind.kind))
    };
    // An empty list of metadata is a nil in Go.
    let items = if items.is_empty() && metadata_only {
        Value::Null
    } else {
        json!(items)
    };
    Ok(json!({ "apiVersion": api_version, "kind": name, "metadata": meta, "items": items }))
}

fn write_token(next: &Continue) -> String {
    let bytes = serde_json::to_vec(next).unwrap_or_default();
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_token(token: &str) -> Result<Continue, Box<Refusal>> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| Refusal::bad_request("continue key is not valid"))
}

/// An object, or the metadata of it.
pub(super) fn shown(object: &Value, metadata_only: bool) -> Cow<'_, Value> {
    if !metadata_only {
        return Cow::Borrowed(object);
    }
    let mut partial = Map::new();
    partial.insert("apiVersion".into(), json!("meta.k8s.io/v1"));
    partial.insert("kind".into(), json!("PartialObjectMetadata"));
    partial.insert("metadata".into(), object["metadata"].clone());
    Cow::Owned(Value::Object(partial))
}

/// The object as a deletion leaves it: with the version of the deletion.
pub(super) fn at_version(object: &Value, version: u64) -> Value {
    let mut object = object.clone();
    if version_of(&object) != Some(version) {
        object["metadata"]["resourceVersion"] = json!(version.to_string());
    }
    object
}
