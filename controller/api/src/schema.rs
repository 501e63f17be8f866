//! Brings the generated schemas into the form that API servers and readers of `kubectl explain` expect.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use schemars::Schema;
use serde_json::{Value, json};

/// For enums: one plain `enum` of strings. What is written about the variants travels in `title`, which no other schema uses, until [`finish`] adds it
/// to the description: as a description of its own, the text about the field would replace it, or it that text.
pub(crate) fn variants(schema: &mut Schema) {
    let Some(Value::Array(variants)) = schema.remove("oneOf") else {
        return;
    };
    let mut names = Vec::new();
    let mut lines = Vec::new();
    for variant in &variants {
        let Some(name) = variant.get("const").and_then(Value::as_str) else {
            continue;
        };
        names.push(json!(name));
        if let Some(about) = variant.get("description").and_then(Value::as_str) {
            lines.push(format!("- {name}: {}", one_line(about)));
        }
    }
    schema.remove("description");
    schema.insert("type".into(), json!("string"));
    schema.insert("enum".into(), Value::Array(names));
    schema.insert("title".into(), json!(lines.join("\n")));
}

/// A line of a comment ends anywhere in a sentence; what `kubectl explain` shows is not to.
fn one_line(comment: &str) -> String {
    comment.replace('\n', " ")
}

/// The definition as it is applied.
pub(crate) fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            root.title = None;
            finish_schema(root);
        }
    }
    crd
}

fn finish_schema(schema: &mut JSONSchemaProps) {
    // The API server drops a null where null is not allowed, as if the field had been left out. Allowed, it would be stored, and has() in a rule would be true.
    schema.nullable = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    schema.description = schema.description.as_deref().map(one_line);
    if let Some(variants) = schema.title.take() {
        let field = schema.description.take().unwrap_or_default();
        schema.description = Some(format!("{field}\n{variants}").trim().to_owned());
    }
    // Kubernetes knows no unsigned formats; kubectl warns of each.
    schema.format = match schema.format.take().as_deref() {
        Some("uint8" | "uint16") => Some("int32".into()),
        Some("uint32") if schema.maximum.is_some_and(|m| m <= f64::from(i32::MAX)) => Some("int32".into()),
        Some("uint32" | "uint64") => Some("int64".into()),
        other => other.map(str::to_owned),
    };
    let properties = schema.properties.iter_mut().flatten();
    for (name, property) in properties {
        finish_schema(property);
        if name == "conditions" {
            bound_conditions(property);
        }
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => finish_schema(items),
        Some(JSONSchemaPropsOrArray::Schemas(all)) => all.iter_mut().for_each(finish_schema),
        None => {}
    }
}

/// The bounds of `metav1.Condition`: in Go they are markers of the type, which its OpenAPI form does not carry.
fn bound_conditions(conditions: &mut JSONSchemaProps) {
    let Some(JSONSchemaPropsOrArray::Schema(condition)) = &mut conditions.items else {
        return;
    };
    for (name, field) in condition.properties.iter_mut().flatten() {
        match name.as_str() {
            "type" => field.max_length = Some(316),
            "status" => field.enum_ = Some(["True", "False", "Unknown"].map(|s| JSON(json!(s))).into()),
            "reason" => {
                field.min_length = Some(1);
                field.max_length = Some(1024);
                field.pattern = Some("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$".into());
            }
            "message" => field.max_length = Some(32_768),
            "observedGeneration" => field.minimum = Some(0.0),
            _ => {}
        }
    }
}
