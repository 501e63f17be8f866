//! The cluster and its nodes as Proxmox reports them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::loose::{self, Loose};
use crate::text::is_node_name;
use crate::trust::Fingerprint;

/// `GET /version`: what the endpoint runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// Such as `9.2.11`.
    #[serde(default, deserialize_with = "loose::short")]
    pub version: String,
    /// Such as `9.2`.
    #[serde(default, deserialize_with = "loose::short")]
    pub release: String,
    /// The commit it was built from.
    #[serde(default, deserialize_with = "loose::short", rename = "repoid")]
    pub repo_id: String,
}

/// Whether a node is part of the cluster right now, as the answering node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// It is.
    Online,
    /// It is not. A minority without quorum says this of all others.
    Offline,
    /// Proxmox said neither.
    Unknown,
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
        })
    }
}

/// One row of `GET /nodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// Whether it is there.
    pub status: NodeState,
    /// The SHA-256 of its API certificate.
    pub ssl_fingerprint: Option<Fingerprint>,
    /// Seconds since it started; only with Sys.Audit on it.
    pub uptime: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct NodeRow {
    #[serde(default, deserialize_with = "loose::word")]
    node: String,
    #[serde(default, deserialize_with = "loose::word")]
    status: String,
    #[serde(default, deserialize_with = "loose::text")]
    ssl_fingerprint: Option<String>,
    #[serde(default, deserialize_with = "loose::number")]
    uptime: Option<u64>,
}

impl NodeRow {
    pub(crate) fn into_node(self) -> Option<Node> {
        is_node_name(&self.node).then(|| Node {
            status: match self.status.as_str() {
                "online" => NodeState::Online,
                "offline" => NodeState::Offline,
                _ => NodeState::Unknown,
            },
            ssl_fingerprint: self.ssl_fingerprint.and_then(|text| text.parse().ok()),
            uptime: self.uptime,
            node: self.node,
        })
    }
}

/// `GET /cluster/status`, as the answering node sees it. Needs Sys.Audit on `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The cluster's name; absent on a node that is in none.
    pub name: Option<String>,
    /// Whether the answering node is in a majority. A node that is in no cluster always is.
    pub quorate: bool,
    /// Its nodes.
    pub nodes: Vec<ClusterNode>,
}

/// One node of [`ClusterStatus`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// Its address in the cluster's network.
    pub ip: Option<String>,
    /// Whether it is there.
    pub online: bool,
    /// Whether it is the one that answered.
    pub local: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ClusterRow {
    #[serde(default, deserialize_with = "loose::word")]
    r#type: String,
    #[serde(default, deserialize_with = "loose::text")]
    name: Option<String>,
    #[serde(default, deserialize_with = "loose::flag")]
    quorate: bool,
    #[serde(default, deserialize_with = "loose::text")]
    ip: Option<String>,
    #[serde(default, deserialize_with = "loose::flag")]
    online: bool,
    #[serde(default, deserialize_with = "loose::flag")]
    local: bool,
}

impl ClusterStatus {
    pub(crate) fn from_rows(rows: Vec<ClusterRow>) -> Self {
        // Without a cluster row it is a single node, which needs nobody's agreement.
        let mut status = Self {
            name: None,
            quorate: true,
            nodes: Vec::new(),
        };
        for row in rows {
            match (row.r#type.as_str(), row.name) {
                ("cluster", name) => (status.name, status.quorate) = (name, row.quorate),
                ("node", Some(name)) if is_node_name(&name) => {
                    let (ip, online, local) = (row.ip, row.online, row.local);
                    status.nodes.push(ClusterNode { name, ip, online, local });
                }
                _ => {}
            }
        }
        status
    }
}

/// `GET /cluster/ha/status/current`: how Proxmox HA stands. Needs Sys.Audit on `/`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterHaStatus {
    /// Whether the answering node is in a majority; none where it does not say.
    pub quorate: Option<bool>,
    /// Nodes that somebody has put into maintenance mode.
    pub in_maintenance: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HaRow {
    #[serde(default, deserialize_with = "loose::word")]
    r#type: String,
    #[serde(default, deserialize_with = "loose::text")]
    node: Option<String>,
    #[serde(default, deserialize_with = "loose::text")]
    status: Option<String>,
    #[serde(default)]
    quorate: Option<Loose>,
}

impl ClusterHaStatus {
    pub(crate) fn from_rows(rows: Vec<HaRow>) -> Self {
        let mut status = Self::default();
        for row in rows {
            match (row.r#type.as_str(), row.node) {
                ("quorum", _) => status.quorate = row.quorate.map(|q| q.as_bool()),
                // The mode is told in the text alone: `pve1 (maintenance mode, watchdog standby, Thu Nov 26 12:00:00 2026)`.
                ("lrm", Some(node)) if is_node_name(&node) && row.status.is_some_and(|s| s.contains("(maintenance mode")) => {
                    status.in_maintenance.push(node);
                }
                _ => {}
            }
        }
        status
    }
}

/// `GET /access/permissions`: what the token may do, path by path. The value of a privilege says
/// whether it also holds below that path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Permissions(BTreeMap<String, BTreeMap<String, bool>>);

/// By path, and there by privilege: whether it also holds below.
impl FromIterator<(String, BTreeMap<String, bool>)> for Permissions {
    fn from_iter<I: IntoIterator<Item = (String, BTreeMap<String, bool>)>>(listed: I) -> Self {
        Self(listed.into_iter().collect())
    }
}

impl Permissions {
    pub(crate) fn from_body(body: BTreeMap<String, BTreeMap<String, Loose>>) -> Self {
        let privileges =
            |listed: BTreeMap<String, Loose>| listed.into_iter().map(|(name, propagates)| (name, propagates.as_bool())).collect();
        Self(body.into_iter().map(|(path, listed)| (path, privileges(listed))).collect())
    }

    /// Whether the privilege holds on the path, such as `VM.Audit` on `/vms/100`: the nearest listed
    /// path decides, as in Proxmox itself. (A path that Proxmox has rules for but that gives the token
    /// nothing is not listed, and its parent then decides here: the API's own 403 has the last word.)
    pub fn has(&self, path: &str, privilege: &str) -> bool {
        if let Some(listed) = self.0.get(path) {
            return listed.contains_key(privilege);
        }
        let mut path = path;
        while let Some((parent, _)) = path.rsplit_once('/').filter(|_| path != "/") {
            path = if parent.is_empty() { "/" } else { parent };
            if let Some(listed) = self.0.get(path) {
                return listed.get(privilege).copied().unwrap_or_default();
            }
        }
        false
    }

    /// The listed paths with their privileges.
    pub fn iter(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.0
            .iter()
            .map(|(path, listed)| (path.as_str(), listed.keys().map(String::as_str)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_node_is_always_quorate() {
        let parse = |json: &str| ClusterStatus::from_rows(serde_json::from_str(json).unwrap());
        let single = parse(r#"[{"type":"node","id":"node/pve1","name":"pve1","nodeid":0,"ip":"10.0.0.1","local":1,"online":1}]"#);
        assert!(single.quorate && single.name.is_none() && single.nodes[0].local);
        let minority = parse(
            r#"[{"type":"cluster","name":"c1","nodes":3,"quorate":0},
                {"type":"node","name":"pve1","local":1,"online":1},{"type":"node","name":"pve2","local":0,"online":0}]"#,
        );
        assert!(!minority.quorate && minority.nodes[0].online && !minority.nodes[1].online);
        assert!(!parse(r#"[{"type":"cluster","name":"c1"}]"#).quorate);
    }

    #[test]
    fn the_nearest_listed_path_decides_a_permission() {
        let body = r#"{"/":{"Sys.Audit":1},"/vms":{"VM.Audit":"1","VM.PowerMgmt":0},"/vms/100":{"VM.Console":1}}"#;
        let permissions = Permissions::from_body(serde_json::from_str(body).unwrap());
        assert!(permissions.has("/", "Sys.Audit"));
        assert!(permissions.has("/nodes/pve1", "Sys.Audit"));
        assert!(permissions.has("/vms/101", "VM.Audit"));
        assert!(permissions.has("/vms", "VM.PowerMgmt"));
        // Not propagated.
        assert!(!permissions.has("/vms/101", "VM.PowerMgmt"));
        // A nearer path hides the parent.
        assert!(!permissions.has("/vms/100", "VM.Audit"));
        assert!(permissions.has("/vms/100", "VM.Console"));
        assert!(!permissions.has("", "Sys.Audit"));
    }

    #[test]
    fn nodes_are_read_with_and_without_figures() {
        let json = format!(
            r#"[{{"node":"pve1","status":"online","ssl_fingerprint":"{}","uptime":7}},{{"node":"pve2","status":"offline","ssl_fingerprint":"?"}},{{"node":"a/b"}}]"#,
            ["AB"; 32].join(":")
        );
        let rows: Vec<NodeRow> = serde_json::from_str(&json).unwrap();
        let nodes: Vec<Node> = rows.into_iter().filter_map(NodeRow::into_node).collect();
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[0].ssl_fingerprint.unwrap().to_string(), ["AB"; 32].join(":"));
        assert_eq!((nodes[1].status, nodes[1].ssl_fingerprint), (NodeState::Offline, None));
    }

    /// The status of a ProxmoxCluster holds 64 characters of it, and would be refused with more.
    #[test]
    fn a_version_is_cut_to_what_can_be_stored() {
        let version: Version = serde_json::from_str(&format!(r#"{{"version":"{}","release":9.2}}"#, "9".repeat(600))).unwrap();
        assert_eq!((version.version, version.release), ("9".repeat(64), "9.2".to_owned()));
    }
}
