//! `crds/` and the chart hold what the types say, and the schemas are what API servers and readers expect.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

/// Where the definitions lie: for `kubectl apply`, and for the chart, which cannot read files outside its folder.
const FOLDERS: [&str; 2] = ["crds", "charts/defib/files/crds"];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The files of one folder, by name.
fn generated() -> BTreeMap<String, String> {
    defib_api::crds()
        .iter()
        .map(|crd| (format!("{}.yaml", crd.spec.names.plural), serde_saphyr::to_string(crd).unwrap()))
        .collect()
}

fn stored(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap()))
        .collect()
}

#[test]
fn the_files_are_what_the_types_say() {
    let wanted = generated();
    for name in FOLDERS {
        let folder = checkout().join(name);
        if std::env::var_os("DEFIB_UPDATE").is_some() {
            fs::create_dir_all(&folder).unwrap();
            for gone in stored(&folder).keys().filter(|file| !wanted.contains_key(*file)) {
                fs::remove_file(folder.join(gone)).unwrap();
            }
            for (file, text) in &wanted {
                fs::write(folder.join(file), text).unwrap();
            }
        }
        let stored = stored(&folder);
        let differing: BTreeSet<_> = wanted
            .keys()
            .chain(stored.keys())
            .filter(|file| wanted.get(*file) != stored.get(*file))
            .collect();
        assert!(
            differing.is_empty(),
            "{name}/ differs from the types in {differing:?}. Write it anew: DEFIB_UPDATE=1 cargo test -p defib-api --test crds"
        );
    }
}

#[test]
fn a_definition_survives_yaml() {
    for (file, text) in generated() {
        let read: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(defib_api::crds().contains(&read), "{file}");
    }
}

/// Each schema with its path.
fn walk(schema: &JSONSchemaProps, path: &str, each: &mut dyn FnMut(&str, &JSONSchemaProps)) {
    each(path, schema);
    for (name, property) in schema.properties.iter().flatten() {
        walk(property, &format!("{path}.{name}"), each);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(items, &format!("{path}[]"), each);
    }
}

fn every_schema(mut each: impl FnMut(&str, &JSONSchemaProps)) {
    for crd in defib_api::crds() {
        for version in &crd.spec.versions {
            let root = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
            walk(root, &crd.spec.names.kind, &mut each);
        }
    }
}

#[test]
fn every_field_is_explained() {
    every_schema(|path, schema| {
        let text = schema.description.as_deref().unwrap_or_default();
        // What an entry of a list of texts is, the list says.
        assert!(!text.is_empty() || path.ends_with("[]"), "{path} has no description");
        for line in text.lines().skip(1) {
            assert!(line.starts_with("- "), "{path}: a line begins in a sentence: {line}");
        }
        if path.ends_with("[].status") {
            return; // metav1.Condition
        }
        for value in schema.enum_.iter().flatten() {
            let value = value.0.as_str().unwrap_or_else(|| panic!("{path}: {value:?} is not a string"));
            assert!(
                text.contains(&format!("- {value}: ")),
                "{path} does not explain {value}: mark the enum with #[schemars(transform = crate::schema::variants)]"
            );
        }
    });
}

/// What has no end can fill etcd, and makes rules on it too costly for the API server.
#[test]
fn every_list_and_text_is_bounded() {
    every_schema(|path, schema| match schema.type_.as_deref() {
        Some("array") => assert!(schema.max_items.is_some(), "{path}"),
        Some("string") => {
            let bounded = schema.max_length.is_some() || schema.enum_.is_some() || schema.pattern.is_some() || schema.format.is_some();
            assert!(bounded, "{path}");
        }
        _ => {}
    });
}

/// A default that is written into the stored object would hide the policy for ever.
#[test]
fn nothing_has_a_default_and_nothing_is_null() {
    every_schema(|path, schema| {
        assert_eq!(schema.default, None, "{path}");
        assert_eq!(schema.nullable, None, "{path}");
    });
}

#[test]
fn formats_are_those_that_kubernetes_knows() {
    every_schema(|path, schema| {
        let known = matches!(schema.format.as_deref(), None | Some("int32" | "int64" | "date-time"));
        assert!(known, "{path}: {:?}", schema.format);
        assert_eq!(
            schema.type_.as_deref() == Some("integer"),
            schema.format.as_deref().is_some_and(|f| f.starts_with("int")),
            "{path}"
        );
    });
}
