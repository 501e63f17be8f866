//! Sequences of requests.

use crate::bodies;
use crate::random::Random;
use serde_json::{Value, json};
use std::fmt;

/// The kinds that are played with. Nodes are left out, as admission of a real server adds taints to them, and Events, as it checks more of them than Defib
/// could get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ManagedVm,
    HealthPolicy,
    ProxmoxCluster,
    VmReset,
    Lease,
    Secret,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::ManagedVm,
        Self::HealthPolicy,
        Self::ProxmoxCluster,
        Self::VmReset,
        Self::Lease,
        Self::Secret,
    ];

    pub fn plural(self) -> &'static str {
        match self {
            Self::ManagedVm => "managedvms",
            Self::HealthPolicy => "healthpolicies",
            Self::ProxmoxCluster => "proxmoxclusters",
            Self::VmReset => "vmresets",
            Self::Lease => "leases",
            Self::Secret => "secrets",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ManagedVm => "ManagedVM",
            Self::HealthPolicy => "HealthPolicy",
            Self::ProxmoxCluster => "ProxmoxCluster",
            Self::VmReset => "VMReset",
            Self::Lease => "Lease",
            Self::Secret => "Secret",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::Lease => "coordination.k8s.io/v1",
            Self::Secret => "v1",
            _ => "defib.dev/v1alpha1",
        }
    }

    /// The path before `namespaces/` or the plural.
    pub fn root(self) -> String {
        match self {
            Self::Secret => "/api/v1".into(),
            other => format!("/apis/{}", other.api_version()),
        }
    }

    pub fn is_custom(self) -> bool {
        !matches!(self, Self::Lease | Self::Secret)
    }

    /// A whole object that is accepted.
    pub fn object(self, name: &str) -> Value {
        let mut object = bodies::base(self);
        object["apiVersion"] = json!(self.api_version());
        object["kind"] = json!(self.name());
        object["metadata"] = json!({ "name": name });
        object
    }
}

/// One request, or the few that page through a list.
#[derive(Clone, Debug)]
pub struct Step {
    pub method: &'static str,
    pub kind: Kind,
    /// Empty for the collection.
    pub name: String,
    pub status: bool,
    pub query: String,
    pub body: Body,
    /// Only metadata is asked for.
    pub partial: bool,
    /// In all namespaces.
    pub everywhere: bool,
}

#[derive(Clone, Debug)]
pub enum Body {
    None,
    /// `$version`, `$stale`, `$uid` and `$keeper` stand for what the server in question said before.
    Json(Value),
    /// The object as it is at that time, with this merged in.
    Current(Value),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.kind.plural())?;
        if !self.name.is_empty() {
            write!(f, "/{}", self.name)?;
        }
        if self.status {
            f.write_str("/status")?;
        }
        if !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        if self.everywhere {
            f.write_str(" in all namespaces")?;
        }
        if self.partial {
            f.write_str(" metadata only")?;
        }
        match &self.body {
            Body::None => Ok(()),
            Body::Json(body) => write!(f, " {body}"),
            Body::Current(patch) => write!(f, " (the object as it is, with {patch})"),
        }
    }
}

/// The sequence of a seed.
pub fn sequence(seed: u64, length: usize) -> Vec<Step> {
    let mut random = Random::new(seed);
    let create = |kind: Kind, name| Step {
        body: Body::Json(kind.object(name)),
        ..plain("POST", kind, "")
    };
    let mut steps = vec![create(Kind::Secret, "keeper")];
    // With something there from the beginning, fewer requests find nothing.
    steps.extend(Kind::ALL.map(|kind| create(kind, "a")));
    steps.push(create(Kind::ManagedVm, "b"));
    steps.extend((0..length).map(|_| step(&mut random)));
    steps
}

fn plain(method: &'static str, kind: Kind, name: &str) -> Step {
    Step {
        method,
        kind,
        name: name.into(),
        status: false,
        query: String::new(),
        body: Body::None,
        partial: false,
        everywhere: false,
    }
}

fn step(r: &mut Random) -> Step {
    let kind = if r.percent(50) { Kind::ManagedVm } else { r.pick(&Kind::ALL) };
    let name = r.pick(&["a", "a", "a", "b", "b", "a.c"]);
    let dry_run = if r.percent(4) { "dryRun=All" } else { "" };
    let mut step = match r.below(100) {
        0..20 => create(kind, name, r),
        20..26 => plain("GET", kind, name),
        26..52 => Step {
            body: Body::Json(patch(kind, r)),
            ..plain("PATCH", kind, name)
        },
        52..70 => Step {
            status: kind.is_custom(),
            body: Body::Json(status_patch(kind, r)),
            ..plain("PATCH", kind, name)
        },
        70..78 => Step {
            status: kind.is_custom() && r.percent(30),
            body: Body::Current(patch(kind, r)),
            ..plain("PUT", kind, name)
        },
        78..88 => Step {
            body: Body::Json(delete_options(r)),
            ..plain("DELETE", kind, name)
        },
        _ => list(kind, r),
    };
    step.partial = r.percent(5);
    if matches!(step.method, "POST" | "PUT" | "PATCH") && step.query.is_empty() {
        step.query = dry_run.into();
    }
    step
}

fn create(kind: Kind, name: &str, r: &mut Random) -> Step {
    let mut object = kind.object(name);
    // Most are good.
    if r.percent(45) {
        let patch = match r.below(4) {
            0 => bodies::metadata(r),
            1 => bodies::change(kind, r),
            2 if kind.is_custom() => bodies::status(kind, r),
            _ => r.pick(&[
                json!({"kind": "Other"}),
                json!({"kind": null}),
                json!({"apiVersion": "defib.dev/v1"}),
                json!({"apiVersion": null}),
                json!({"metadata": {"name": null}}),
                json!({"metadata": {"name": "Not_A_Name"}}),
                json!({"metadata": {"name": null, "generateName": "gen-"}}),
                json!({"metadata": {"resourceVersion": "1"}}),
                json!({"metadata": {"finalizers": ["defib.dev/a"], "labels": {"env": "prod"}}}),
                json!({"metadata": {"finalizers": ["no finalizer"]}}),
                json!([]),
            ]),
        };
        merge(&mut object, &patch);
    }
    Step {
        body: Body::Json(object),
        ..plain("POST", kind, "")
    }
}

fn patch(kind: Kind, r: &mut Random) -> Value {
    match r.below(20) {
        0..9 => bodies::change(kind, r),
        9..17 => bodies::metadata(r),
        17 if kind.is_custom() => bodies::status(kind, r),
        18 => r.pick(&[
            json!({}),
            json!({"kind": "Other"}),
            json!({"apiVersion": "defib.dev/v1"}),
            json!([]),
        ]),
        _ => {
            let mut both = bodies::change(kind, r);
            merge(&mut both, &bodies::metadata(r));
            both
        }
    }
}

fn status_patch(kind: Kind, r: &mut Random) -> Value {
    if !kind.is_custom() {
        return patch(kind, r);
    }
    let mut patch = bodies::status(kind, r);
    if r.percent(40) {
        merge(&mut patch, &bodies::metadata(r));
    } else if r.percent(20) {
        merge(&mut patch, &bodies::change(kind, r));
    }
    patch
}

fn delete_options(r: &mut Random) -> Value {
    match r.below(10) {
        0 => json!({"preconditions": {"uid": "$uid"}}),
        1 => json!({"preconditions": {"uid": "11111111-1111-1111-1111-111111111111"}}),
        2 => json!({"preconditions": {"resourceVersion": "$version"}}),
        3 => json!({"preconditions": {"resourceVersion": "$stale"}}),
        4 => json!({"dryRun": ["All"]}),
        5 => json!({"propagationPolicy": "Background"}),
        _ => json!({}),
    }
}

fn list(kind: Kind, r: &mut Random) -> Step {
    let query = r.pick(&[
        "",
        "limit=1",
        "limit=2",
        "fieldSelector=metadata.name%3Da",
        "fieldSelector=metadata.name!%3Da",
        "fieldSelector=status.currentReset.name!%3D",
        "fieldSelector=status.currentReset.name%3Da-1",
        "fieldSelector=spec.node%3Da",
        "fieldSelector=nonsense",
        "labelSelector=env%3Dprod",
        "labelSelector=env%21%3Dprod",
        "labelSelector=env%20in%20(prod,test),tier",
        "labelSelector=!env",
        "labelSelector=env%20or%20tier",
        "limit=1&labelSelector=env",
        "resourceVersionMatch=Exact",
        "continue=nonsense",
        "limit=x",
        "resourceVersion=x",
        "fieldSelector=metadata.namespace%3D$namespace",
    ]);
    Step {
        query: query.into(),
        everywhere: query.contains("$namespace"),
        ..plain("GET", kind, "")
    }
}

/// As RFC 7386 says, but a null stays: it is for the server to interpret.
pub fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(fields), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(fields.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}
