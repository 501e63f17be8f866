//! What is so when nothing changes any more, without what must differ.

use crate::generate::definition;
use crate::plan::Specs;
use defib_world::clock::Time;
use defib_world::evidence::Evidence;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What is so, by object.
pub type State = BTreeMap<String, Value>;

/// Everything that is there at a moment: objects, without their times and counts, and what `kubectl get` shows of them.
pub fn state(e: &Evidence, at: Time) -> State {
    let mut names: Vec<(&str, &str)> = e.writes.iter().map(|w| (w.resource.as_str(), w.name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let mut state = State::new();
    for (resource, name) in names {
        let Some(object) = e.object_at(resource, name, at) else { continue };
        state.insert(format!("{resource}/{name}"), without_history(object));
        state.insert(format!("kubectl get {resource} {name}"), columns(resource, object));
    }
    state
}

/// An object without what changes though nothing has changed.
fn without_history(object: &Value) -> Value {
    let mut kept = object.clone();
    let metadata = kept["metadata"].as_object_mut().unwrap();
    // Counters of the API server: each change of a spec, and each write, counts there. A policy that was deleted and made again is another object.
    for counter in ["resourceVersion", "generation", "uid", "creationTimestamp"] {
        metadata.remove(counter);
    }
    let generation = object["metadata"]["generation"].clone();
    let Some(status) = kept["status"].as_object_mut() else {
        return kept;
    };
    // In place of the number: whether it is that of the spec. The conditions each say of which spec they were decided last.
    if let Some(observed) = status.get_mut("observedGeneration") {
        *observed = json!(if *observed == generation { "current" } else { "old" });
    }
    for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let condition = condition.as_object_mut().unwrap();
        // When its status changed last.
        condition.remove("lastTransitionTime");
        if let Some(observed) = condition.get_mut("observedGeneration") {
            *observed = json!(if *observed == generation { "current" } else { "old" });
        }
    }
    // When the last heartbeat came: it goes on all the time.
    if let Some(heartbeat) = status.get_mut("heartbeat").and_then(Value::as_object_mut) {
        heartbeat.remove("lastReceivedTime");
    }
    kept
}

/// What `kubectl get -o wide` shows, without ages.
fn columns(resource: &str, object: &Value) -> Value {
    let declared = definition(resource)["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .cloned();
    let shown = declared.unwrap_or_default().into_iter().filter(|column| column["type"] != "date");
    let cell = |column: Value| {
        (
            column["name"].as_str().unwrap().to_owned(),
            at_path(object, column["jsonPath"].as_str().unwrap()),
        )
    };
    shown.map(cell).collect()
}

/// The two forms of paths that print columns have: `.a.b`, and `.a[?(@.type=="X")].b`.
fn at_path(object: &Value, path: &str) -> Value {
    let Some((list, rest)) = path.split_once("[?(@.type==\"") else {
        return object.pointer(&path.replace('.', "/")).cloned().unwrap_or_default();
    };
    let (type_, field) = rest.split_once("\")]").unwrap();
    let items = object.pointer(&list.replace('.', "/")).and_then(Value::as_array);
    let item = items.into_iter().flatten().find(|item| item["type"] == type_);
    item.map_or(Value::Null, |item| at_path(item, field))
}

/// Of a VM that hung, what its resets leave behind.
pub fn without_resets(state: &mut State, name: &str) {
    state.retain(|key, _| !key.starts_with("vmresets/") && !key.starts_with("kubectl get vmresets"));
    for (key, value) in state.iter_mut() {
        if *key == format!("managedvms/{name}") {
            let status = value["status"].as_object_mut().unwrap();
            // Another boot, and what was done for it.
            for field in ["recentResets", "resetsInWindow"] {
                status.remove(field);
            }
            if let Some(heartbeat) = status.get_mut("heartbeat").and_then(Value::as_object_mut) {
                heartbeat.retain(|field, _| !matches!(field.as_str(), "bootID" | "bootTime"));
            }
        } else if *key == format!("kubectl get managedvms {name}") {
            value["RESETS"] = Value::Null;
        }
    }
}

/// What differs, a line each.
pub fn differences(before: &State, after: &State) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        let (old, new) = (before.get(key), after.get(key));
        if old != new {
            let none = Value::Null;
            compare(key, old.unwrap_or(&none), new.unwrap_or(&none), &mut found);
        }
    }
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                compare(&format!("{path}.{name}"), &old[name], &new[name], found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{n}]"), a, b, found);
            }
        }
        _ if old == new => {}
        _ => found.push(format!("{path} was {old}, is {new}")),
    }
}

/// Whether what is declared at the end is what was declared at first.
pub fn specs_are_back(first: &Specs, e: &Evidence) -> Vec<String> {
    let mut found = Vec::new();
    for ((resource, name), spec) in first {
        let now = e.object_at(resource, name, e.end).map(|object| &object["spec"]);
        if now != spec.as_ref() {
            found.push(format!("{resource}/{name} was declared {spec:?}, is {now:?}"));
        }
    }
    found
}
