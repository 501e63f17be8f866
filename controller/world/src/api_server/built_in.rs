//! What Kubernetes' own kinds do that no schema says. Only what Defib could meet.

use super::kinds::Kind;
use super::status::Cause;
use serde_json::{Value, json};

/// What the server adds to an object.
pub(super) fn complete(kind: &Kind, object: &mut Value) {
    if kind.kind != "Secret" {
        return;
    }
    if object["type"].as_str().is_none_or(str::is_empty) {
        object["type"] = json!("Opaque");
    }
    // For the convenience of writers: plain text, stored as data.
    let plain = object.as_object_mut().and_then(|fields| fields.remove("stringData"));
    if let Some(Value::Object(plain)) = plain {
        for (key, value) in plain {
            let bytes = value.as_str().unwrap_or_default().as_bytes();
            object["data"][key] = json!(k8s_openapi::ByteString(bytes.to_vec()));
        }
    }
}

/// What is wrong with an object.
pub(super) fn check(kind: &Kind, object: &Value, causes: &mut Vec<Cause>) {
    match kind.kind.as_str() {
        "Secret" => {
            for key in object["data"].as_object().into_iter().flatten().map(|(key, _)| key) {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if key.is_empty() || key.len() > 253 || !key.chars().all(plain) {
                    causes.push(Cause::invalid(format!("data[{key}]"), "a valid config key is expected"));
                }
            }
        }
        "Lease" => {
            let spec = &object["spec"];
            if spec["leaseDurationSeconds"].as_i64().is_some_and(|n| n <= 0) {
                causes.push(Cause::invalid("spec.leaseDurationSeconds", "must be greater than 0"));
            }
            if spec["leaseTransitions"].as_i64().is_some_and(|n| n < 0) {
                causes.push(Cause::invalid("spec.leaseTransitions", "must be greater than or equal to 0"));
            }
        }
        _ => {}
    }
}

/// What an update may not do.
pub(super) fn check_update(kind: &Kind, new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    if kind.kind == "Secret" && new["type"] != old["type"] {
        causes.push(Cause::invalid("type", "field is immutable"));
    }
}
