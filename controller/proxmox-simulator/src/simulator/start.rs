//! Starting a simulator.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::Simulator;
use crate::audit::{Audit, GuestEventKind};
use crate::cluster::{Cluster, Node, NodePower};
use crate::config::{Config, ConfigError};
use crate::ctl;
use crate::guest::{GuestSignal, Reaper};
use crate::http::NodeListener;
use crate::tls::{CA_FILE, ClusterCa, TlsError};

/// Signals of guests that may wait to be applied. Senders wait when it is full; none is lost.
const SIGNAL_QUEUE: usize = 256;

/// File that says where the nodes' APIs are. It appears when all of them accept connections.
const ENDPOINTS_FILE: &str = "endpoints.json";

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Certificates cannot be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file or directory of the state directory cannot be used.
    #[error("cannot use {path}: {source}")]
    StateDir {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another simulator uses the state directory.
    #[error("a simulator already runs with the state directory {0}: stop it, or use another directory")]
    InUse(PathBuf),
    /// A port cannot be opened.
    #[error("node {node} cannot listen on {address}: {source}; is the port taken?")]
    Listen {
        /// The node.
        node: String,
        /// Where it should listen.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The helper that cleans up after a kill cannot be started.
    #[error("cannot start /bin/sh, which cleans up if the simulator is killed: {0}")]
    Reaper(io::Error),
}

impl Simulator {
    /// Starts a cluster. When it returns, all nodes accept connections and the VMs configured as
    /// running are booting. Needs a Tokio runtime with time and I/O enabled.
    pub async fn start(config: Config, state_dir: impl AsRef<Path>) -> Result<Self, StartError> {
        config.validate()?;
        let state_dir = absolute(state_dir.as_ref())?;
        let control_socket = ctl::bind(&state_dir).await?;
        remove(&state_dir.join(ENDPOINTS_FILE))?;
        let audit_path = state_dir.join("audit.jsonl");
        let audit = Audit::open(&audit_path).map_err(|source| StartError::StateDir { path: audit_path, source })?;
        let ca = ClusterCa::open(&state_dir)?;
        let reaper = Reaper::start().map_err(StartError::Reaper)?;
        let (nodes, listeners) = open_nodes(&config, &ca)?;
        let (signals, mut received) = mpsc::channel::<GuestSignal>(SIGNAL_QUEUE);
        let cluster = Cluster::new(config, nodes, &state_dir, audit, &reaper, &signals);

        for (listener, socket) in listeners {
            cluster.running.spawn(listener.run(Arc::clone(&cluster), socket));
        }
        let for_signals = Arc::clone(&cluster);
        cluster.running.spawn(async move {
            let apply = async {
                while let Some(signal) = received.recv().await {
                    for_signals.on_guest_signal(&signal);
                }
            };
            for_signals.shutdown.run_until_cancelled(apply).await;
        });
        boot(&cluster);
        let for_stats = Arc::clone(&cluster);
        cluster.running.spawn(async move { for_stats.publish_stats().await });
        cluster.running.spawn(refresh_views(Arc::clone(&cluster)));
        cluster.running.spawn(ctl::serve(Arc::clone(&cluster), control_socket));

        let simulator = Self {
            cluster,
            ca_pem: ca.pem().to_owned(),
            state_dir,
            _reaper: reaper,
        };
        simulator.write_endpoints()?;
        Ok(simulator)
    }

    fn write_endpoints(&self) -> Result<(), StartError> {
        let path = self.state_dir.join(ENDPOINTS_FILE);
        let document = json!({ "ca": self.state_dir.join(CA_FILE), "endpoints": self.endpoints() });
        let temporary = self.state_dir.join("endpoints.json.new");
        // Renamed into place: who waits for the file never reads half of it.
        std::fs::write(&temporary, format!("{document:#}\n"))
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|source| StartError::StateDir { path, source })
    }
}

/// Removes what an earlier simulator left.
fn remove(path: &Path) -> Result<(), StartError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StartError::StateDir {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, StartError> {
    std::fs::create_dir_all(path)
        .and_then(|()| path.canonicalize())
        .map_err(|source| StartError::StateDir {
            path: path.to_owned(),
            source,
        })
}

type Opened = (BTreeMap<String, Node>, Vec<(NodeListener, TcpListener)>);

fn open_nodes(config: &Config, ca: &ClusterCa) -> Result<Opened, StartError> {
    let mut nodes = BTreeMap::new();
    let mut listeners = Vec::new();
    for (id, node) in (1..).zip(&config.nodes) {
        let wanted_address = SocketAddr::new(node.address, node.port);
        let failed = |source| StartError::Listen {
            node: node.name.clone(),
            address: wanted_address,
            source,
        };
        let socket = NodeListener::open(wanted_address).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let tls = ca.node(&node.name, node.address)?;
        let (wanted, wants) = watch::channel(true);
        let (tell, listening) = watch::channel(false);
        let listener = NodeListener {
            node: node.name.as_str().into(),
            address,
            acceptor: tls.acceptor,
            wanted: wants,
            listening: tell,
        };
        listeners.push((listener, socket));
        let entry = Node {
            name: node.name.clone(),
            id,
            address,
            fingerprint: tls.fingerprint,
            power: NodePower::Up,
            booted: Instant::now(),
            maintenance: false,
            wanted,
            listening,
        };
        nodes.insert(node.name.clone(), entry);
    }
    Ok((nodes, listeners))
}

fn boot(cluster: &Cluster) {
    let mut state = cluster.state();
    for vm in state.vms.values_mut().filter(|vm| vm.config.running) {
        let pid = cluster.new_qemu_pid();
        cluster.change_locked(vm, GuestEventKind::PowerOn, "node", |vm| vm.power_on(pid));
    }
    state.publish();
}

/// Keeps the procfs of all guests up to date, until shutdown.
async fn refresh_views(cluster: Arc<Cluster>) {
    // Nobody reads those of guests without a process.
    let views: Vec<_> = {
        let state = cluster.state();
        let read = state.vms.values().filter(|vm| !vm.config.command.is_empty());
        read.map(|vm| vm.guest.shared_view()).collect()
    };
    let mut ticks = tokio::time::interval(cluster.config.timing.guest_view);
    // After a pause of the machine there is nothing to catch up with.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while cluster.shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let views = views.clone();
        let refresh = tokio::task::spawn_blocking(move || {
            for view in views {
                if let Err(error) = view.lock().unwrap_or_else(PoisonError::into_inner).refresh() {
                    tracing::warn!(%error, "cannot refresh a guest's procfs");
                }
            }
        });
        let _ = refresh.await;
    }
}
