//! Structural schemas: what of an object is kept, and what is wrong with it.
//!
//! CEL rules (`x-kubernetes-validations`) are not evaluated.

use super::status::Cause;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool};
use regex_lite::Regex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A schema with its patterns compiled.
#[derive(Debug, Default)]
pub(super) struct Schema {
    kind: Option<Type>,
    nullable: bool,
    preserve: bool,
    properties: BTreeMap<String, Schema>,
    additional: Option<Box<Schema>>,
    required: Vec<String>,
    values: Option<Vec<Value>>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    pattern: Option<Regex>,
    date_time: bool,
    items: Option<Box<Schema>>,
    min_items: Option<usize>,
    max_items: Option<usize>,
    /// Fields of which no two items may have the same values.
    unique_by: Option<Vec<String>>,
    /// No two items may be the same.
    unique: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

impl Schema {
    /// # Errors
    /// When it uses something that is not known here.
    pub(super) fn compile(props: &JSONSchemaProps) -> Result<Self, String> {
        if props.any_of.is_some() || props.one_of.is_some() || props.all_of.is_some() || props.not.is_some() {
            return Err("anyOf, oneOf, allOf and not are not known here".into());
        }
        if props.default.is_some() {
            return Err("defaults are not known here".into());
        }
        let kind = match props.type_.as_deref() {
            _ if props.x_kubernetes_int_or_string == Some(true) => Some(Type::IntOrString),
            Some("object") => Some(Type::Object),
            Some("array") => Some(Type::Array),
            Some("string") => Some(Type::String),
            Some("integer") => Some(Type::Integer),
            Some("number") => Some(Type::Number),
            Some("boolean") => Some(Type::Boolean),
            None => None,
            Some(other) => return Err(format!("the type {other} is not known here")),
        };
        let mut properties = BTreeMap::new();
        for (name, property) in props.properties.iter().flatten() {
            properties.insert(name.clone(), Self::compile(property)?);
        }
        let boxed = |schema: &JSONSchemaProps| Self::compile(schema).map(Box::new);
        let additional = match &props.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(boxed(schema)?),
            _ => None,
        };
        let items = match &props.items {
            Some(JSONSchemaPropsOrArray::Schema(schema)) => Some(boxed(schema)?),
            _ => None,
        };
        let size = |n: Option<i64>| n.and_then(|n| usize::try_from(n).ok());
        let list = props.x_kubernetes_list_type.as_deref();
        Ok(Self {
            kind,
            nullable: props.nullable == Some(true),
            preserve: props.x_kubernetes_preserve_unknown_fields == Some(true),
            properties,
            additional,
            required: props.required.clone().unwrap_or_default(),
            values: props.enum_.as_ref().map(|all| all.iter().map(|v| v.0.clone()).collect()),
            minimum: props.minimum,
            maximum: props.maximum,
            min_length: size(props.min_length),
            max_length: size(props.max_length),
            pattern: props
                .pattern
                .as_deref()
                .map(Regex::new)
                .transpose()
                .map_err(|error| error.to_string())?,
            date_time: props.format.as_deref() == Some("date-time"),
            items,
            min_items: size(props.min_items),
            max_items: size(props.max_items),
            unique_by: (list == Some("map")).then(|| props.x_kubernetes_list_map_keys.clone().unwrap_or_default()),
            unique: list == Some("set"),
        })
    }

    /// Drops what the schema does not know, and nulls where it allows none: these count as left out.
    pub(super) fn prune(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|name, field| {
                    let Some(schema) = self.field(name) else { return self.preserve };
                    if field.is_null() && !schema.nullable {
                        return false;
                    }
                    schema.prune(field);
                    true
                });
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.prune(item));
                }
            }
            _ => {}
        }
    }

    /// Like [`prune`](Self::prune) for a whole object, whose first level has what all kinds have besides.
    pub(super) fn prune_object(&self, object: &mut Value) {
        let Value::Object(fields) = object else { return };
        let kept: Vec<_> = ["apiVersion", "kind", "metadata"]
            .into_iter()
            .filter_map(|name| fields.remove_entry(name))
            .collect();
        self.prune(object);
        if let Value::Object(fields) = object {
            fields.extend(kept);
        }
    }

    fn field(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// What is wrong with a value.
    pub(super) fn check(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if value.is_null() && self.nullable {
            return;
        }
        if !self.kind.is_none_or(|kind| kind.has(value)) {
            let wanted = self.kind.map(|kind| format!("{kind:?}").to_lowercase()).unwrap_or_default();
            causes.push(Cause::invalid(path, format!("must be of type {wanted}")));
            return;
        }
        if let Some(values) = &self.values
            && !values.contains(value)
        {
            causes.push(Cause {
                reason: "FieldValueNotSupported",
                field: path.into(),
                message: format!("Unsupported value: {value}"),
            });
        }
        match value {
            Value::Object(fields) => {
                for name in self.required.iter().filter(|name| !fields.contains_key(*name)) {
                    causes.push(Cause::required(join(path, name)));
                }
                for (name, field) in fields {
                    if let Some(schema) = self.field(name) {
                        schema.check(field, &join(path, name), causes);
                    }
                }
            }
            Value::Array(items) => self.check_items(items, path, causes),
            Value::String(text) => self.check_text(text, path, causes),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                if self.minimum.is_some_and(|minimum| number < minimum) {
                    causes.push(Cause::invalid(path, format!("{number} is too small")));
                }
                if self.maximum.is_some_and(|maximum| number > maximum) {
                    causes.push(Cause::invalid(path, format!("{number} is too large")));
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn check_text(&self, text: &str, path: &str, causes: &mut Vec<Cause>) {
        let length = text.chars().count();
        if self.max_length.is_some_and(|max| length > max) {
            causes.push(Cause {
                reason: "FieldValueTooLong",
                ..Cause::invalid(path, "too long")
            });
        }
        if self.min_length.is_some_and(|min| length < min) {
            causes.push(Cause::invalid(path, "too short"));
        }
        if self.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(text)) {
            causes.push(Cause::invalid(path, "does not match the pattern"));
        }
        if self.date_time && !is_date_time(text) {
            causes.push(Cause::invalid(path, "is no date-time"));
        }
    }

    fn check_items(&self, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
        if self.max_items.is_some_and(|max| items.len() > max) {
            causes.push(Cause {
                reason: "FieldValueTooMany",
                ..Cause::invalid(path, "too many items")
            });
        }
        if self.min_items.is_some_and(|min| items.len() < min) {
            causes.push(Cause::invalid(path, "too few items"));
        }
        for (n, item) in items.iter().enumerate() {
            let path = format!("{path}[{n}]");
            if let Some(schema) = &self.items {
                schema.check(item, &path, causes);
            }
            let same = |other: &Value| match &self.unique_by {
                Some(keys) => keys.iter().all(|key| other[key] == item[key]),
                None => self.unique && other == item,
            };
            if items.iter().take(n).any(same) {
                causes.push(Cause::duplicate(path));
            }
        }
    }
}

/// As API servers see it, which is less exact than RFC 3339: any sign may stand before a fraction, offsets may be any, and there are no leap seconds.
fn is_date_time(text: &str) -> bool {
    static TIME: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$").ok());
    let text = text.to_lowercase();
    let Some((date, time)) = text.split_once('t') else { return false };
    let is_date = date.len() == 10 && date.as_bytes()[0].is_ascii_digit() && date.parse::<jiff::civil::Date>().is_ok();
    is_date && TIME.as_ref().is_some_and(|format| format.is_match(time))
}

impl Type {
    fn has(self, value: &Value) -> bool {
        match self {
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => value.as_f64().is_some_and(|n| n.fract() == 0.0),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::IntOrString => value.is_string() || Self::Integer.has(value),
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{Body, Kind};
    use super::*;
    use serde_json::json;

    fn wrong(plural: &str, object: Value) -> Vec<String> {
        let kind = Kind::all().into_iter().find(|k| k.plural == plural).unwrap();
        let Body::Custom(schema) = kind.body else { panic!() };
        let mut object = object;
        schema.prune_object(&mut object);
        let mut causes = Vec::new();
        schema.check(&object, "", &mut causes);
        causes.into_iter().map(|c| format!("{} {}", c.field, c.reason)).collect()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let vm = |spec: Value, status: Value| json!({"apiVersion": "defib.dev/v1alpha1", "metadata": {"name": "a"}, "spec": spec, "status": status});
        let good = json!({"proxmox": {"clusterRef": {"name": "pve"}, "vmid": 101}});
        assert!(wrong("managedvms", vm(good.clone(), json!({}))).is_empty());
        assert_eq!(wrong("managedvms", json!({"metadata": {}})), ["spec FieldValueRequired"]);
        let with = |field: &str, value: Value| {
            let mut spec = good.clone();
            spec[field] = value;
            wrong("managedvms", vm(spec, json!({})))
        };
        assert!(with("unknown", json!(1)).is_empty());
        assert!(with("identity", json!(null)).is_empty());
        assert_eq!(with("identity", json!("Sometimes")), ["spec.identity FieldValueNotSupported"]);
        assert_eq!(with("identity", json!(7)), ["spec.identity FieldValueInvalid"]);
        assert_eq!(
            with("agent", json!({"keyGeneration": 0})),
            ["spec.agent.keyGeneration FieldValueInvalid"]
        );
        let pause = |owner: &str| json!({"owner": owner, "reason": "r"});
        assert_eq!(
            with("pauses", json!([pause("a"), pause("b"), pause("a")])),
            ["spec.pauses[2] FieldValueDuplicate"]
        );
        assert_eq!(with("pauses", json!([pause("")])), ["spec.pauses[0].owner FieldValueInvalid"]);
        assert_eq!(
            with("pauses", json!([{"owner": "a"}])),
            ["spec.pauses[0].reason FieldValueRequired"]
        );
    }

    #[test]
    fn what_is_unknown_is_dropped() {
        let kind = Kind::all().into_iter().find(|k| k.plural == "managedvms").unwrap();
        let Body::Custom(schema) = kind.body else { panic!() };
        let mut object = json!({
            "kind": "ManagedVM", "metadata": {"name": "a"}, "extra": 1,
            "spec": {"proxmox": {"vmid": 1, "extra": 1}, "pauses": [{"owner": "a", "extra": 1}], "identity": null},
        });
        schema.prune_object(&mut object);
        let kept = json!({
            "kind": "ManagedVM", "metadata": {"name": "a"},
            "spec": {"proxmox": {"vmid": 1}, "pauses": [{"owner": "a"}]},
        });
        assert_eq!(object, kept);
    }
}
