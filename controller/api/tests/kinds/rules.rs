//! Every CEL rule of the kinds: something it accepts, something it refuses, and the words it refuses with.
//!
//! `tests/cel/<kind>/<path of the rule in the schema>/` holds manifests: each `accepted*.yaml` must be accepted, each `rejected*.yaml` be refused by a rule of that
//! path. Rules that compare with the object as it was start from `before.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};

use crate::support::{kubectl, namespace, yaml_files};
use crate::with_crds;

struct Rule {
    message: String,
    /// It compares with the object as it was.
    transition: bool,
}

/// The rules in the generated definitions, by `<kind>/<path>`.
fn rules() -> BTreeMap<String, Vec<Rule>> {
    let mut found = BTreeMap::new();
    for crd in defib_api::crds() {
        for version in &crd.spec.versions {
            let root = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
            collect(root, "", &crd.spec.names.kind, &mut found);
        }
    }
    found
}

fn collect(schema: &JSONSchemaProps, path: &str, kind: &str, found: &mut BTreeMap<String, Vec<Rule>>) {
    let key = format!("{kind}/{}", if path.is_empty() { "root" } else { path });
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        let message = rule
            .message
            .clone()
            .unwrap_or_else(|| panic!("the rule {:?} of {key} has no message", rule.rule));
        let transition = rule.rule.contains("oldSelf");
        found.entry(key.clone()).or_default().push(Rule { message, transition });
    }
    for (name, property) in schema.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        collect(property, &path, kind, found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        collect(items, &format!("{path}[]"), kind, found);
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cel")
}

fn cases(key: &str, prefix: &str) -> Vec<PathBuf> {
    let named = |file: &PathBuf| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    yaml_files(&folder().join(key)).into_iter().filter(named).collect()
}

#[test]
fn every_rule_has_its_manifests_and_no_folder_is_without_a_rule() {
    let rules = rules();
    assert!(!rules.is_empty());
    for (key, rules) in &rules {
        assert!(!cases(key, "accepted").is_empty(), "tests/cel/{key}/ has no accepted*.yaml");
        assert!(
            cases(key, "rejected").len() >= rules.len(),
            "tests/cel/{key}/ has fewer rejected*.yaml than rules"
        );
        let transition = rules.iter().any(|r| r.transition);
        assert_eq!(cases(key, "before").len(), usize::from(transition), "tests/cel/{key}/before.yaml");
    }
    let mut folders = BTreeSet::new();
    for kind in std::fs::read_dir(folder()).unwrap().map(Result::unwrap) {
        for path in std::fs::read_dir(kind.path()).unwrap().map(Result::unwrap) {
            folders.insert(format!(
                "{}/{}",
                kind.file_name().to_string_lossy(),
                path.file_name().to_string_lossy()
            ));
        }
    }
    assert_eq!(folders, rules.into_keys().collect());
}

#[test]
fn every_rule_accepts_and_refuses() {
    with_crds();
    for (number, (key, rules)) in rules().into_iter().enumerate() {
        let namespace = namespace(&format!("rule-{number}"));
        let submit = |verb: &str, file: &Path, dry_run: &str| {
            kubectl(&[
                verb,
                "--validate=strict",
                dry_run,
                "--namespace",
                &namespace,
                "--filename",
                &file.to_string_lossy(),
            ])
        };
        let mut verb = "create";
        for before in cases(&key, "before") {
            submit(verb, &before, "--dry-run=none").cleanly();
            verb = "replace";
        }
        for file in cases(&key, "accepted") {
            let said = submit(verb, &file, "--dry-run=server");
            assert!(said.ok && said.err.is_empty(), "{}: {}", file.display(), said.err);
        }
        let mut seen = BTreeSet::new();
        for file in cases(&key, "rejected") {
            let said = submit(verb, &file, "--dry-run=server");
            assert!(!said.ok, "{} is accepted", file.display());
            let by: Vec<_> = rules
                .iter()
                .filter(|rule| said.err.contains(&rule.message))
                .map(|rule| rule.message.clone())
                .collect();
            assert!(!by.is_empty(), "{} is refused by no rule of {key}: {}", file.display(), said.err);
            seen.extend(by);
        }
        for rule in &rules {
            assert!(
                seen.contains(&rule.message),
                "nothing in tests/cel/{key}/ is refused with: {}",
                rule.message
            );
        }
    }
}
