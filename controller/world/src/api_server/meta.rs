//! The metadata of objects.
//!
//! `managedFields` are not kept: Defib strips them from all it reads, and nothing here applies server-side.

use super::kinds::{Body, Kind};
use super::status::{Cause, Refusal};
use super::store::set_type;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use regex_lite::Regex;
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// Brings an object that came in a request into its form: what is not known is dropped, and so is what is empty in the metadata.
pub(super) fn decode(kind: &Kind, mut object: Value) -> Result<Value, Box<Refusal>> {
    if !object.is_object() {
        return Err(Refusal::bad_request("the body is not a JSON object"));
    }
    check_type(kind, &object)?;
    // Only a built-in kind goes without saying what it is.
    if !kind.is_custom() {
        set_type(&mut object, kind);
    }
    let meta = object["metadata"].take();
    let mut meta = if meta.is_null() { Value::Object(Map::new()) } else { meta };
    for map in ["labels", "annotations"] {
        let values = meta.get_mut(map).and_then(Value::as_object_mut);
        for value in values.into_iter().flat_map(Map::values_mut).filter(|value| value.is_null()) {
            *value = Value::String(String::new());
        }
    }
    let undecodable = |error: serde_json::Error| Refusal::bad_request(format!("{} cannot be decoded: {error}", kind.kind));
    let meta: ObjectMeta = serde_json::from_value(meta).map_err(undecodable)?;
    let mut meta = serde_json::to_value(ObjectMeta {
        managed_fields: None,
        self_link: None,
        ..meta
    })
    .map_err(undecodable)?;
    drop_empty(&mut meta);
    object["metadata"] = meta;
    match &kind.body {
        Body::Custom(schema) => schema.prune_object(&mut object),
        Body::BuiltIn(through) => object = through(object).map_err(undecodable)?,
    }
    Ok(object)
}

/// Refuses what is of another version, or does not say what it is. Of an object that says it is of another kind, a definition's kind finds that out later.
fn check_type(kind: &Kind, object: &Value) -> Result<(), Box<Refusal>> {
    let other = |field: &str, expected: &str| match &object[field] {
        Value::Null => kind.is_custom(),
        found => found != expected,
    };
    if other("apiVersion", &kind.api_version()) || object["kind"].is_null() && kind.is_custom() {
        let message = format!("the object provided is not of {} in version {}", kind.kind, kind.api_version());
        return Err(Refusal::bad_request(message));
    }
    if !kind.is_custom() && other("kind", &kind.kind) {
        return Err(Refusal::bad_request(format!("the object provided is not of {}", kind.kind)));
    }
    Ok(())
}

fn drop_empty(meta: &mut Value) {
    if let Value::Object(fields) = meta {
        fields.retain(|name, value| match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            Value::Number(n) => name != "generation" || n.as_i64() != Some(0),
            Value::Bool(_) => true,
        });
    }
}

/// A text in the metadata, empty when it is not there.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The finalizers of an object.
pub(super) fn finalizers(object: &Value) -> Vec<&str> {
    let items = object["metadata"]["finalizers"].as_array();
    items.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether deletion was asked for.
pub(super) fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// What is wrong with the metadata of an object.
pub(super) fn check(object: &Value, causes: &mut Vec<Cause>) {
    let meta = &object["metadata"];
    let name = text(object, "name");
    if name.is_empty() {
        causes.push(Cause {
            message: "Required value: name or generateName is required".into(),
            ..Cause::required("metadata.name")
        });
    } else if !is_subdomain(name) {
        causes.push(Cause::invalid("metadata.name", "a lowercase RFC 1123 subdomain is expected"));
    }
    for (key, value) in meta["labels"].as_object().into_iter().flatten() {
        if !is_qualified_name(key) {
            causes.push(Cause::invalid("metadata.labels", format!("the key {key:?}")));
        }
        if !value.as_str().is_some_and(is_label_value) {
            causes.push(Cause::invalid("metadata.labels", format!("the value {value}")));
        }
    }
    for key in meta["annotations"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if !is_qualified_name(&key.to_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", format!("the key {key:?}")));
        }
    }
    for finalizer in finalizers(object) {
        if !is_qualified_name(finalizer) {
            causes.push(Cause::invalid("metadata.finalizers", format!("{finalizer:?}")));
        }
    }
    let owners = meta["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (n, owner) in owners.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences[{n}].{field}"),
                    "must not be empty",
                ));
            }
        }
    }
    if owners.iter().filter(|owner| owner["controller"] == true).count() > 1 {
        causes.push(Cause::invalid(
            "metadata.ownerReferences",
            "only one reference can have controller set to true",
        ));
    }
}

/// What an update may not change. `new` gets from `old` what it may leave out.
pub(super) fn check_update(new: &mut Value, old: &Value, causes: &mut Vec<Cause>) {
    // These are the server's: what a request says of them is not heeded.
    for field in ["generation", "creationTimestamp"] {
        keep(new, old, field);
    }
    // An update can neither take back a deletion nor change when it was asked for.
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new["metadata"][field].is_null() || (field != "uid" && !old["metadata"][field].is_null()) {
            keep(new, old, field);
        }
        if new["metadata"][field] != old["metadata"][field] {
            causes.push(Cause::invalid(format!("metadata.{field}"), "field is immutable"));
        }
    }
    let added = finalizers(new).iter().any(|finalizer| !finalizers(old).contains(finalizer));
    if is_deleting(old) && added {
        let why = "no new finalizers can be added if the object is being deleted";
        causes.push(Cause::forbidden("metadata.finalizers", why));
    }
}

fn keep(new: &mut Value, old: &Value, field: &str) {
    if let Some(meta) = new["metadata"].as_object_mut() {
        match &old["metadata"][field] {
            Value::Null => meta.remove(field),
            value => meta.insert(field.to_owned(), value.clone()),
        };
    }
}

/// Keeps the first of several references to one owner.
pub(super) fn dedup_owners(object: &mut Value) {
    if let Some(Value::Array(owners)) = object.pointer_mut("/metadata/ownerReferences") {
        let mut seen: Vec<Value> = Vec::new();
        owners.retain(|owner| {
            let new = !seen.contains(owner);
            if new {
                seen.push(owner.clone());
            }
            new
        });
    }
}

fn matches(cell: &'static OnceLock<Option<Regex>>, pattern: &str, text: &str) -> bool {
    cell.get_or_init(|| Regex::new(pattern).ok())
        .as_ref()
        .is_some_and(|regex| regex.is_match(text))
}

fn is_subdomain(name: &str) -> bool {
    static PATTERN: OnceLock<Option<Regex>> = OnceLock::new();
    let label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
    name.len() <= 253 && matches(&PATTERN, &format!(r"^{label}(\.{label})*$"), name)
}

fn is_qualified_name(key: &str) -> bool {
    static PATTERN: OnceLock<Option<Regex>> = OnceLock::new();
    let name = match key.split_once('/') {
        Some((prefix, _)) if !is_subdomain(prefix) => return false,
        Some((_, name)) => name,
        None => key,
    };
    name.len() <= 63 && matches(&PATTERN, "^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$", name)
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || (!value.contains('/') && is_qualified_name(value))
}
