//! What the API server takes: the part of OpenAPI that Defib's definitions bound values with.

use defib_api::crds;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;

static SCHEMAS: LazyLock<HashMap<String, Schema>> = LazyLock::new(|| {
    let all = crds().into_iter().filter_map(|crd| {
        let kind = crd.spec.names.kind.clone();
        let version = crd.spec.versions.into_iter().next()?;
        let schema = serde_json::to_value(version.schema?.open_api_v3_schema?).ok()?;
        Some((kind, Schema(schema)))
    });
    all.collect()
});

/// The schema of a kind, or of a field of it.
#[derive(Clone, Debug)]
pub(crate) struct Schema(Value);

impl Schema {
    /// That of a kind of ours.
    pub(crate) fn of(kind: &str) -> &'static Self {
        let found = SCHEMAS.get(kind);
        assert!(found.is_some(), "there is no kind {kind}");
        static NONE: Schema = Schema(Value::Null);
        found.unwrap_or(&NONE)
    }

    /// Whether a value may stand at a field such as `status` or `status.evidence`. A null is the same as absent, as in a merge patch.
    ///
    /// # Errors
    /// The first thing that is wrong, with its path.
    pub(crate) fn check(&self, field: &str, value: &Value) -> Result<(), String> {
        let mut schema = &self.0;
        for name in field.split('.') {
            schema = &schema["properties"][name];
        }
        assert!(schema.is_object(), "{field} is not in the schema");
        check(schema, value, field)
    }
}

fn check(schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{path} is {what}: {value}"));
    if schema["x-kubernetes-int-or-string"] == true {
        return if value.is_string() || value.is_i64() {
            Ok(())
        } else {
            wrong("neither int nor string")
        };
    }
    let fits = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        // The API server reads numbers as 64 bits with a sign.
        Some("integer") => value.is_i64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    if !fits {
        return wrong("of another type");
    }
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        return wrong("none of those allowed");
    }
    let outside = |size: f64, least: &str, most: &str| {
        let limit = |name: &str| schema[name].as_f64();
        limit(least).is_some_and(|least| size < least) || limit(most).is_some_and(|most| size > most)
    };
    match value {
        Value::String(text) if outside(text.chars().count() as f64, "minLength", "maxLength") => wrong("too short or too long"),
        Value::Number(n) if outside(n.as_f64().unwrap_or(f64::NAN), "minimum", "maximum") => wrong("too small or too large"),
        Value::Array(items) => {
            if outside(items.len() as f64, "minItems", "maxItems") {
                return wrong("of too few or too many items");
            }
            items
                .iter()
                .enumerate()
                .try_for_each(|(i, item)| check(&schema["items"], item, &format!("{path}[{i}]")))
        }
        Value::Object(fields) => {
            let missing = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            if let Some(name) = missing.into_iter().find(|name| fields.get(*name).is_none_or(Value::is_null)) {
                return wrong(&format!("without {name}"));
            }
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .try_for_each(|(name, value)| check(&schema["properties"][name], value, &format!("{path}.{name}")))
        }
        _ => Ok(()),
    }
}
