//! The Helm chart on a real API server: that it is accepted, what it gives and leaves, and that Defib's rights are exactly those it needs.
//!
//! Where Helm or the programs of a control plane are missing, these tests fail and say how to get them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic as tests do")]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use control_plane::tools;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use support::{CRDS, Said, checkout, kubectl, kubectl_with, plane, run_with, wait_established, yaml_files};

/// Helm on the control plane, with folders of its own: not those of whoever runs the tests.
fn helm(args: &[&str]) -> Said {
    static FOLDERS: OnceLock<(PathBuf, tempfile::TempDir)> = OnceLock::new();
    let (helm, folder) = FOLDERS.get_or_init(|| {
        let helm = tools::find_helm().unwrap_or_else(|error| panic!("{error}"));
        (helm.path, tempfile::tempdir().unwrap())
    });
    let mut command = Command::new(helm);
    command.env("KUBECONFIG", plane().kubeconfig());
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, folder.path().join(name));
    }
    run_with(command.args(args), "")
}

fn chart() -> String {
    checkout().join("charts/defib").to_string_lossy().into_owned()
}

/// The values that the chart is tested with, besides its own.
fn values() -> Vec<String> {
    yaml_files(&checkout().join("charts/defib/ci"))
        .into_iter()
        .map(|file| file.to_string_lossy().into_owned())
        .collect()
}

/// Namespaces in which pods must keep to the strictest of the Pod Security Standards.
fn restricted_namespaces(names: &[&str]) {
    for name in names {
        kubectl(&["create", "namespace", name]).cleanly();
        let label = "pod-security.kubernetes.io/warn=restricted";
        kubectl(&["label", "namespace", name, label]).cleanly();
    }
}

fn get(args: &[&str]) -> Value {
    let mut all = vec!["get", "--output=json"];
    all.extend(args);
    serde_json::from_str(&kubectl(&all).cleanly()).unwrap()
}

#[test]
fn lint_finds_nothing() {
    for file in values() {
        let said = helm(&["lint", "--strict", &chart(), "--values", &file]);
        assert!(said.ok, "{file}: {}{}", said.out, said.err);
    }
    let said = helm(&["lint", "--strict", &chart()]);
    assert!(said.ok, "{}{}", said.out, said.err);
}

#[test]
fn wrong_values_are_refused() {
    for (value, named) in [
        ("typo=1", "typo"),
        ("tls.plain=true", "plain"),
        ("safety.maxInFlight=0", "maxInFlight"),
        ("safety.maxUnhealthy=101%", "maxUnhealthy"),
        ("service.type=ExternalName", "type"),
        ("publicURL=defib.example.com", "publicURL"),
        ("proxmoxClusters[0].name=pve", "tokenSecretRef"),
        ("serviceAccount.create=false", "serviceAccount.name is needed"),
    ] {
        let refused = helm(&["template", "defib", &chart(), "--set", value]).refused();
        assert!(refused.contains(named), "{value}: {refused}");
    }
}

#[test]
fn the_public_url_is_given_with_the_authority_that_is_behind_it() {
    let url = "publicURL=https://defib.example.com";
    let cases: [(&[&str], Option<&str>); 6] = [
        (&[], None),
        (&[url], Some("defib-tls")),
        (&[url, "tls.plainHTTP=true"], None),
        (&[url, "tls.secretName=bought"], None),
        (&[url, "tls.plainHTTP=true", "publicCASecretName=ingress-ca"], Some("ingress-ca")),
        (&[url, "publicCASecretName=ingress-ca"], Some("ingress-ca")),
    ];
    for (set, authority) in cases {
        let chart = chart();
        let mut args = vec!["template", "defib", &chart, "--show-only=templates/statefulset.yaml"];
        args.extend(set.iter().flat_map(|value| ["--set", *value]));
        let rendered = helm(&args).cleanly();
        assert_eq!(
            rendered.contains("--public-url=https://defib.example.com"),
            !set.is_empty(),
            "{set:?}"
        );
        let mounted = "name: public-ca\n          secret:\n            secretName: ";
        let secret = rendered.split_once(mounted).and_then(|(_, rest)| rest.lines().next());
        assert_eq!(secret, authority, "{set:?}: {rendered}");
        assert_eq!(
            rendered.contains("--public-ca-file=/etc/defib/public/ca.crt"),
            authority.is_some(),
            "{set:?}"
        );
    }
}

/// The release of the tests, from its installation to its end: one after the other, as the kinds belong to no namespace.
#[test]
fn a_release_from_installation_to_its_end() {
    restricted_namespaces(&["defib-system", "vms"]);
    what_is_rendered_is_accepted();

    let values = &checkout().join("charts/defib/ci/full-values.yaml").to_string_lossy().into_owned();
    let upgrade = || {
        let args = [
            "upgrade",
            "--install",
            "defib",
            &chart(),
            "--namespace=defib-system",
            "--values",
            values,
        ];
        let said = helm(&args);
        assert!(said.ok && !said.err.contains("Warning"), "{}{}", said.out, said.err);
        said.out
    };
    let notes = upgrade();
    assert!(notes.contains("not created yet"), "{notes}");
    wait_established();
    the_kinds_are_those_of_crds(&["mvm"]);
    let authority = get(&["secret", "watchdog-ca", "--namespace=defib-system"])["data"].clone();
    let certificate = || get(&["secret", "watchdog-tls", "--namespace=defib-system"])["data"].clone();
    let first = certificate();

    // The first installation brought the kind; the next one may make objects of it.
    let notes = upgrade();
    assert!(!notes.contains("not created yet"), "{notes}");
    let cluster = get(&["proxmoxcluster", "pve", "--namespace=vms"]);
    assert_eq!(cluster["spec"]["tls"]["caSecretRef"]["name"], "pve-ca");
    assert_eq!(cluster["spec"]["maxRequestsPerNode"], 1);
    assert_eq!(cluster["spec"].get("namespace"), None);
    let clusters = kubectl(&["get", "proxmoxclusters", "--all-namespaces", "--output=name"]).cleanly();
    assert_eq!(clusters.lines().count(), 2, "one has create: false: {clusters}");

    // Agents trust the CA: it stays. The certificate that it signs is another.
    assert_eq!(get(&["secret", "watchdog-ca", "--namespace=defib-system"])["data"], authority);
    assert_eq!(certificate()["ca.crt"], authority["tls.crt"]);
    assert_ne!(certificate()["tls.crt"], first["tls.crt"]);

    rights_are_exactly_those_that_the_code_needs();

    // What people declared stays, and so does the CA.
    let vm = checkout().join("examples/quickstart/3-managedvms.yaml");
    kubectl(&["create", "--namespace=vms", "--filename", &vm.to_string_lossy()]).cleanly();
    let said = helm(&["uninstall", "defib", "--namespace=defib-system"]);
    assert!(said.ok, "{}", said.err);
    let left = kubectl(&["get", "managedvms,proxmoxclusters", "--namespace=vms", "--output=name"]).cleanly();
    assert!(
        left.contains("managedvm.defib.dev/web-1") && left.contains("proxmoxcluster.defib.dev/pve"),
        "{left}"
    );
    assert!(
        kubectl(&["get", "statefulset", "watchdog", "--namespace=defib-system"])
            .refused()
            .contains("NotFound")
    );
    upgrade();
    assert_eq!(get(&["secret", "watchdog-ca", "--namespace=defib-system"])["data"], authority);
}

/// Before anything is installed: what `helm template` prints, with all values, is accepted without a warning.
fn what_is_rendered_is_accepted() {
    // ProxmoxClusters can be checked only where their kind is known.
    let crds = checkout().join("crds").to_string_lossy().into_owned();
    kubectl(&["apply", "--server-side", "--filename", &crds]).cleanly();
    wait_established();
    for file in values().into_iter().map(Some).chain([None]) {
        let chart = chart();
        let mut args = vec![
            "template",
            "defib",
            &chart,
            "--namespace=defib-system",
            "--api-versions=defib.dev/v1alpha1/ProxmoxCluster",
        ];
        if let Some(file) = &file {
            args.extend(["--values", file]);
        }
        let said = helm(&args);
        assert!(said.ok, "{file:?}: {}", said.err);
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "--filename",
            "-",
        ];
        let applied = kubectl_with(&apply, &said.out);
        assert!(applied.ok && applied.err.is_empty(), "{file:?}: {}", applied.err);
        assert!(applied.out.contains("statefulset.apps/"), "{}", applied.out);
    }
    kubectl(&["delete", "--wait", "--filename", &crds]).cleanly();
}

fn the_kinds_are_those_of_crds(managed_vm_short_names: &[&str]) {
    for name in CRDS {
        let stored = get(&["crd", name]);
        assert_eq!(stored["metadata"]["annotations"]["helm.sh/resource-policy"], "keep", "{name}");
        let stored: CustomResourceDefinition = serde_json::from_value(stored).unwrap();
        let mut wanted = defib_api::crds()
            .into_iter()
            .find(|crd| crd.metadata.name.as_deref() == Some(name))
            .unwrap();
        if wanted.spec.names.kind == "ManagedVM" {
            wanted.spec.names.short_names = Some(managed_vm_short_names.iter().map(|&s| s.to_owned()).collect());
        }
        assert_eq!(stored.spec.names.short_names, wanted.spec.names.short_names, "{name}");
        assert!(stored.spec.versions == wanted.spec.versions, "{name} is not what crds/ says");
    }
}

/// What an account may do in a namespace: lines of resource, names and verbs.
fn rights(account: &str, namespace: &str) -> BTreeSet<String> {
    let who = format!("--as=system:serviceaccount:defib-system:{account}");
    let listed = kubectl(&["auth", "can-i", "--list", "--no-headers", &who, "--namespace", namespace]).cleanly();
    let mut all = BTreeSet::new();
    for line in listed.lines() {
        // resources   []   [names]   [verbs]
        let (resource, rest) = line.split_once(char::is_whitespace).unwrap();
        let mut lists: Vec<_> = rest
            .split(['[', ']'])
            .map(|part| part.split_whitespace().collect::<Vec<_>>())
            .filter(|part| !part.is_empty())
            .collect();
        // Which of several rules gave a verb is not told, only their order.
        lists.last_mut().unwrap().sort_unstable();
        let lists: Vec<_> = lists.iter().map(|part| part.join(" ")).collect();
        all.insert(format!("{resource} {}", lists.join(" | ")));
    }
    all
}

/// The list is written by hand, from what the code calls: a right that the chart gives too much shows here as one that it lacks does.
fn rights_are_exactly_those_that_the_code_needs() {
    // What every account of the cluster may do: ask about itself, and see what APIs there are.
    let anybody = rights("nobody", "default");
    let added = |namespace: &str| {
        rights("watchdog-account", namespace)
            .difference(&anybody)
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    let everywhere = [
        "managedvms.defib.dev get list watch",
        "managedvms.defib.dev/status patch",
        "healthpolicies.defib.dev get list watch",
        "healthpolicies.defib.dev/status patch",
        "proxmoxclusters.defib.dev get list watch",
        "proxmoxclusters.defib.dev/status patch",
        "vmresets.defib.dev create delete get list patch watch",
        "vmresets.defib.dev/status patch",
        "events.events.k8s.io create patch",
        "nodes get",
    ];
    let with = |more: &[&str]| everywhere.iter().chain(more).map(|&s| s.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(added("default"), with(&[]));
    let own = [
        "secrets create",
        "secrets defib-keys | get",
        "secrets lab-token | get",
        "leases.coordination.k8s.io create",
        "leases.coordination.k8s.io defib | get update",
    ];
    assert_eq!(added("defib-system"), with(&own));
    let mut vms = with(&["secrets edge-token | get", "secrets pve-ca | get", "secrets pve-token | get"]);
    vms.remove("healthpolicies.defib.dev get list watch");
    vms.insert("healthpolicies.defib.dev create get list watch".into());
    assert_eq!(added("vms"), vms);
}
