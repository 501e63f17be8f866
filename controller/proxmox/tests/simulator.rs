//! Every call of the client against a simulated cluster that behaves like the real one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows test functions, not their helpers")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use defib_proxmox::{
    ApiToken, Client, ClusterHaStatus, Config, Delivery, Error, NodeState, PowerAction, PowerState, RunState, TaskExit, TaskStatus, Trust,
    Upid,
};
use jiff::Timestamp;
use pve_sim::config::{Privileges, Secret, SmbiosUuid, Timing, TokenConfig, VmConfig};
use pve_sim::{Control, Fault, FaultKind, GuestAgent, HaState, Lock, QmpStatus, Quorum, Simulator};
use tempfile::TempDir;

const TOKEN: &str = "svc@pve!ctl";
const AUDITOR: &str = "audit@pve!all";
const SECRET: &str = "5f4dcc3b-5aa7-65d6-1d83-27deb882cf99";
const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    simulator: Simulator,
    client: Client,
    // Removed with everything in it when the test ends.
    _state: TempDir,
}

async fn cluster() -> Cluster {
    cluster_with(|_| {}).await
}

async fn cluster_with(change: impl FnOnce(&mut pve_sim::Config)) -> Cluster {
    let vm = |vmid: u32, node: &str| VmConfig {
        name: Some(format!("web{vmid}")),
        ..VmConfig::new(vmid, node)
    };
    let mut config = pve_sim::Config {
        tokens: vec![
            token(TOKEN, &["VM.Audit", "VM.PowerMgmt"]),
            token(AUDITOR, &["VM.Audit", "VM.PowerMgmt", "Sys.Audit"]),
        ],
        vms: vec![
            VmConfig {
                tags: vec!["a".into(), "b".into()],
                guest_agent: GuestAgent::Running,
                ..vm(100, "pve1")
            },
            vm(101, "pve2"),
            VmConfig {
                running: false,
                ..vm(102, "pve3")
            },
            VmConfig {
                running: false,
                template: true,
                ..vm(9000, "pve1")
            },
        ],
        timing: Timing::fast(),
        ..pve_sim::Config::default()
    };
    change(&mut config);
    let state = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(config, state.path()).await.unwrap();
    let client = client(&simulator, TOKEN, SECRET);
    Cluster {
        simulator,
        client,
        _state: state,
    }
}

fn token(id: &str, privileges: &[&str]) -> TokenConfig {
    let privileges: BTreeSet<String> = privileges.iter().map(ToString::to_string).collect();
    TokenConfig {
        id: id.into(),
        secret: Secret::new(SECRET),
        privs: Privileges::from([("/".to_owned(), privileges)]),
        expire: 0,
    }
}

fn client(simulator: &Simulator, id: &str, secret: &str) -> Client {
    let endpoints = simulator.endpoints().iter().map(|endpoint| endpoint.url.parse().unwrap()).collect();
    let trust = Trust::Ca(simulator.ca_pem().into());
    Client::new(Config::new(endpoints, ApiToken::new(id, secret).unwrap(), trust)).unwrap()
}

impl Cluster {
    async fn reset(&self, node: &str, vmid: u32) -> Result<Upid, Error> {
        self.client
            .open(Some(node))
            .await
            .unwrap()
            .post(PowerAction::Reset, node, vmid)
            .await
    }

    /// Follows a task to its end.
    async fn exit(&self, upid: &Upid) -> TaskExit {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.client.task_status(upid).await.unwrap() {
                TaskStatus::Finished(exit) => return exit,
                TaskStatus::Running => assert!(Instant::now() < deadline, "{upid} still runs"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What a reset of VM 100 ends with.
    async fn reset_exit(&self) -> TaskExit {
        let upid = self.reset("pve1", 100).await.unwrap();
        self.exit(&upid).await
    }

    async fn control(&self, control: Control) {
        self.simulator.control(control).await.unwrap();
    }

    async fn search(&self, since: Timestamp) -> Vec<String> {
        let found = self.client.search_tasks("pve1", 100, PowerAction::Reset, since).await.unwrap();
        found.iter().map(|task| task.upid.to_string()).collect()
    }

    fn boot(&self) -> Option<uuid::Uuid> {
        self.simulator.vm(100).unwrap().boot_id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_the_cluster() {
    let cluster = cluster().await;
    let client = &cluster.client;
    let version = client.version().await.unwrap();
    assert_eq!((version.version.as_str(), version.release.as_str()), ("9.2.11", "9.2"));

    let vms = client.resources().await.unwrap();
    let seen: Vec<_> = vms.iter().map(|vm| (vm.vmid, vm.node.as_str(), vm.status.clone())).collect();
    assert_eq!(
        seen,
        [
            (100, "pve1", RunState::Running),
            (101, "pve2", RunState::Running),
            (102, "pve3", RunState::Stopped)
        ]
    );
    assert_eq!(
        (vms[0].name.as_deref(), vms[0].tags.as_slice()),
        (Some("web100"), &["a".to_owned(), "b".to_owned()][..])
    );
    assert_eq!(vms[0].max_memory, Some(2048 * 1024 * 1024));

    let nodes = client.nodes().await.unwrap();
    for (node, endpoint) in nodes.iter().zip(cluster.simulator.endpoints()) {
        assert_eq!((node.node.as_str(), node.status), (endpoint.node.as_str(), NodeState::Online));
        assert_eq!(node.ssl_fingerprint.unwrap().to_string(), endpoint.fingerprint);
    }
    assert_eq!(nodes.len(), 3);

    let permissions = client.permissions().await.unwrap();
    assert!(permissions.has("/vms/100", "VM.PowerMgmt") && !permissions.has("/vms/100", "VM.Config.Disk"));
    let error = client.cluster_status().await.unwrap_err();
    assert_eq!(
        error,
        Error::Forbidden {
            path: "/".into(),
            privilege: Some("Sys.Audit".into())
        }
    );

    let auditor = self::client(&cluster.simulator, AUDITOR, SECRET);
    let status = auditor.cluster_status().await.unwrap();
    assert!(status.quorate && status.nodes.len() == 3 && status.nodes.iter().all(|node| node.online));
    let error = client.ha_status().await.unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    let ha = async || auditor.ha_status().await.unwrap();
    let told = |quorate, nodes: &[&str]| ClusterHaStatus {
        quorate: Some(quorate),
        in_maintenance: nodes.iter().map(|n| (*n).to_owned()).collect(),
    };
    assert_eq!(ha().await, told(true, &[]));
    let maintenance = |off| Control::NodeMaintenance { node: "pve2".into(), off };
    cluster.control(maintenance(false)).await;
    assert_eq!(ha().await, told(true, &["pve2"]));
    cluster.control(maintenance(true)).await;
    cluster.control(Control::Quorum { state: Quorum::Lost }).await;
    assert_eq!(ha().await, told(false, &[]));
    assert!(!auditor.cluster_status().await.unwrap().quorate);
    assert!(cluster.simulator.audit().is_empty(), "reads are reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_a_vm() {
    let uuid = "6b4e8d2c-1f3a-4c5d-9e7f-0123456789ab".parse().unwrap();
    let cluster = cluster_with(|config| {
        config.vms[0].smbios_uuid = SmbiosUuid::Fixed(uuid);
        config.vms[1].smbios_uuid = SmbiosUuid::Absent;
        config.vms[1].reboot = false;
    })
    .await;
    let client = &cluster.client;
    let status = client.vm_status("pve1", 100).await.unwrap();
    assert_eq!((status.status, status.qmp_status), (PowerState::Running, RunState::Running));
    assert!(status.monitor_answers && status.pid.is_some() && status.agent && !status.ha.managed);
    let stopped = client.vm_status("pve3", 102).await.unwrap();
    assert_eq!(
        (stopped.status, stopped.qmp_status, stopped.pid),
        (PowerState::Stopped, RunState::Stopped, None)
    );

    let config = client.vm_config("pve1", 100).await.unwrap();
    assert_eq!((config.smbios_uuid, config.name.as_deref()), (Some(uuid), Some("web100")));
    assert!(config.reboot && config.agent && config.created.is_some() && config.digest.is_some());
    let other = client.vm_config("pve2", 101).await.unwrap();
    assert!(other.smbios_uuid.is_none() && !other.reboot && !other.agent);

    cluster.simulator.lock(100, Lock::Backup).await.unwrap();
    cluster.simulator.set_ha(100, Some(HaState::Started)).await.unwrap();
    cluster.simulator.monitor_hang(100).await.unwrap();
    let status = client.vm_status("pve1", 100).await.unwrap();
    assert_eq!(
        (status.lock.as_deref(), status.ha.state.as_deref()),
        (Some("backup"), Some("started"))
    );
    assert!(status.ha.managed && !status.monitor_answers);
    assert_eq!(status.qmp_status, RunState::Running);
    assert_eq!(client.vm_config("pve1", 100).await.unwrap().lock.as_deref(), Some("backup"));
    let row = client.resources().await.unwrap().into_iter().find(|vm| vm.vmid == 100).unwrap();
    assert_eq!((row.lock.as_deref(), row.ha_state.as_deref()), (Some("backup"), Some("started")));

    cluster
        .control(Control::Qmp {
            vmid: 101,
            status: QmpStatus::IoError,
        })
        .await;
    assert_eq!(client.vm_status("pve2", 101).await.unwrap().qmp_status, RunState::IoError);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_starts_the_guest_anew() {
    let cluster = cluster().await;
    let before = cluster.client.vm_status("pve1", 100).await.unwrap();
    let boot = cluster.boot();
    let upid = cluster.reset("pve1", 100).await.unwrap();
    assert_eq!(
        (upid.node(), upid.kind(), upid.id(), upid.user()),
        ("pve1", "qmreset", "100", TOKEN)
    );
    assert_eq!(cluster.exit(&upid).await, TaskExit::Ok);
    assert_ne!(cluster.boot(), boot);
    // The same QEMU process: neither its id nor its uptime shows a reset.
    assert_eq!(cluster.client.vm_status("pve1", 100).await.unwrap().pid, before.pid);
    assert_eq!(
        cluster.client.task_log(&upid, 50).await.unwrap().last().map(String::as_str),
        Some("TASK OK")
    );

    let requests = cluster.simulator.audit();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].action.as_str(), requests[0].connection.request), ("reset", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_did_not_execute_needs_a_resume() {
    let cluster = cluster().await;
    cluster
        .control(Control::Qmp {
            vmid: 100,
            status: QmpStatus::Paused,
        })
        .await;
    assert_eq!(cluster.reset_exit().await, TaskExit::Ok);
    assert_eq!(cluster.client.vm_status("pve1", 100).await.unwrap().qmp_status, RunState::Prelaunch);
    let upid = cluster
        .client
        .open(Some("pve1"))
        .await
        .unwrap()
        .post(PowerAction::Resume, "pve1", 100)
        .await
        .unwrap();
    assert_eq!((upid.kind(), cluster.exit(&upid).await), ("qmresume", TaskExit::Ok));
    assert_eq!(cluster.client.vm_status("pve1", 100).await.unwrap().qmp_status, RunState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_reset_are_told_by_its_task() {
    let cluster = cluster().await;
    cluster.simulator.lock(100, Lock::SnapshotDelete).await.unwrap();
    assert_eq!(
        cluster.reset_exit().await,
        TaskExit::Locked {
            kind: "snapshot-delete".into()
        }
    );
    cluster.simulator.unlock(100).await.unwrap();
    cluster.simulator.monitor_hang(100).await.unwrap();
    assert_eq!(cluster.reset_exit().await, TaskExit::QmpUnresponsive);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let cluster = cluster().await;
    let error = cluster.reset("pve3", 102).await.unwrap_err();
    assert_eq!(
        (error, Delivery::Answered),
        (Error::NotRunning { vmid: Some(102) }, Delivery::Answered)
    );

    cluster.simulator.migrate(100, "pve2").await.unwrap();
    assert_eq!(cluster.reset("pve1", 100).await.unwrap_err().reason(), "NotOnNode");
    assert_eq!(cluster.client.vm_status("pve1", 100).await.unwrap_err().reason(), "NotOnNode");
    assert_eq!(cluster.client.vm_config("pve1", 100).await.unwrap_err().reason(), "NotOnNode");
    assert_eq!(cluster.client.vm_status("pve77", 100).await.unwrap_err().reason(), "NotOnNode");
    let row = cluster
        .client
        .resources()
        .await
        .unwrap()
        .into_iter()
        .find(|vm| vm.vmid == 100)
        .unwrap();
    assert_eq!(row.node, "pve2");
    cluster.reset("pve2", 100).await.unwrap();

    let unknown = "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:".parse().unwrap();
    assert_eq!(cluster.client.task_status(&unknown).await.unwrap_err().reason(), "TaskUnknown");

    let stranger = client(&cluster.simulator, TOKEN, "wrong");
    assert_eq!(stranger.version().await.unwrap_err().reason(), "AuthFailed");
    let error = stranger
        .open(None)
        .await
        .unwrap()
        .post(PowerAction::Reset, "pve2", 100)
        .await
        .unwrap_err();
    assert_eq!((error.reason(), error.delivery()), ("AuthFailed", Delivery::Answered));

    let forbidden = cluster_with(|config| config.tokens[0] = token(TOKEN, &["VM.Audit"])).await;
    let error = forbidden.reset("pve1", 100).await.unwrap_err();
    assert_eq!(
        error,
        Error::Forbidden {
            path: "/vms/100".into(),
            privilege: Some("VM.PowerMgmt".into())
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_agent_answers_only_in_a_living_guest() {
    use defib_proxmox::GuestAgent as Asked;
    let cluster = cluster_with(|config| config.tokens[0] = token(TOKEN, &["VM.Audit", "VM.GuestAgent.Audit"])).await;
    let ask = async |node, vmid| cluster.client.guest_agent(node, vmid).await;
    assert_eq!(ask("pve1", 100).await, Ok(Asked::Answers));
    assert_eq!(ask("pve2", 101).await, Ok(Asked::NotConfigured));
    assert_eq!(ask("pve3", 102).await, Err(Error::NotRunning { vmid: Some(102) }));
    assert_eq!(ask("pve2", 100).await.unwrap_err().reason(), "NotOnNode");

    let stopped = Control::GuestAgent {
        vmid: 100,
        state: GuestAgent::Stopped,
    };
    cluster.control(stopped).await;
    assert_eq!(ask("pve1", 100).await, Ok(Asked::Silent), "not installed in the guest");
    let running = Control::GuestAgent {
        vmid: 100,
        state: GuestAgent::Running,
    };
    cluster.control(running).await;
    cluster.simulator.hang(100).await.unwrap();
    assert_eq!(ask("pve1", 100).await, Ok(Asked::Silent), "hung with the guest");

    let without = client(&cluster.simulator, AUDITOR, SECRET);
    let error = without.guest_agent("pve1", 100).await.unwrap_err();
    assert_eq!(error.reason(), "Forbidden", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_dialect_is_understood_too() {
    let cluster = cluster_with(|config| config.dialect = pve_sim::config::Dialect::Legacy).await;
    assert_eq!(cluster.reset("pve3", 102).await.unwrap_err().reason(), "NotRunning");
    assert_eq!(cluster.reset("pve2", 100).await.unwrap_err().reason(), "NotOnNode");
    let stranger = client(&cluster.simulator, TOKEN, "wrong");
    assert_eq!(stranger.version().await.unwrap_err().reason(), "AuthFailed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_whose_answer_is_lost_is_found() {
    let cluster = cluster().await;
    let since = Timestamp::now();
    assert_eq!(cluster.search(since).await, [""; 0]);
    for kind in [FaultKind::DropAfter, FaultKind::StatusAfter(596, "Connection timed out".into())] {
        let known = cluster.search(since).await;
        cluster.simulator.set_fault(Fault::new(kind).method("POST").count(1)).await.unwrap();
        let error = cluster.reset("pve1", 100).await.unwrap_err();
        assert_eq!(error.delivery(), Delivery::Ambiguous, "{error:?}");
        let carried_out = cluster.simulator.audit().pop().unwrap().upid.unwrap();
        let found: Vec<_> = cluster
            .search(since)
            .await
            .into_iter()
            .filter(|upid| !known.contains(upid))
            .collect();
        assert_eq!(found, [carried_out]);
    }
    // Another token's reset is not ours.
    let auditor = client(&cluster.simulator, AUDITOR, SECRET);
    let found = auditor.search_tasks("pve1", 100, PowerAction::Reset, since).await.unwrap();
    assert_eq!(found, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_did_not_arrive_is_not_found() {
    let cluster = cluster().await;
    let (since, boot) = (Timestamp::now(), cluster.boot());
    for (kind, delivery) in [
        (FaultKind::DropBefore, Delivery::Ambiguous),
        (FaultKind::Status(596, "Broken pipe".into()), Delivery::Ambiguous),
        (FaultKind::Status(595, "Connection refused".into()), Delivery::NotDelivered),
    ] {
        cluster.simulator.set_fault(Fault::new(kind).method("POST").count(1)).await.unwrap();
        let error = cluster.reset("pve1", 100).await.unwrap_err();
        assert_eq!(error.delivery(), delivery, "{error:?}");
    }
    assert_eq!(cluster.search(since).await, [""; 0]);
    assert_eq!(cluster.boot(), boot);
    assert_eq!(cluster.simulator.audit().len(), 3, "each was sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_the_server_closed_carries_nothing() {
    let cluster = cluster_with(|config| config.timing.idle_close = Duration::from_millis(100)).await;
    let connection = cluster.client.open(Some("pve1")).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !connection.is_unusable() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = connection.post(PowerAction::Reset, "pve1", 100).await.unwrap_err();
    assert_eq!(error.reason(), "NotDelivered");
    assert!(cluster.simulator.audit().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_takes_only_its_own_vms_away() {
    let cluster = cluster().await;
    cluster.simulator.node_down("pve1").await.unwrap();
    // The first endpoint is gone; the others serve.
    assert_eq!(cluster.client.version().await.unwrap().release, "9.2");
    let nodes = cluster.client.nodes().await.unwrap();
    assert_eq!((nodes[0].status, nodes[1].status), (NodeState::Offline, NodeState::Online));
    assert_eq!(cluster.client.vm_status("pve1", 100).await.unwrap_err().reason(), "NodeUnreachable");
    let error = cluster.reset("pve1", 100).await.unwrap_err();
    assert_eq!((error.reason(), error.delivery()), ("NodeUnreachable", Delivery::NotDelivered));
    let upid = cluster.reset("pve2", 101).await.unwrap();
    assert_eq!(cluster.exit(&upid).await, TaskExit::Ok);

    for node in ["pve2", "pve3"] {
        cluster.simulator.node_down(node).await.unwrap();
    }
    let error = cluster.client.open(Some("pve2")).await.unwrap_err();
    assert_eq!((error.reason(), error.delivery()), ("NotDelivered", Delivery::NotDelivered));
    cluster.simulator.node_up("pve3").await.unwrap();
    cluster.client.version().await.unwrap();
}
