//! What is asked of Proxmox VE, as a trait: behind it are the real client, and the simulated Proxmox of the world in virtual time (`controller/world`).

use defib_proxmox::{
    ClusterHaStatus, ClusterStatus, Config, ConfigError, Connection, Error, GuestAgent, Node, Permissions, PowerAction, TaskEntry,
    TaskStatus, Upid, Version, VmConfig, VmResource, VmStatus, Vmid,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::fmt::Debug;
use std::sync::Arc;

/// A question to Proxmox that is under way.
pub type Asked<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A client of one cluster.
pub type Client = Arc<dyn Proxmox>;

/// Makes the client of a cluster; connects to nothing yet.
pub type Connect = Arc<dyn Fn(Config) -> Result<Client, ConfigError> + Send + Sync>;

/// The real client.
pub fn connect() -> Connect {
    Arc::new(|config| Ok(Arc::new(defib_proxmox::Client::new(config)?)))
}

/// Asks for a power action that may be asked for again: a start or a resume, which does nothing to a VM that runs. A reset goes another way, see `managed_vm::attempt`.
///
/// # Errors
/// When Proxmox cannot be reached or refuses; whether it was done may be unknown.
pub async fn ask_for(client: &dyn Proxmox, action: PowerAction, node: &str, vmid: Vmid) -> Result<Upid, Error> {
    client.open(Some(node)).await?.post(action, node, vmid).await
}

/// A Proxmox VE cluster. Each method is that of [`defib_proxmox::Client`] of the same name.
#[expect(missing_docs, reason = "see defib_proxmox::Client")]
pub trait Proxmox: Debug + Send + Sync {
    fn version(&self) -> Asked<'_, Version>;
    fn permissions(&self) -> Asked<'_, Permissions>;
    fn ha_status(&self) -> Asked<'_, ClusterHaStatus>;
    fn cluster_status(&self) -> Asked<'_, ClusterStatus>;
    fn resources(&self) -> Asked<'_, Vec<VmResource>>;
    fn nodes(&self) -> Asked<'_, Vec<Node>>;
    fn vm_status<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, VmStatus>;
    fn vm_config<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, VmConfig>;
    fn guest_agent<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, GuestAgent>;
    fn task_status<'a>(&'a self, upid: &'a Upid) -> Asked<'a, TaskStatus>;
    fn search_tasks<'a>(&'a self, node: &'a str, vmid: Vmid, action: PowerAction, since: Timestamp) -> Asked<'a, Vec<TaskEntry>>;
    fn open<'a>(&'a self, node: Option<&'a str>) -> Asked<'a, Box<dyn PowerConnection>>;
}

/// An open connection for one power action. Each method is that of [`Connection`] of the same name.
#[expect(missing_docs, reason = "see defib_proxmox::Connection")]
pub trait PowerConnection: Send {
    fn post<'a>(self: Box<Self>, action: PowerAction, node: &'a str, vmid: Vmid) -> Asked<'a, Upid>;
}

impl Proxmox for defib_proxmox::Client {
    fn version(&self) -> Asked<'_, Version> {
        self.version().boxed()
    }

    fn permissions(&self) -> Asked<'_, Permissions> {
        self.permissions().boxed()
    }

    fn ha_status(&self) -> Asked<'_, ClusterHaStatus> {
        self.ha_status().boxed()
    }

    fn cluster_status(&self) -> Asked<'_, ClusterStatus> {
        self.cluster_status().boxed()
    }

    fn resources(&self) -> Asked<'_, Vec<VmResource>> {
        self.resources().boxed()
    }

    fn nodes(&self) -> Asked<'_, Vec<Node>> {
        self.nodes().boxed()
    }

    fn vm_status<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, VmStatus> {
        self.vm_status(node, vmid).boxed()
    }

    fn vm_config<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, VmConfig> {
        self.vm_config(node, vmid).boxed()
    }

    fn guest_agent<'a>(&'a self, node: &'a str, vmid: Vmid) -> Asked<'a, GuestAgent> {
        self.guest_agent(node, vmid).boxed()
    }

    fn task_status<'a>(&'a self, upid: &'a Upid) -> Asked<'a, TaskStatus> {
        self.task_status(upid).boxed()
    }

    fn search_tasks<'a>(&'a self, node: &'a str, vmid: Vmid, action: PowerAction, since: Timestamp) -> Asked<'a, Vec<TaskEntry>> {
        self.search_tasks(node, vmid, action, since).boxed()
    }

    fn open<'a>(&'a self, node: Option<&'a str>) -> Asked<'a, Box<dyn PowerConnection>> {
        async move {
            let connection = self.open(node).await?;
            Ok(Box::new(connection) as Box<dyn PowerConnection>)
        }
        .boxed()
    }
}

impl PowerConnection for Connection {
    fn post<'a>(self: Box<Self>, action: PowerAction, node: &'a str, vmid: Vmid) -> Asked<'a, Upid> {
        (*self).post(action, node, vmid).boxed()
    }
}
