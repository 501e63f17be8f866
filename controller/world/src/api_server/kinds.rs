//! The kinds that are served: those of Defib as their definitions say, and the few of Kubernetes that Defib uses.

use super::schema::Schema;
use k8s_openapi::api::{coordination::v1::Lease, core::v1, events::v1 as events};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// One kind.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) kind: String,
    pub(super) namespaced: bool,
    /// Whether `/status` is served.
    pub(super) has_status: bool,
    /// Fields that a field selector may name.
    pub(super) selectable: Vec<String>,
    /// Whether an object may be replaced without saying which version of it.
    pub(super) unconditional_update: bool,
    /// Whether replacing an object that is not there creates it.
    pub(super) create_on_update: bool,
    pub(super) body: Body,
}

/// How what is not metadata is checked.
#[derive(Debug)]
pub(super) enum Body {
    /// A kind that a definition declares.
    Custom(Box<Schema>),
    /// One of Kubernetes' own: what its type does not know is dropped.
    BuiltIn(fn(Value) -> Result<Value, serde_json::Error>),
}

/// Takes an object through its type: unknown fields are dropped.
fn through<T: DeserializeOwned + Serialize>(object: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object)?)
}

impl Kind {
    /// All kinds. A definition that this server cannot read is left out, and then not served.
    pub(super) fn all() -> Vec<Self> {
        let mut all: Vec<Self> = defib_api::crds().iter().filter_map(Self::custom).collect();
        all.push(Self {
            create_on_update: true,
            ..Self::built_in("coordination.k8s.io", "leases", "Lease", through::<Lease>)
        });
        all.push(Self {
            create_on_update: true,
            unconditional_update: true,
            ..Self::built_in("events.k8s.io", "events", "Event", through::<events::Event>)
        });
        let mut secrets = Self::built_in("", "secrets", "Secret", through::<v1::Secret>);
        secrets.unconditional_update = true;
        secrets.selectable.push("type".into());
        all.push(secrets);
        all.push(Self {
            namespaced: false,
            has_status: true,
            unconditional_update: true,
            ..Self::built_in("", "nodes", "Node", through::<v1::Node>)
        });
        all
    }

    fn custom(crd: &CustomResourceDefinition) -> Option<Self> {
        let version = crd.spec.versions.first()?;
        let root = version.schema.as_ref()?.open_api_v3_schema.as_ref()?;
        let declared = version.selectable_fields.iter().flatten();
        let mut selectable = meta_fields();
        selectable.extend(declared.map(|field| field.json_path.trim_start_matches('.').to_owned()));
        Some(Self {
            group: crd.spec.group.clone(),
            version: version.name.clone(),
            plural: crd.spec.names.plural.clone(),
            kind: crd.spec.names.kind.clone(),
            namespaced: crd.spec.scope == "Namespaced",
            has_status: version.subresources.as_ref().is_some_and(|s| s.status.is_some()),
            selectable,
            unconditional_update: false,
            create_on_update: false,
            body: Body::Custom(Box::new(Schema::compile(root).ok()?)),
        })
    }

    fn built_in(group: &str, plural: &str, kind: &str, through: fn(Value) -> Result<Value, serde_json::Error>) -> Self {
        Self {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: kind.into(),
            namespaced: true,
            has_status: false,
            selectable: meta_fields(),
            unconditional_update: false,
            create_on_update: false,
            body: Body::BuiltIn(through),
        }
    }

    /// `apiVersion` of its objects.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// As errors name it: `managedvms.defib.dev`.
    pub(super) fn resource(&self) -> String {
        dotted(&self.plural, &self.group)
    }

    /// As other errors name it: `ManagedVM.defib.dev`.
    pub(super) fn qualified(&self) -> String {
        dotted(&self.kind, &self.group)
    }

    /// How a `Status` says which object it is about.
    pub(super) fn details(&self, name: &str) -> Value {
        let mut details = json!({ "name": name, "kind": self.plural });
        if !self.group.is_empty() {
            details["group"] = json!(self.group);
        }
        details
    }

    pub(super) fn is_custom(&self) -> bool {
        matches!(self.body, Body::Custom(_))
    }
}

fn dotted(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

fn meta_fields() -> Vec<String> {
    vec!["metadata.name".into(), "metadata.namespace".into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_served() {
        let served: Vec<String> = Kind::all().iter().filter(|k| k.is_custom()).map(Kind::resource).collect();
        let defined: Vec<String> = defib_api::crds().into_iter().filter_map(|crd| crd.metadata.name).collect();
        assert_eq!(served, defined);
    }
}
