//! The API: a table of methods, and the checks every call goes through.

mod agent;
mod cluster;
mod method;
mod nodes;
mod permissions;
mod power;
mod qemu;
mod schema;
mod status;
mod tasks;

use std::sync::Arc;

use serde_json::Value;

pub(crate) use method::Verb;
use method::{Method, Permission};

use crate::access::{Identity, Rights};
use crate::cluster::{Cluster, NodePower, State};
use crate::http::{ApiError, Data, Parameters};
use crate::vm::Vm;

/// A call on its way to its method.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) cluster: Arc<Cluster>,
    /// Node that received it.
    pub(crate) entry: String,
    /// Node that handles it: the one in the path, if any.
    pub(crate) node: String,
    pub(crate) verb: Verb,
    /// Path after the format, `/nodes/...`.
    pub(crate) path: String,
    pub(crate) identity: Identity,
    /// Parameters of path, query and body.
    pub(crate) params: Parameters,
    /// Number of the call in the audit.
    pub(crate) audited: Option<u64>,
}

/// All methods.
fn methods() -> impl Iterator<Item = &'static Method> {
    [
        cluster::METHODS,
        permissions::METHODS,
        nodes::METHODS,
        qemu::METHODS,
        power::METHODS,
        agent::METHODS,
        tasks::METHODS,
    ]
    .into_iter()
    .flatten()
}

/// Carries a call out. The checks come in the order in which Proxmox VE makes them: route, parameters
/// that contradict the path, token allowed, privilege, proxy to the owning node, schema, handler.
pub(crate) async fn dispatch(mut call: Call) -> Result<Data, ApiError> {
    let segments: Vec<&str> = call.path.split('/').filter(|segment| !segment.is_empty()).collect();
    let found = methods().find_map(|method| Some((method, method.matches(call.verb, &segments)?)));
    let Some((method, in_path)) = found else {
        return Err(ApiError::new(501, format!("Method '{} {}' not implemented", call.verb, call.path)));
    };
    for (name, value) in in_path {
        let before = call.params.insert(name.to_owned(), Value::String(value.clone()));
        if before.is_some_and(|before| schema::plain_text(&before) != value) {
            let text = "duplicate parameter (already defined in URI) with conflicting values!";
            return Err(ApiError::parameter(name, text));
        }
    }
    if !method.allows_tokens {
        // Cut at the line feed in the status line, hence without the closing parenthesis.
        let text = format!("URI '{}' not available with API token, need proper ticket.\n", call.path);
        return Err(ApiError::forbidden(&text));
    }
    call.check(&method.permission)?;
    if method.proxied {
        call.proxy().await?;
    }
    schema::verify(method.parameters, &mut call.params)?;
    let (cluster, audited) = (Arc::clone(&call.cluster), call.audited);
    if let Some(sequence) = audited {
        cluster.audit().note(sequence, |request| request.executed = true);
    }
    (method.handler)(call).await
}

impl Call {
    fn check(&self, permission: &Permission) -> Result<(), ApiError> {
        let Permission::AnyOf(template, privileges) = permission else {
            return Ok(());
        };
        let mut path = (*template).to_owned();
        for (name, value) in &self.params {
            path = path.replace(&format!("{{{name}}}"), &schema::plain_text(value));
        }
        self.require(&path, privileges)
    }

    /// Fails unless the caller has one of the privileges on the path.
    pub(crate) fn require(&self, path: &str, privileges: &[&str]) -> Result<(), ApiError> {
        if self.may(&self.cluster.state(), path, privileges) {
            return Ok(());
        }
        Err(ApiError::forbidden(&format!("{path}, {}", privileges.join("|"))))
    }

    /// Whether the caller has one of the privileges on the path.
    pub(crate) fn may(&self, state: &State, path: &str, privileges: &[&str]) -> bool {
        self.rights().is_some_and(|rights| rights.any(state, path, privileges))
    }

    pub(crate) fn rights(&self) -> Option<Rights<'_>> {
        Rights::of(&self.cluster.config, &self.identity)
    }

    /// Goes to the node in the path, or fails as pveproxy does when it cannot.
    async fn proxy(&mut self) -> Result<(), ApiError> {
        let node = self.params.get("node").map(schema::plain_text).unwrap_or_default();
        if node == "localhost" || node == self.entry {
            return Ok(());
        }
        let Some(power) = self.cluster.state().nodes.get(&node).map(|node| node.power) else {
            let text = format!("hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known");
            return Err(ApiError::died(text));
        };
        match power {
            NodePower::Up => {
                self.node = node;
                Ok(())
            }
            NodePower::Unreachable => Err(ApiError::empty(595, "Connection refused")),
            NodePower::PoweredOff => {
                tokio::time::sleep(self.cluster.config.timing.node_down).await;
                Err(ApiError::empty(595, "No route to host"))
            }
        }
    }

    /// The `vmid` of the path. The schema has made it a number in range.
    pub(crate) fn vmid(&self) -> u32 {
        self.params
            .get("vmid")
            .and_then(Value::as_u64)
            .and_then(|vmid| u32::try_from(vmid).ok())
            .unwrap_or_default()
    }

    /// A text parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.params.get(name)?.as_str()
    }

    /// A number parameter.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.params.get(name)?.as_i64()
    }

    /// A boolean parameter; absent means false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.params.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Looks at the VM of the path, or fails as reading its configuration does.
    pub(crate) fn with_vm<R>(&self, look: impl FnOnce(&mut Vm) -> R) -> Result<R, ApiError> {
        let vmid = self.vmid();
        let mut state = self.cluster.state();
        match state.vms.get_mut(&vmid).filter(|vm| vm.node == self.node) {
            Some(vm) => Ok(look(vm)),
            None => Err(ApiError::died(missing_config(&self.node, vmid))),
        }
    }
}

/// What reading the configuration of a VM that is not on the node fails with.
pub(crate) fn missing_config(node: &str, vmid: u32) -> String {
    format!("Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist")
}
