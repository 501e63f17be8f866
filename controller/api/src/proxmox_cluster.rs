//! ProxmoxCluster: where a Proxmox VE cluster is and how to trust it.

use crate::{Condition, NameRef, Pause};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Proxmox VE cluster (or a single node) and the API token that Defib uses there.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "defib.dev",
    version = "v1alpha1",
    kind = "ProxmoxCluster",
    plural = "proxmoxclusters",
    shortname = "pve",
    category = "defib",
    namespaced,
    status = "ProxmoxClusterStatus",
    derive = "PartialEq",
    doc = "A Proxmox VE cluster, how to reach and trust it, and the token to use there.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the API answers"
    ),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(
        name = "VERSION",
        type_ = "string",
        json_path = ".status.version",
        description = "Version of Proxmox VE"
    ),
    printcolumn(name = "QUORATE", type_ = "boolean", json_path = ".status.quorate"),
    printcolumn(name = "NODES", type_ = "integer", json_path = ".status.nodeCount"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ProxmoxClusterSpec {
    /// Base addresses of the cluster's nodes, such as https://pve1:8006. Tried in this order; any node serves the whole cluster.
    #[schemars(length(min = 1, max = 16), inner(length(min = 9, max = 253)))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = Rule::new("self.all(e, isURL(e) && url(e).getScheme() == 'https' && url(e).getHostname() != '')").message("each endpoint must be an https URL such as https://pve1:8006")
    )]
    pub endpoints: Vec<String>,
    /// Secret of this namespace with the keys tokenID (user@realm!name) and secret. It is read again and again, so a rotated token needs no restart.
    pub token_secret_ref: NameRef,
    /// How the certificate of the endpoints is trusted. Exactly one of the three.
    pub tls: Tls,
    /// Most requests under way at one node. A node has only three workers. Built-in: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub max_requests_per_node: Option<u32>,
    /// While any of these stands, no VM of this cluster is reset automatically.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["owner".into()]))]
    pub pauses: Vec<Pause>,
}

/// How the certificate of a Proxmox VE endpoint is trusted: exactly one of the three.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.caSecretRef), has(self.fingerprints), has(self.verify)].filter(x, x).size() == 1").message("exactly one of caSecretRef, fingerprints and verify must be set")
)]
pub struct Tls {
    /// Secret of this namespace whose key ca.crt holds the CA (on a node: /etc/pve/pve-root-ca.pem).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<NameRef>,
    /// SHA-256 fingerprints of the nodes' certificates, as the Proxmox page shows them (AA:BB:...). They change when a certificate is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(regex(pattern = "^([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub fingerprints: Option<Vec<String>>,
    /// Trust without a CA or fingerprints of one's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
}

/// Trust without a CA of one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(transform = crate::schema::variants)]
pub enum Verify {
    /// The CAs of Defib's image: for certificates that come by ACME.
    System,
    /// No check at all. Whoever stands between can read the token and reset VMs. It shows in the condition CertificateVerified.
    None,
}

/// What Defib sees of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxmoxClusterStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Version of Proxmox VE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub version: Option<String>,
    /// Whether the cluster has quorum. Unknown without the privilege Sys.Audit on /.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorate: Option<bool>,
    /// Number of nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_count: Option<u32>,
    /// The nodes and their state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub nodes: Vec<ProxmoxNode>,
    /// Privileges that Defib's token lacks, as path and privilege, such as `/vms: VM.PowerMgmt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub missing_privileges: Vec<String>,
    /// Ready, CertificateVerified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxmoxNode {
    /// Name of the node.
    #[schemars(length(max = 63))]
    pub name: String,
    /// online, offline or unknown, in Proxmox's own words.
    #[schemars(length(max = 32))]
    pub status: String,
}
