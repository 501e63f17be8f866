//! The two listeners: 8080 for agents and people, 9090 for metrics and probes; and our own reports to the first.

use super::RunError;
use super::canary::Canary;
use crate::assembly::{Assembly, Keys};
use crate::config::RunOptions;
use crate::heartbeat::receiver::{self, Limits, PATH};
use crate::heartbeat::server::{self, CertificateFiles, ServeOptions, serve};
use crate::heartbeat::serving::Serving;
use crate::reconcile::Context;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use defib_core::observer::Trouble;
use http::{StatusCode, header};
use prometheus::{Encoder, Registry, TextEncoder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The tasks that serve.
pub struct Servers(JoinSet<()>);

impl Servers {
    /// Waits until all have ended.
    pub async fn ended(mut self) {
        while self.0.join_next().await.is_some() {}
    }
}

/// Starts both listeners, the publisher, and our own reports to the first listener.
///
/// # Errors
/// When a port cannot be listened on, or the certificate cannot be used.
pub async fn start(
    options: &RunOptions,
    assembly: &Assembly,
    keys: &Keys,
    registry: &Registry,
    stop: &CancellationToken,
) -> Result<Servers, RunError> {
    let mut servers = JoinSet::new();
    let listener = listen(options.listen)?;
    let metrics_listener = listen(options.metrics_listen)?;
    let Assembly { ctx, serving, .. } = assembly;
    let parts = assembly.receiver(keys.clone());
    let mut serve_options = ServeOptions::new(parts.sink.clone()).at_most(connections(open_files()));
    if serve_options.max_connections < WANTED_CONNECTIONS {
        tracing::warn!(
            connections = serve_options.max_connections,
            "the limit of open files allows fewer connections than {WANTED_CONNECTIONS}; raise it (ulimit -n, LimitNOFILE) for a large fleet"
        );
    }
    let tls = options.tls_cert_file.as_ref().zip(options.tls_key_file.as_ref());
    if let Some((cert, key)) = tls {
        let files = CertificateFiles::load(cert, key)
            .await
            .map_err(|e| RunError::Setting(e.to_string()))?;
        serve_options.tls = Some(files.acceptor().map_err(|e| RunError::Setting(e.to_string()))?);
        servers.spawn(files.follow(stop.clone()));
    }
    let address = listener.local_addr().unwrap_or(options.listen);
    servers.spawn(serve(
        listener,
        receiver::router(parts, Limits::default()).route("/agents/linux.sh", get(linux_agent)),
        serve_options,
        stop.clone(),
    ));

    let probes = Probes {
        ctx: ctx.clone(),
        serving: serving.clone(),
        registry: registry.clone(),
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(probes);
    // A probe that is turned away is no report that was shed. Whoever probes and scrapes needs a handful; strangers must not take our open files here.
    let metrics_options = ServeOptions::new(Arc::new(Unconcerned)).at_most(METRICS_CONNECTIONS);
    servers.spawn(serve(metrics_listener, router, metrics_options, stop.clone()));

    let publisher = assembly.publisher();
    let publisher = if options.lift_publisher_budget {
        tracing::warn!("heartbeats are published without a budget: only for measurements");
        publisher.without_budget()
    } else {
        publisher
    };
    servers.spawn(publisher.run(stop.clone()));

    let url = format!("{}://{}{PATH}", if tls.is_some() { "https" } else { "http" }, reachable(address));
    let canary = Canary::to_listener(url, keys.clone(), serving.clone(), ctx.witness.clone())?;
    servers.spawn(ctx.witness.clone().loopback(move || canary.clone().report(), stop.clone()));
    if let Some(url) = &options.public_url {
        let url = format!("{}{PATH}", url.0);
        let canary = Canary::through(
            url,
            options.public_ca_file.clone(),
            keys.clone(),
            serving.clone(),
            ctx.witness.clone(),
        )?;
        let url = canary.url().to_owned();
        servers.spawn(ctx.witness.clone().public(url, move || canary.clone().report(), stop.clone()));
    }
    tracing::info!(%address, metrics = %options.metrics_listen, tls = tls.is_some(), "listening");
    Ok(Servers(servers))
}

/// Connections of agents and people that the listener takes where the limit of open files lets it: two for each VM of a fleet of 10,000.
const WANTED_CONNECTIONS: usize = 20_000;
/// Connections of the listener for metrics and probes.
const METRICS_CONNECTIONS: usize = 256;
/// Open files that are left for all else: the other listener, Kubernetes, Proxmox, the certificate.
const OTHER_FILES: u64 = 1024;

/// How many files this process may have open; none: as many as it likes.
fn open_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// How many connections that leaves room for. A connection that cannot be accepted for want of a file counts as a report that was shed, and the call to
/// Kubernetes or Proxmox that finds none fails: both would be in the hands of whoever opens connections.
fn connections(open_files: Option<u64>) -> usize {
    let Some(files) = open_files else { return WANTED_CONNECTIONS };
    let left = files.saturating_sub(OTHER_FILES).max(files / 2);
    usize::try_from(left).unwrap_or(usize::MAX).min(WANTED_CONNECTIONS)
}

fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    server::listen(address).map_err(|source| RunError::Listen {
        address: address.to_string(),
        source,
    })
}

/// Where this machine reaches an address that was listened on.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

struct Unconcerned;

impl crate::heartbeat::serving::ServingSink for Unconcerned {
    fn shed(&self, _: &'static str) {}
}

#[derive(Clone)]
struct Probes {
    ctx: Arc<Context>,
    serving: Serving,
    registry: Registry,
}

async fn metrics(State(probes): State<Probes>) -> impl IntoResponse {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&probes.registry.gather(), &mut text) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string().into_bytes(),
        ),
    }
}

/// The agent, for `curl` in the VM: the one that fits this Defib.
async fn linux_agent() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/x-shellscript; charset=utf-8")], LINUX_AGENT)
}

const LINUX_AGENT: &str = include_str!("../../../agents/linux-agent.sh");

/// Alive as long as it answers: a restart cures only what is stuck.
async fn livez() -> &'static str {
    "ok\n"
}

/// Ready when reports are taken.
async fn readyz(State(probes): State<Probes>) -> (StatusCode, String) {
    let trouble = probes.ctx.witness.view().trouble;
    if probes.serving.is_serving() && trouble != Some(Trouble::Loopback) {
        (StatusCode::OK, "ok\n".into())
    } else {
        let why = trouble.map_or("the ManagedVMs are not listed yet".into(), |t| t.message());
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::connections;

    #[test]
    fn connections_leave_files_for_kubernetes_and_proxmox() {
        for (files, expected) in [
            (None, 20_000),
            (Some(1 << 20), 20_000),
            (Some(20_000), 18_976),
            (Some(4_096), 3_072),
            (Some(1_024), 512),
            (Some(0), 0),
        ] {
            assert_eq!(connections(files), expected, "{files:?}");
        }
    }
}
