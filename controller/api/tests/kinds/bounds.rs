//! The edges of every field of a spec, as `tests/bounds.yaml` wants them: not what the schema says, but what it is meant to say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{kubectl_with, namespace};
use crate::with_crds;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound {
    kinds: Vec<String>,
    path: String,
    #[serde(default)]
    without: Vec<String>,
    #[serde(default)]
    accepted: Vec<Value>,
    rejected: Vec<Value>,
}

fn tests() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let path = tests().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `spec.a[0].b` as a JSON pointer.
fn pointer(path: &str) -> String {
    format!("/{}", path.replace('[', ".").replace(']', "").replace('.', "/"))
}

fn expand(value: &Value) -> Value {
    match (&value["text"], &value["items"]) {
        (Value::Number(n), _) => "x".repeat(usize::try_from(n.as_u64().unwrap()).unwrap()).into(),
        (_, Value::Number(n)) => {
            let like = value["like"].to_string();
            (0..n.as_u64().unwrap())
                .map(|i| serde_json::from_str::<Value>(&like.replace('#', &i.to_string())).unwrap())
                .collect()
        }
        _ => value.clone(),
    }
}

/// Puts a value at a path; `Null` removes what is there.
fn put(object: &mut Value, path: &str, value: Value) {
    let pointer = pointer(path);
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    if object.pointer(parent).is_none() {
        put(object, &parent.trim_start_matches('/').replace('/', "."), json!({}));
    }
    match (object.pointer_mut(parent).unwrap(), value) {
        (Value::Object(fields), Value::Null) => {
            fields.remove(name);
        }
        (Value::Object(fields), value) => {
            fields.insert(name.to_owned(), value);
        }
        (list, value) => {
            let index = name.parse::<usize>().unwrap();
            list[index] = value;
        }
    }
}

struct Case {
    path: String,
    object: Value,
    accepted: bool,
}

fn cases(kind: &str) -> BTreeMap<String, Case> {
    let full: Value = read(&format!("full/{kind}.yaml"));
    let mut cases = BTreeMap::new();
    for bound in read::<Vec<Bound>>("bounds.yaml")
        .iter()
        .filter(|b| b.kinds.iter().any(|k| k == kind))
    {
        let values = bound
            .accepted
            .iter()
            .map(|v| (v, true))
            .chain(bound.rejected.iter().map(|v| (v, false)));
        for (value, accepted) in values {
            let mut object = full.clone();
            for path in &bound.without {
                put(&mut object, path, Value::Null);
            }
            // An entry of a list that the full object does not have.
            if let Some((list, "0]")) = bound.path.rsplit_once('[')
                && object.pointer(&pointer(list)).is_none()
            {
                put(&mut object, list, json!([null]));
            }
            put(&mut object, &bound.path, expand(value));
            let name = format!("case-{}", cases.len());
            put(&mut object, "metadata.name", name.as_str().into());
            cases.insert(
                name,
                Case {
                    path: bound.path.clone(),
                    object,
                    accepted,
                },
            );
        }
    }
    cases
}

/// What kubectl said of each object that it could not create, by name.
fn refusals(said: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut current = String::new();
    for line in said.lines() {
        let named = line.split('"').find(|word| word.starts_with("case-"));
        if let Some(name) = named {
            current = name.to_owned();
        }
        let text = found.entry(current.clone()).or_default();
        text.push_str(line);
        text.push('\n');
    }
    found
}

fn check(kind: &str) {
    with_crds();
    let namespace = namespace(&format!("bounds-{}", kind.to_lowercase()));
    let cases = cases(kind);
    assert!(!cases.is_empty());
    let documents: Vec<_> = cases.values().map(|case| case.object.to_string()).collect();
    let said = kubectl_with(
        &[
            "create",
            "--validate=strict",
            "--dry-run=server",
            "--output=name",
            "--namespace",
            &namespace,
            "--filename",
            "-",
        ],
        &documents.join("\n---\n"),
    );
    let refusals = refusals(&said.err);
    let created: BTreeSet<&str> = said
        .out
        .lines()
        .filter_map(|line| line.split_once('/'))
        .map(|(_, name)| name)
        .collect();
    for (name, case) in &cases {
        let value = case.object.pointer(&pointer(&case.path)).unwrap_or(&Value::Null);
        if case.accepted {
            assert!(
                created.contains(name.as_str()),
                "{kind} with {} = {value}: {:?}\n{}",
                case.path,
                refusals.get(name),
                said.err
            );
        } else {
            assert!(!created.contains(name.as_str()), "{kind} with {} = {value} is accepted", case.path);
            let refusal = refusals
                .get(name)
                .unwrap_or_else(|| panic!("nothing is said of {name}: {}", said.err));
            assert!(
                refusal.contains(&case.path),
                "{kind} with {} = {value} is refused for another reason: {refusal}",
                case.path
            );
        }
    }
}

#[test]
fn managed_vm() {
    check("ManagedVM");
}

#[test]
fn health_policy() {
    check("HealthPolicy");
}

#[test]
fn proxmox_cluster() {
    check("ProxmoxCluster");
}

#[test]
fn vm_reset() {
    check("VMReset");
}

/// A field with an edge that is not in the table could get any other by mistake.
#[test]
fn every_edge_of_a_spec_is_in_the_table() {
    let table: BTreeSet<_> = read::<Vec<Bound>>("bounds.yaml")
        .into_iter()
        .flat_map(|bound| {
            bound
                .kinds
                .into_iter()
                .map(move |kind| format!("{kind} {}", bound.path.replace("[0]", "[]")))
        })
        .collect();
    for crd in defib_api::crds() {
        let version = crd.spec.versions.first().unwrap();
        let root = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        let spec = &root.properties.as_ref().unwrap()["spec"];
        let mut edges = Vec::new();
        edges_of(spec, &format!("{} spec", crd.spec.names.kind), &mut edges);
        for edge in edges {
            assert!(table.contains(&edge), "tests/bounds.yaml has no line for {edge}");
        }
    }
}

fn edges_of(schema: &JSONSchemaProps, path: &str, edges: &mut Vec<String>) {
    let number = schema.minimum.is_some() || schema.maximum.is_some();
    let text = schema.min_length.is_some() || schema.max_length.is_some() || schema.pattern.is_some() || schema.enum_.is_some();
    let list = schema.min_items.is_some() || schema.max_items.is_some();
    if number || text || list || schema.format.as_deref() == Some("date-time") {
        edges.push(path.to_owned());
    }
    for (name, property) in schema.properties.iter().flatten() {
        edges_of(property, &format!("{path}.{name}"), edges);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        edges_of(items, &format!("{path}[]"), edges);
    }
}
