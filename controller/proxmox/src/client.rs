//! The client: what can be read of a Proxmox VE cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::Vmid;
use crate::cluster::{ClusterHaStatus, ClusterRow, ClusterStatus, Node, NodeRow, Permissions, Version};
use crate::config::{Config, ConfigError};
use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::limits::Limits;
use crate::loose::{self, Loose};
use crate::task::{LogRow, PowerAction, TaskEntry, TaskKind, TaskRow, TaskStatus, TaskStatusBody};
use crate::text::clean;
use crate::transport::{LIST_BYTES, Read, STATUS_BYTES, Transport, is_ok};
use crate::upid::Upid;
use crate::vm::{GuestAgent, ResourceRow, VmResource, VmStatus, VmStatusBody};
use crate::vm_config::{VmConfig, VmConfigBody};

/// How much earlier than asked a task may have begun. Covers clocks that are read in whole seconds,
/// and the steps of a clock that is being set right.
const SEARCH_MARGIN: SignedDuration = SignedDuration::from_secs(5);

/// Most tasks a search returns: one VM's tasks of one kind in about a minute are a handful.
const SEARCH_LIMIT: usize = 50;

/// Most lines read of a task's log.
const MAX_LOG_LINES: usize = 500;

/// A client of one Proxmox VE cluster. Clones share connections and limits.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Client {
    /// Checks the configuration; connects to nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong with it.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let tls = config.trust.tls_config()?;
        let limits = Limits::new(config.max_requests_per_node);
        let endpoints = Endpoints::new(config.endpoints);
        let transport = Transport::new(endpoints, limits, config.token, tls.clone())?;
        Ok(Self {
            transport: Arc::new(transport),
            tls: Arc::new(tls),
        })
    }

    /// `GET /version`: what the answering endpoint runs. Needs no privilege, but a valid token.
    pub async fn version(&self) -> Result<Version, Error> {
        self.get(Read::any(["version"])).await
    }

    /// `GET /cluster/resources?type=vm`: the QEMU machines the token may see (VM.Audit; the others
    /// are silently absent), without templates. Cheap: served from the endpoint's memory.
    pub async fn resources(&self) -> Result<Vec<VmResource>, Error> {
        let read = Read::any(["cluster", "resources"]).query("type", "vm").max_bytes(LIST_BYTES);
        let rows: Vec<ResourceRow> = self.get(read).await?;
        Ok(rows.into_iter().filter_map(ResourceRow::into_resource).collect())
    }

    /// `GET /nodes`: the cluster's nodes as the answering endpoint sees them. Needs no privilege.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let rows: Vec<NodeRow> = self.get(Read::any(["nodes"]).max_bytes(LIST_BYTES)).await?;
        Ok(rows.into_iter().filter_map(NodeRow::into_node).collect())
    }

    /// `GET /cluster/status`: quorum, as the answering endpoint sees it. Needs Sys.Audit on `/`,
    /// which a token for Defib need not have: [`Error::Forbidden`] is to be expected.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        let read = Read::any(["cluster", "status"]).max_bytes(LIST_BYTES);
        let rows: Vec<ClusterRow> = self.get(read).await?;
        let status = ClusterStatus::from_rows(rows);
        self.transport.endpoints.learn(&status);
        Ok(status)
    }

    /// `GET /cluster/ha/status/current`: quorum, and the nodes in maintenance. Needs Sys.Audit on `/`, which a token for Defib need not have.
    pub async fn ha_status(&self) -> Result<ClusterHaStatus, Error> {
        let read = Read::any(["cluster", "ha", "status", "current"]).max_bytes(LIST_BYTES);
        Ok(ClusterHaStatus::from_rows(self.get(read).await?))
    }

    /// `GET /access/permissions`: what the token may do. Needs no privilege.
    pub async fn permissions(&self) -> Result<Permissions, Error> {
        let read = Read::any(["access", "permissions"]).max_bytes(LIST_BYTES);
        let body: BTreeMap<String, BTreeMap<String, Loose>> = self.get(read).await?;
        Ok(Permissions::from_body(body))
    }

    /// `GET /nodes/{node}/qemu/{vmid}/status/current`: one VM right now. Needs VM.Audit on it. Takes
    /// up to 5 s, and a third of the node's API, when QEMU's monitor hangs: only for VMs about to be
    /// acted on.
    pub async fn vm_status(&self, node: &str, vmid: Vmid) -> Result<VmStatus, Error> {
        let id = vmid.to_string();
        let read = Read::node(node, ["qemu", &id, "status", "current"])?;
        let body: VmStatusBody = self.get(read.vmid(vmid).max_bytes(STATUS_BYTES)).await?;
        Ok(body.into_status())
    }

    /// `GET /nodes/{node}/qemu/{vmid}/config?current=1`: the configuration the VM runs with. Needs
    /// VM.Audit on it.
    pub async fn vm_config(&self, node: &str, vmid: Vmid) -> Result<VmConfig, Error> {
        let id = vmid.to_string();
        // Without `current` Proxmox answers with what would hold after the next start: but a reset
        // acts on the machine that runs.
        let read = Read::node(node, ["qemu", &id, "config"])?.query("current", 1);
        let body: VmConfigBody = self.get(read.vmid(vmid)).await?;
        Ok(body.into_config())
    }

    /// `GET /nodes/{node}/qemu/{vmid}/agent/get-osinfo`: whether the QEMU guest agent answers, which
    /// only a living guest does; what it answers is of no interest, an error of its own included. Needs
    /// VM.GuestAgent.Audit on the VM (VM.Monitor in Proxmox VE 8). Of a hung guest it takes 3 s, and a
    /// third of the node's API.
    pub async fn guest_agent(&self, node: &str, vmid: Vmid) -> Result<GuestAgent, Error> {
        let id = vmid.to_string();
        let read = Read::node(node, ["qemu", &id, "agent", "get-osinfo"])?;
        match self.get::<IgnoredAny>(read.vmid(vmid)).await {
            Ok(_) => Ok(GuestAgent::Answers),
            Err(Error::Other { status: 500, reason }) => GuestAgent::of_refusal(&reason).ok_or(Error::Other { status: 500, reason }),
            Err(error) => Err(error),
        }
    }

    /// `GET /nodes/{node}/tasks/{upid}/status`, asked of the node the task runs on. Needs no
    /// privilege for the token's own tasks.
    ///
    /// # Errors
    /// [`Error::TaskUnknown`] when the node does not have it, among others.
    pub async fn task_status(&self, upid: &Upid) -> Result<TaskStatus, Error> {
        let read = Read::node(upid.node(), ["tasks", upid.as_str(), "status"])?.upid(upid);
        let path = read.path();
        let body: TaskStatusBody = self.get(read).await?;
        let unknown = || Error::InvalidAnswer {
            path,
            detail: "neither running nor stopped".into(),
        };
        body.into_status().ok_or_else(unknown)
    }

    /// `GET /nodes/{node}/tasks/{upid}/log`: the first lines of a task's log, at most `limit` and
    /// 500, each cut at 512 characters.
    pub async fn task_log(&self, upid: &Upid, limit: usize) -> Result<Vec<String>, Error> {
        let limit = limit.min(MAX_LOG_LINES);
        let read = Read::node(upid.node(), ["tasks", upid.as_str(), "log"])?
            .upid(upid)
            .query("start", 0)
            .query("limit", limit)
            .max_bytes(LIST_BYTES);
        let rows: Vec<LogRow> = self.get(read).await?;
        let lines: Vec<String> = rows.into_iter().take(limit).map(|row| row.t).collect();
        // What Proxmox writes in place of an empty log.
        Ok(if lines == ["no content"] { Vec::new() } else { lines })
    }

    /// Looks for tasks of a power action that this token started: after a request of which it is not known whether it
    /// arrived. `since` is by our own clock; the node's is asked first, and what began up to 5 s
    /// earlier is included. Running and finished tasks, the newest last, at most 50.
    ///
    /// A task of an earlier request may be among them if that was less than a few seconds before
    /// `since`: leave out UPIDs that are known already.
    ///
    /// The node's clock is read exactly with Sys.Audit on the node; otherwise it is taken to be the
    /// answering endpoint's (the `Date` header, which each endpoint sets itself). The nodes of a
    /// cluster then must not be further apart than those 5 s.
    pub async fn search_tasks(&self, node: &str, vmid: Vmid, action: PowerAction, since: Timestamp) -> Result<Vec<TaskEntry>, Error> {
        let out_of_range = |_| Error::InvalidArgument {
            what: "start of a search",
            value: since.to_string(),
        };
        let clock_offset = self.clock_offset(node).await?;
        let since = since
            .checked_add(clock_offset)
            .and_then(|since| since.checked_sub(SEARCH_MARGIN))
            .map_err(out_of_range)?
            .as_second();

        let mut tasks = Vec::new();
        for kind in action.tasks() {
            tasks.extend(self.list_tasks(node, vmid, *kind, since).await?);
        }
        // A task can be in the list twice while it moves from the active ones to the archive.
        tasks.sort_by(|a, b| {
            let key = |task: &TaskEntry| (task.upid.started(), task.upid.clone(), task.status == TaskStatus::Running);
            key(a).cmp(&key(b))
        });
        tasks.dedup_by(|later, earlier| later.upid == earlier.upid);
        Ok(tasks)
    }

    /// Tasks of one kind that this token started since then, by the node's clock.
    async fn list_tasks(&self, node: &str, vmid: Vmid, kind: TaskKind, since: i64) -> Result<Vec<TaskEntry>, Error> {
        let read = Read::node(node, ["tasks"])?
            // By default only finished tasks are listed.
            .query("source", "all")
            .query("vmid", vmid)
            .query("typefilter", kind)
            .query("since", since.max(0))
            .query("limit", SEARCH_LIMIT)
            .max_bytes(LIST_BYTES);
        let rows: Vec<TaskRow> = self.get(read).await?;
        let vmid = vmid.to_string();
        let token = self.transport.token.id();
        // The filters are applied again: with Sys.Audit the list has other users' tasks too.
        let is_ours = |entry: &TaskEntry| {
            let upid = &entry.upid;
            upid.user() == token && upid.id() == vmid && upid.kind() == kind.as_str() && upid.started().as_second() >= since
        };
        let entries = rows.into_iter().filter_map(TaskRow::into_entry);
        Ok(entries.filter(is_ours).take(SEARCH_LIMIT).collect())
    }

    /// How far the node's clock is ahead of ours, at least: rounded down, so that a search begins
    /// rather too early than too late.
    async fn clock_offset(&self, node: &str) -> Result<SignedDuration, Error> {
        #[derive(Deserialize)]
        struct Time {
            #[serde(default, deserialize_with = "loose::number")]
            time: Option<u64>,
        }

        let read = Read::node(node, ["time"])?;
        let answer = self.transport.read(&read).await?;
        let after = Timestamp::now();
        let path = read.path();
        let asked = read.asked(&path);
        // Any answer has a date, also the refusal for want of Sys.Audit.
        let exact = if is_ok(&answer) { answer.data::<Time>(asked)?.time } else { None };
        let exact = exact
            .and_then(|seconds| i64::try_from(seconds).ok())
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        match exact.or(answer.date) {
            Some(time) => Ok(time.duration_since(after)),
            None if is_ok(&answer) => Err(Error::InvalidAnswer {
                path,
                detail: clean("it has neither a time nor a Date header"),
            }),
            None => Err(answer.to_error(asked)),
        }
    }

    async fn get<T: DeserializeOwned>(&self, read: Read<'_>) -> Result<T, Error> {
        let answer = self.transport.read(&read).await?;
        answer.data(read.asked(&read.path()))
    }
}
