//! `defib run`: puts the parts together, and takes them down in order.

mod http;

use crate::assembly::{Assembly, Running, Setup};
use crate::clock::Clock;
use crate::config::RunOptions;
use crate::heartbeat::keys;
use crate::metrics::Metrics;
use crate::reconcile::{health_policy, kube_api, proxmox};
use defib_core::fleet::Limits;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use prometheus::Registry;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long reconciles that are under way may take to end when the process is asked to. Longer than the 40 s that Proxmox may take to answer a POST.
const SHUTDOWN: Duration = Duration::from_secs(45);

/// How often it is looked whether reports may be taken: agents that come back while the lease is taken over wait no longer than that.
const SERVING_EVERY: Duration = Duration::from_millis(100);

/// Why the process cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Kubernetes cannot be used.
    #[error("cannot use Kubernetes: {0}; is KUBECONFIG set, or does this pod have a service account?")]
    Kubernetes(Box<kube::Error>),
    /// There are no keys.
    #[error(transparent)]
    Keys(#[from] keys::KeysError),
    /// A port cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A setting is wrong.
    #[error("{0}")]
    Setting(String),
    /// A part that must live ended.
    #[error("{0} ended; this process ends too, to be started anew")]
    Ended(&'static str),
}

/// Runs until SIGTERM or SIGINT.
pub fn main(options: RunOptions) -> ExitCode {
    telemetry(options.log_json);
    raise_file_limit();
    // The process default serves kube and reqwest; all else names its provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("defib: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Takes as many open files as are allowed: the usual soft limit of 1,024 is less than the agents of a large fleet that reconnect at once, and a connection
/// that cannot be accepted counts as a report that was shed.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, soft = limit.current, "cannot raise the limit of open files");
    }
}

fn telemetry(json: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=warn,kube_runtime=warn"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json { logs.json().init() } else { logs.init() }
}

/// Puts the parts together.
///
/// # Errors
/// When a part cannot start, or one that must live ended.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    let me = identity(&options);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        me,
        namespace = options.namespace,
        "defib starts"
    );
    if options.tls_cert_file.is_none() && !options.plain_http {
        return Err(RunError::Setting(
            "--listen needs a certificate (--tls-cert-file, --tls-key-file), or --plain-http said explicitly".into(),
        ));
    }
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    let client = kube_api::client().await.map_err(|e| RunError::Kubernetes(Box::new(e)))?;
    let registry = Registry::new();
    let metrics = Arc::new(Metrics::register(&registry).map_err(|e| RunError::Setting(e.to_string()))?);
    let ring = tokio::select! {
        ring = keys::load(&client, &options.namespace) => Arc::new(ring?),
        () = stop.cancelled() => return Ok(()),
    };
    let (keys_tx, keys) = watch::channel(ring);
    let own_node = Arc::new(OnceLock::new());
    if let Some(name) = options.node_name.clone() {
        tokio::spawn(find_own_node(client.clone(), name, own_node.clone(), stop.clone()));
    }
    for namespace in &options.default_policy_namespaces {
        if let Err(error) = health_policy::create_default(&client, namespace).await {
            tracing::warn!(namespace, %error, "no default HealthPolicy");
        }
    }

    let assembly = Assembly::new(Setup {
        client: client.clone(),
        namespace: options.namespace.clone(),
        me,
        clock: Clock::new(),
        metrics,
        connect: proxmox::connect(),
        own_node,
        limits: Limits {
            max_in_flight: options.max_in_flight,
            max_unhealthy: options.max_unhealthy.clone(),
        },
        observe_only: options.observe_only,
        poll: options.poll(),
        serving_every: SERVING_EVERY,
    });
    let parts = http::start(&options, &assembly, &keys, &registry, &stop).await?;
    let lease_stop = CancellationToken::new();
    tokio::spawn(keys::refresh(client, options.namespace, keys_tx, stop.clone()));
    let Running {
        mut deciding,
        mut witnessing,
    } = assembly.start(&stop, &lease_stop);

    let ended = tokio::select! {
        () = stop.cancelled() => None,
        _ = deciding.join_next() => Some("a controller"),
    };
    stop.cancel();
    tracing::info!("stopping: what is under way ends first");
    if tokio::time::timeout(SHUTDOWN, async { while deciding.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        tracing::warn!("some reconciles did not end in time; their journal tells the next process where they are");
    }
    parts.ended().await;
    // The lease last: as long as anything may be sent, nobody else shall decide.
    lease_stop.cancel();
    while witnessing.join_next().await.is_some() {}
    signals.abort();
    ended.map_or(Ok(()), |part| Err(RunError::Ended(part)))
}

fn identity(options: &RunOptions) -> String {
    let host = || {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .ok()
            .map(|h| h.trim().to_owned())
    };
    // With the namespace: pods of two installations may have one name, and would take each other's journals for their own.
    let pod = || std::env::var("HOSTNAME").ok().or_else(host).unwrap_or_else(|| "defib".into());
    options
        .identity
        .clone()
        .unwrap_or_else(|| format!("{}/{}", options.namespace, pod()))
}

/// How long to wait before our own Node is asked for again.
const NODE_AGAIN: Duration = Duration::from_secs(10);

/// Finds the SMBIOS UUID of the machine on which we run, as the kubelet read it. Without it, rule 2's OwnHost cannot be told: it is asked for until it is known.
async fn find_own_node(client: Client, name: String, found: Arc<OnceLock<Uuid>>, stop: CancellationToken) {
    let nodes: Api<Node> = Api::all(client);
    loop {
        match kube_api::call("read our own Node", nodes.get(&name)).await {
            Ok(node) => match node.status.and_then(|s| s.node_info).and_then(|i| i.system_uuid.parse().ok()) {
                Some(uuid) => {
                    let _ = found.set(uuid);
                    return;
                }
                None => tracing::warn!(node = name, "our own Node tells no systemUUID that can be read"),
            },
            Err(error) => {
                tracing::warn!(node = name, %error, "if this node is a VM of Proxmox, it is not known yet which one");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(NODE_AGAIN) => {}
        }
    }
}

async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("cannot listen for SIGTERM and SIGINT");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    stop.cancel();
}
