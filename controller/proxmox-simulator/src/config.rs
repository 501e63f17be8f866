//! The configuration file: a cluster, its API tokens and its VMs.

mod timing;
mod vm;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use timing::Timing;
pub use vm::{IoRates, Load, SmbiosUuid, VmConfig};

use crate::text_enum::text_enum;

/// Everything a [`Simulator`](crate::Simulator) is started with.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Name of the cluster, as in `/cluster/status`.
    pub cluster_name: String,
    /// What `GET /version` reports, for example `9.2.11`.
    pub version: String,
    /// Which generation of error texts and bodies is spoken.
    pub dialect: Dialect,
    /// The nodes of the cluster. Three (`pve1` to `pve3`) when not given.
    pub nodes: Vec<NodeConfig>,
    /// API tokens. Without one nothing but 401 is answered.
    pub tokens: Vec<TokenConfig>,
    /// Users that own tokens. A token of a user listed here has at most that user's privileges
    /// (`privsep 1`); a token of an unlisted user has exactly its own.
    pub users: Vec<UserConfig>,
    /// The virtual machines.
    pub vms: Vec<VmConfig>,
    /// Every delay and period, so that tests can shorten them.
    pub timing: Timing,
}

text_enum! {
    /// A generation of Proxmox VE's error answers.
    Dialect {
        /// libpve-http-server-perl 5.2.0 (January 2025) and later: JSON errors carry `message`,
        /// and every authentication failure is `Authentication failed!`.
        Current = "current",
        /// Before: the text is in the status line only, and authentication failures say what was wrong.
        Legacy = "legacy",
    }
}

/// One node of the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// Node name: letters, digits and dashes.
    pub name: String,
    /// TCP port of its API; 0 takes a free one.
    #[serde(default)]
    pub port: u16,
    /// Address to listen on.
    #[serde(default = "loopback")]
    pub address: IpAddr,
}

fn loopback() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

impl NodeConfig {
    /// A node on a free port of 127.0.0.1.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            port: 0,
            address: loopback(),
        }
    }
}

/// Privileges granted per access control path, for example `/vms/101: [VM.Audit]`.
/// An entry at a deeper path replaces what a higher one grants, as in Proxmox VE.
pub type Privileges = BTreeMap<String, BTreeSet<String>>;

/// An API token.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenConfig {
    /// `user@realm!name`.
    pub id: String,
    /// The secret, a UUID in Proxmox VE.
    pub secret: Secret,
    /// What the token may do.
    #[serde(default)]
    pub privs: Privileges,
    /// Seconds since the epoch after which the token is refused; absent or 0 means never.
    #[serde(default)]
    pub expire: i64,
}

/// A user, named to limit its tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserConfig {
    /// `user@realm`.
    pub id: String,
    /// What the user may do.
    #[serde(default)]
    pub privs: Privileges,
}

/// A value that never shows in logs or `Debug` output.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_name: "simulated".to_owned(),
            version: "9.2.11".to_owned(),
            dialect: Dialect::Current,
            nodes: ["pve1", "pve2", "pve3"].into_iter().map(NodeConfig::new).collect(),
            tokens: Vec::new(),
            users: Vec::new(),
            vms: Vec::new(),
            timing: Timing::default(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not valid YAML for this configuration.
    #[error("the configuration is not valid: {0}")]
    Syntax(String),
    /// The values contradict each other.
    #[error("the configuration is not valid: {0}")]
    Invalid(String),
}

impl Config {
    /// Reads and checks a YAML file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_yaml(&text)
    }

    /// Parses and checks YAML text.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types cannot state.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |text: String| Err(ConfigError::Invalid(text));
        if self.nodes.is_empty() {
            return invalid("`nodes` is empty: a cluster needs at least one".to_owned());
        }
        let mut names = BTreeSet::new();
        for node in &self.nodes {
            if !is_node_name(&node.name) {
                return invalid(format!("`{}` is not a node name (letters, digits, dashes)", node.name));
            }
            if !names.insert(node.name.as_str()) {
                return invalid(format!("node `{}` is listed twice", node.name));
            }
        }
        let mut ids = BTreeSet::new();
        for token in &self.tokens {
            if !is_token_id(&token.id) {
                return invalid(format!("token id `{}` is not of the form user@realm!name", token.id));
            }
            if !ids.insert(token.id.as_str()) {
                return invalid(format!("token `{}` is listed twice", token.id));
            }
        }
        let grants = self.tokens.iter().map(|t| &t.privs).chain(self.users.iter().map(|u| &u.privs));
        for path in grants.flat_map(BTreeMap::keys) {
            if !path.starts_with('/') || (path.len() > 1 && path.ends_with('/')) {
                return invalid(format!("access control path `{path}` must start and must not end with `/`"));
            }
        }
        let mut vmids = BTreeSet::new();
        for vm in &self.vms {
            vm.validate().map_err(ConfigError::Invalid)?;
            if !names.contains(vm.node.as_str()) {
                return invalid(format!("VM {} is on node `{}`, which is not in `nodes`", vm.vmid, vm.node));
            }
            if !vmids.insert(vm.vmid) {
                return invalid(format!("VM {} is listed twice", vm.vmid));
            }
        }
        Ok(())
    }
}

/// Whether the text is a node name as Proxmox VE accepts it (`pve-node`).
pub(crate) fn is_node_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !name.is_empty() && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_token_id(id: &str) -> bool {
    let Some((user, name)) = id.split_once('!') else { return false };
    let Some((account, realm)) = user.rsplit_once('@') else {
        return false;
    };
    let plain = |text: &str| !text.is_empty() && !text.contains([':', '/', ' ', '=', '!']);
    plain(account) && plain(realm) && plain(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_three_nodes() {
        let config = Config::from_yaml("{}").unwrap();
        let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["pve1", "pve2", "pve3"]);
    }

    #[test]
    fn a_vm_on_an_unknown_node_is_refused_by_name() {
        let error = Config::from_yaml("vms: [{vmid: 101, node: pve9}]").unwrap_err().to_string();
        assert!(error.contains("VM 101") && error.contains("pve9"), "{error}");
    }

    #[test]
    fn a_misspelled_field_is_refused() {
        assert!(Config::from_yaml("vms: [{vmid: 101, node: pve1, comand: [sh]}]").is_err());
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let yaml = "tokens: [{id: 'a@pve!b', secret: hunter2}]";
        assert!(!format!("{:?}", Config::from_yaml(yaml).unwrap()).contains("hunter2"));
    }

    #[test]
    fn token_ids_need_a_realm_and_a_name() {
        assert!(is_token_id("defib@pve!ctl"));
        for wrong in ["defib!ctl", "defib@pve", "@pve!ctl", "defib@pve!", "de fib@pve!ctl"] {
            assert!(!is_token_id(wrong), "{wrong}");
        }
    }
}
