//! The listener, and the pairing of connections.

use crate::certificate;
use crate::faults::Faults;
use crate::forward::{Forward, forward};
use crate::request::Service;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// For connecting to the server, and for the TLS handshakes. A server on this machine needs milliseconds.
const CONNECT: Duration = Duration::from_secs(10);

/// The server behind a proxy.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// What it is.
    pub service: Service,
    /// Where it listens.
    pub address: SocketAddr,
    /// The authority of its certificate, PEM.
    pub ca_pem: String,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The server cannot be reached by this.
    #[error("not of the form https://ADDRESS:PORT: {0}")]
    Address(String),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// No port.
    #[error("cannot listen on loopback: {0}")]
    Listen(#[from] std::io::Error),
}

/// Proxies before several servers, with the same faults.
pub struct Proxies {
    runtime: Handle,
    faults: Faults,
    running: Vec<Proxy>,
}

impl Proxies {
    /// None so far. They will run on this runtime.
    pub fn new(runtime: Handle, faults: Faults) -> Self {
        Self {
            runtime,
            faults,
            running: Vec::new(),
        }
    }

    /// One before a server, told by its URL and by its authority. Answers the same of the proxy. Not to be called by a task of the runtime.
    ///
    /// # Errors
    /// When the URL is no `https://ADDRESS:PORT`, or the proxy does not start.
    pub fn before(&mut self, service: Service, url: &str, ca_pem: &str) -> Result<(String, String), ProxyError> {
        let address = url.strip_prefix("https://").and_then(|address| address.parse().ok());
        let upstream = Upstream {
            service,
            address: address.ok_or_else(|| ProxyError::Address(url.to_owned()))?,
            ca_pem: ca_pem.to_owned(),
        };
        let proxy = self.runtime.block_on(Proxy::start(upstream, self.faults.clone()))?;
        let reached = (proxy.url(), proxy.ca_pem().to_owned());
        self.running.push(proxy);
        Ok(reached)
    }
}

/// A running proxy. Dropping it closes its port and all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    ca_pem: String,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// When the authority cannot be read, or there is no port.
    pub async fn start(upstream: Upstream, faults: Faults) -> Result<Self, ProxyError> {
        let (acceptor, ca_pem) = certificate::acceptor()?;
        let connector = certificate::connector(&upstream.ca_pem)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let pair = Arc::new(Pair {
            upstream,
            faults,
            acceptor,
            connector,
        });
        let accepting = tokio::spawn(async move {
            // Its end, by the abort of this task, is the end of all connections.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(pair.clone().serve(stream));
            }
        });
        Ok(Self {
            address,
            ca_pem,
            accepting,
        })
    }

    /// Where it listens: `https://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The authority that clients must trust, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Pair {
    upstream: Upstream,
    faults: Faults,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Pair {
    /// Serves a connection until either end closes. The server is connected to first: one that is down refuses the client as if it were asked itself.
    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let opened = async {
            let onward = TcpStream::connect(self.upstream.address).await?;
            onward.set_nodelay(true)?;
            stream.set_nodelay(true)?;
            let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
            // Side by side, so that the server's idle time begins as it does without us.
            tokio::try_join!(self.acceptor.accept(stream), self.connector.connect(name, onward))
        };
        let Ok(Ok((near, far))) = tokio::time::timeout(CONNECT, opened).await else {
            return;
        };
        let Ok((sender, far)) = client::handshake(TokioIo::new(far)).await else {
            return;
        };
        let sender = Mutex::new(sender);
        let way = Forward {
            service: self.upstream.service,
            faults: self.faults.clone(),
            sender: Arc::new(sender),
        };
        let near = server::Builder::new().serve_connection(TokioIo::new(near), service_fn(move |request| forward(way.clone(), request)));
        let mut far = std::pin::pin!(far);
        let mut near = std::pin::pin!(near);
        tokio::select! {
            _ = &mut near => return,
            _ = &mut far => {}
        }
        // The server has closed: what it said still goes to the client, and nothing more is taken from it.
        near.as_mut().graceful_shutdown();
        let _ = near.await;
    }
}
